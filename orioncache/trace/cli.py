"""Record what a boot, or a program, asks of a release, and look at it.

A native mount of a release records when it is told to: --trace=on, or orion.trace=on on a node's kernel
command line. With touch in place of on the kernel asks for each page when it is first touched: nothing is
read ahead then, and the boot is slower. docs/trace.md has the format.

Examples:
  orioncache trace record -o boot.trace
  orioncache trace record /mnt/cached -o ls.trace --while ls -R /mnt/cached/usr
  orioncache trace show boot.trace --limit 100
  orioncache trace stats boot.trace
  orioncache trace merge one.trace two.trace -o both.trace
  orioncache trace export boot.trace --format parquet -o boot.parquet
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orioncache.errors import UserError

if TYPE_CHECKING:
    from orioncache.trace.format import Record, Trace

# The order of orioncache.trace.export.FORMATS, which is not imported for a --help.
FORMATS = ("csv", "parquet", "oracleGeneral")
# Rows that `show` prints unless it is told otherwise.
ROWS = 50
# A file that takes longer than two seconds to read (bytes).
LARGE = 20 << 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the subcommands."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str, *examples: str) -> Any:  # noqa: ANN401
        shown = "\n".join(f"  orioncache trace {name} {example}" for example in examples)
        sub = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.\n\nExamples:\n{shown}",
            formatter_class=parser.formatter_class,
        )
        sub.set_defaults(run=run)
        return sub

    record = add(
        "record",
        run_record,
        "write what a running cache has recorded",
        "-o boot.trace",
        "/mnt/cached -o cc.trace --while make -C /mnt/cached/src",
    )
    record.add_argument("where", nargs="?", metavar="MOUNTPOINT|SOCKET", help="default: the only cache")
    _output(record, "the trace file")
    record.add_argument("--json", action="store_true", help="print the result as JSON")
    record.add_argument(
        "--while",
        dest="command",
        nargs=argparse.REMAINDER,
        metavar="COMMAND",
        help="run it, and write what was asked for meanwhile; must be the last option",
    )
    show = add("show", run_show, "list the requests of a trace", "boot.trace", "boot.trace --limit 0 --json")
    _input(show)
    show.add_argument(
        "--limit",
        type=_limit,
        default=ROWS,
        metavar="N",
        help="the first ones; 0: all (default: %(default)s)",
    )
    show.add_argument("--json", action="store_true", help="one JSON object in a line for each")
    stats = add("stats", run_stats, "say what a trace holds in figures", "boot.trace", "boot.trace --json")
    _input(stats)
    stats.add_argument("--json", action="store_true", help="print all figures as JSON")
    merge = add("merge", run_merge, "join traces of one release", "one.trace two.trace -o both.trace")
    merge.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a trace")
    _output(merge, "the trace file")
    export = add(
        "export",
        run_export,
        "convert a trace for other programs",
        "boot.trace --format csv -o boot.csv",
        "boot.trace --format oracleGeneral -o boot.oracleGeneral",
    )
    _input(export)
    export.add_argument("--format", choices=FORMATS, required=True, help="oracleGeneral is libCacheSim's")
    _output(export, "what to write")


def _input(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="a trace")


def _output(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help=what)


def _limit(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is no number of rows")
    return int(text)


def run_record(args: argparse.Namespace) -> int:
    """`orioncache trace record`."""
    from orioncache.trace import format, recording  # noqa: PLC0415

    _check_output(args.output)
    code = 0
    if args.command is None:
        trace = recording.record(args.where)
    elif args.command:
        trace, code = recording.record_while(args.where, args.command)
    else:
        raise UserError("--while has no command", "orioncache trace record -o FILE --while COMMAND…")
    format.write(trace, args.output)
    if trace.lost:
        print(
            f"orioncache: warning: {trace.lost} requests found no room: see --trace-records of the mount",
            file=sys.stderr,
        )
    _tell(trace, args.output, as_json=args.json)
    return code


def _tell(trace: "Trace", path: Path, *, as_json: bool = False) -> None:
    """What was written, in one line."""
    from orioncache.release.text import size  # noqa: PLC0415

    reads = trace.reads
    facts: dict[str, Any] = {
        "file": str(path),
        "records": len(trace.records),
        "reads": len(reads),
        "bytes": sum(record.length for record in reads),
        "first_touches": trace.first_touches,
        "degraded": trace.degraded,
        "lost": trace.lost,
    }
    if as_json:
        print(json.dumps(facts))
        return
    marks = _marks(facts)
    rest = len(trace.records) - len(reads)
    print(", ".join([f"{path}: {len(reads):,} reads, {size(facts['bytes'])}, {rest:,} lookups", *marks]))


def _marks(facts: dict[str, Any]) -> list[str]:
    """What one should know of a trace before all else."""
    marks = [
        text for key, text in (("first_touches", "first touches"), ("degraded", "degraded")) if facts[key]
    ]
    return [*marks, f"{facts['lost']:,} records lost"] if facts["lost"] else marks


def run_show(args: argparse.Namespace) -> int:
    """`orioncache trace show`."""
    trace = _read(args.file)
    records = trace.records[: args.limit] if args.limit else trace.records
    if args.json:
        for record in records:
            print(json.dumps(_as_dict(trace, record)))
        return 0
    rows = [_as_row(_as_dict(trace, record)) for record in records]
    _print_table(
        ("s", "program", "path", "digest", "offset", "length", "outcome", "wait ms"), rows, right=(0, 4, 5, 7)
    )
    if len(records) < len(trace.records):
        print(f"{len(trace.records) - len(records):,} more: --limit 0 shows all")
    return 0


def _as_dict(trace: "Trace", record: "Record") -> dict[str, Any]:
    from orioncache.trace.format import KINDS, OUTCOMES, READ  # noqa: PLC0415

    blocks = list(trace.parts(record)) if record.kind == READ else []
    digest = trace.digests.get((record.inode, blocks[0].file_block)) if blocks else None
    return {
        "t_s": round(trace.seconds(record), 9),
        "kind": KINDS[record.kind],
        "program": record.comm,
        "pid": record.pid,
        "path": trace.path(record.inode),
        "digest": digest.hex() if digest else None,
        "offset": record.offset,
        "length": record.length,
        "blocks": len(blocks),
        "blocks_missed": record.blocks_missed,
        "outcome": OUTCOMES[record.outcome],
        "wait_ms": record.wait_ns / 1e6,
    }


def _as_row(access: dict[str, Any]) -> tuple[str, ...]:
    start = (f"{access['t_s']:.6f}", _shown(access["program"]), _shown(access["path"]))
    if access["kind"] == "lookup":
        return (*start, "", "", "", "lookup", f"{access['wait_ms']:.3f}")
    more = f" +{access['blocks'] - 1}" if access["blocks"] > 1 else ""
    digest = f"{(access['digest'] or 'hole')[:8]}{more}"
    return (
        *start,
        digest,
        str(access["offset"]),
        str(access["length"]),
        access["outcome"],
        f"{access['wait_ms']:.3f}",
    )


def run_stats(args: argparse.Namespace) -> int:
    """`orioncache trace stats`."""
    from orioncache.release.text import size  # noqa: PLC0415
    from orioncache.trace.figures import figures  # noqa: PLC0415

    found = figures(_read(args.file))
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    marks = _marks(found)
    ratio = "none" if found["hit_ratio"] is None else f"{100 * found['hit_ratio']:.1f}%"
    every, waiting = found["wait_ms"], found["wait_ms_of_waiting"]
    lines = [
        ", ".join(
            [
                f"{_shown(found['release'])} {_shown(found['version'])} ({found['manifest_digest'][:12]})",
                *marks,
            ]
        ),
        f"  requests  {found['reads']:,} reads, {found['lookups']:,} lookups, in {found['seconds']:.3f} s",
        f"  asked     {size(found['bytes'])} of {found['files']:,} files",
        f"  distinct  {found['pages']:,} pages, {size(4096 * found['pages'])}; "
        f"{found['blocks']:,} blocks, {size(found['block_bytes'])}",
        f"  outcome   {found['hit']:,} hits ({ratio}), {found['miss']:,} misses, {found['late']:,} late, "
        f"{found['error']:,} errors",
        f"  wait      all: p50 {every['p50']:.3f} ms, p95 {every['p95']:.3f}, max {every['max']:.3f}, "
        f"sum {every['sum']:.1f}",
        f"            misses and late: p50 {waiting['p50']:.3f} ms, p95 {waiting['p95']:.3f}, "
        f"max {waiting['max']:.3f}, sum {waiting['sum']:.1f}",
        f"  fetched   {_fetched(found['fetched'])}",
        "",
    ]
    print("\n".join(lines))
    for heading, shares in (("program", found["programs"]), ("path", found["paths"])):
        rows = [
            (
                _shown(share[heading]) or "<not known>",
                f"{share['reads']:,}",
                size(share["bytes"]),
                f"{share['waited']:,}",
                f"{share['wait_ms']:.1f}",
            )
            for share in shares
        ]
        _print_table((heading, "reads", "bytes", "not in RAM", "wait ms"), rows, right=(1, 2, 3, 4))
        print()
    return 0


def _fetched(shares: dict[str, dict[str, int]]) -> str:
    from orioncache.release.text import size  # noqa: PLC0415

    parts = [
        f"{reason}: {share['reads']:,} reads, {size(share['bytes'])}"
        for reason, share in shares.items()
        if share["reads"]
    ]
    return "; ".join(parts) or "nothing"


def run_merge(args: argparse.Namespace) -> int:
    """`orioncache trace merge`."""
    from orioncache.trace import format  # noqa: PLC0415
    from orioncache.trace.merging import merge  # noqa: PLC0415

    _check_output(args.output)
    merged = merge([_read(path) for path in args.files], [str(path) for path in args.files])
    format.write(merged, args.output)
    _tell(merged, args.output)
    return 0


def run_export(args: argparse.Namespace) -> int:
    """`orioncache trace export`."""
    from orioncache.atomic import replacing  # noqa: PLC0415
    from orioncache.trace.export import FORMATS as WRITERS  # noqa: PLC0415

    _check_output(args.output)
    trace = _read(args.file)
    with replacing(args.output) as file:
        WRITERS[args.format](trace, file)
    return 0


def _read(path: Path) -> "Trace":
    from orioncache.progress import step  # noqa: PLC0415
    from orioncache.trace import format  # noqa: PLC0415

    size = path.stat().st_size
    if size < LARGE:
        return format.read(path)
    with step(f"reading {path}", f"{size >> 20} MiB"):
        return format.read(path)


def _check_output(path: Path) -> None:
    if not path.parent.is_dir() or path.is_dir():
        raise UserError(f"{path} cannot be written", "name a file in a directory that exists")


def _shown(text: str) -> str:
    """Text that steers no terminal: names come from servers."""
    plain = text.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in plain)


def _print_table(heading: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int]) -> None:
    """A table, with rich where it is installed and the output is a terminal."""
    if not sys.stdout.isatty():
        from orioncache.release.text import table  # noqa: PLC0415

        print(table([tuple(heading), *map(tuple, rows)]))
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    drawn = Table(box=None, pad_edge=False)
    for number, name in enumerate(heading):
        drawn.add_column(name, justify="right" if number in right else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*map(Text, row))
    Console(highlight=False).print(drawn)
