"""Learn from recorded boots what nodes of a role read, and see how good that is.

A profile is made of traces (orioncache trace record): which pages boots touch, when, and in how many of the
boots. A release that is built with it has a bundle, which nodes stream while they boot. Nodes can send their
traces by themselves (orion.upload=), and `serve` makes bundles of them. docs/profiles.md tells the rest.

Examples:
  orioncache profile build boot1.trace boot2.trace -o kiosk.profile --role kiosk
  orioncache profile show kiosk.profile
  orioncache profile diff kiosk.profile boot3.trace
  orioncache release build /srv/root /srv/store --name debian --profile kiosk.profile
  orioncache profile serve /srv/store --listen 10.0.0.1:8465
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orioncache.errors import UserError
from orioncache.release.text import size, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orioncache.profile.diff import Difference
    from orioncache.profile.format import Profile, Run

STEPS = 20  # rows of a time line
NAMED = 10  # files
LISTEN = ":8465"
KEEP_MOST = 100


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the subcommands."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, run: Any, text: str, more: str, *examples: str) -> argparse.ArgumentParser:  # noqa: ANN401
        epilog = "Examples:\n" + "\n".join(f"  orioncache profile {example}" for example in examples)
        sub = commands.add_parser(
            name, help=text, description=more, epilog=epilog, formatter_class=parser.formatter_class
        )
        sub.set_defaults(run=run)
        sub.add_argument("--json", action="store_true", help="print the result as JSON")
        return sub

    build = add(
        "build",
        run_build,
        "learn a profile from traces",
        "Learns a profile from traces of whole boots. Traces of boots where a server failed, or that lack\n"
        "records, are refused. Several boots tell habits from accidents; best are traces of first touches.",
        "build boot.trace -o default.profile",
        "build boot*.trace --role kiosk -o kiosk.profile",
    )
    build.add_argument("traces", nargs="+", type=Path, metavar="TRACE", help="what orioncache trace wrote")
    _output(build)

    show = add(
        "show",
        run_show,
        "show what is in a profile",
        "Shows what is in a profile: how much, over time, and in which files.",
        "show kiosk.profile",
        "show kiosk.profile --json",
    )
    show.add_argument("profile", type=Path, metavar="PROFILE", help="a profile")

    diff = add(
        "diff",
        run_diff,
        "hold a profile against a boot",
        "Holds A, a profile or a release's bundle, against B, the trace of a boot or another profile:\n"
        "recall is the part of B's bytes that A has, waste the part of A's that B has not.",
        "diff kiosk.profile boot3.trace",
        "diff kiosk.profile boot3.trace --min-recall 97 --max-waste 10",
        "diff /srv/store/releases/debian/12.8/bundles/kiosk.bundle boot3.trace --json",
    )
    diff.add_argument("one", type=Path, metavar="A", help="a profile or bundle")
    diff.add_argument("other", type=Path, metavar="B", help="a trace, profile or bundle")
    share_argument(diff)
    diff.add_argument(
        "--min-recall", type=_percent, metavar="PERCENT", help="exit with 1 if the recall is below"
    )
    diff.add_argument(
        "--max-waste", type=_percent, metavar="PERCENT", help="exit with 1 if the waste is above"
    )

    merge = add(
        "merge",
        run_merge,
        "make one profile of several",
        "Makes one profile of several: boots add up, and the time of a page is the median.",
        "merge monday.profile tuesday.profile -o kiosk.profile",
        "merge old.profile new.profile --carry -o kiosk.profile",
    )
    merge.add_argument("profiles", nargs="+", type=Path, metavar="PROFILE", help="a profile")
    _output(merge)

    serve = add(
        "serve",
        run_serve,
        "take traces from nodes and make bundles of them",
        "Takes what nodes with orion.upload=http://ADDRESS:PORT/ send of boots without a bundle, keeps the\n"
        "last ones of each release and role in the store, and writes the bundle of what most of them read\n"
        "into the release. Runs until Ctrl-C. Nobody is asked who he is: listen where only nodes are.",
        "serve /srv/store --listen 10.0.0.1:8465",
        "serve /srv/store --role kiosk --role lobby --keep 10",
        "serve /srv/store --key release",
    )
    serve.add_argument("store", type=Path, metavar="STORE", help="the store of the releases that nodes boot")
    serve.add_argument(
        "--listen",
        default=LISTEN,
        metavar="ADDRESS:PORT",
        help="where (default: %(default)s, on all addresses)",
    )
    serve.add_argument(
        "--keep",
        type=_keep,
        default=5,
        metavar="N",
        help="boots of each release and role (default: %(default)s)",
    )
    serve.add_argument(
        "--role", action="append", default=[], metavar="ROLE", help="take only this role; may be given again"
    )
    share_argument(serve)
    serve.add_argument(
        "--key", type=Path, metavar="FILE", help="the secret key that signs bundles of signed releases"
    )
    serve.add_argument("--once", action="store_true", help="end when something was learned")


def share_argument(parser: argparse.ArgumentParser) -> None:
    """Declares ``--share``, as a part of 1."""
    parser.add_argument(
        "--share",
        type=_percent,
        default=0.5,
        metavar="PERCENT",
        help="leave out pages that fewer of the profile's boots touched (default: 50)",
    )


def role_argument(parser: argparse.ArgumentParser, default: str) -> None:
    """Declares ``--role``."""
    parser.add_argument("--role", metavar="ROLE", help=f"which nodes it is for (default: {default})")


def _output(parser: argparse.ArgumentParser) -> None:
    role_argument(parser, "default; of merged profiles the first one's")
    parser.add_argument(
        "--output", "-o", type=Path, required=True, metavar="FILE", help="the profile to write"
    )
    parser.add_argument(
        "--carry",
        action="store_true",
        help="take what is of other releases, too; the last one's is the result's",
    )


def _percent(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is no number") from None
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError("0 to 100")
    return value / 100


def _keep(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= KEEP_MOST:
        raise argparse.ArgumentTypeError(f"1 to {KEEP_MOST}")
    return int(text)


def run_build(args: argparse.Namespace) -> int:
    """`orioncache profile build`."""
    from orioncache.profile.build import build  # noqa: PLC0415
    from orioncache.release.bundle import DEFAULT_ROLE, check_role  # noqa: PLC0415
    from orioncache.trace.format import read  # noqa: PLC0415

    role = check_role(args.role or DEFAULT_ROLE)
    traces = [(path, read(path)) for path in args.traces]
    profile = build(traces, role, carry=args.carry)
    for path, trace in traces:
        if not trace.first_touches:
            _warn(f"{path} has what the kernel read ahead as well, which nobody may have wanted")
    return _save(profile, args)


def run_merge(args: argparse.Namespace) -> int:
    """`orioncache profile merge`."""
    from orioncache.profile.format import read  # noqa: PLC0415
    from orioncache.profile.merge import merge  # noqa: PLC0415
    from orioncache.release.bundle import check_role  # noqa: PLC0415

    role = None if args.role is None else check_role(args.role)
    return _save(merge([read(path) for path in args.profiles], role, carry=args.carry), args)


def _save(profile: "Profile", args: argparse.Namespace) -> int:
    from orioncache.profile.format import write  # noqa: PLC0415

    if not args.output.parent.is_dir() or args.output.is_dir():
        raise UserError(f"{args.output} cannot be written", "name a file in a directory that exists")
    write(profile, args.output)
    if args.json:
        print(json.dumps(_facts(profile) | {"path": str(args.output)}))
    else:
        print(f"{args.output}: {_summary(profile)}")
    return 0


def run_show(args: argparse.Namespace) -> int:
    """`orioncache profile show`."""
    from orioncache.profile.format import read  # noqa: PLC0415

    profile = read(args.profile)
    if args.json:
        runs = [{name: getattr(run, name) for name in run.__struct_fields__} for run in profile.runs]
        print(json.dumps(_facts(profile) | {"runs": runs}))
        return 0
    print(f"{args.profile}: {_summary(profile)}")
    often = {
        count: sum(run.length for run in profile.runs if run.boots == count) for count in _counts(profile)
    }
    print("in boots  " + ", ".join(f"{count}: {size(total)}" for count, total in often.items()))
    print()
    print(table([("ms", "bytes", "so far", "files", ""), *_time_line(profile.runs)]))
    print()
    totals: dict[str, int] = {}
    for run in profile.runs:
        totals[run.path] = totals.get(run.path, 0) + run.length
    most = sorted(totals.items(), key=lambda item: -item[1])
    print(table([("bytes", "file"), *((size(total), path) for path, total in most[:NAMED])]))
    if len(most) > NAMED:
        print(f"… and {len(most) - NAMED:,} files more")
    return 0


def _counts(profile: "Profile") -> list[int]:
    return sorted({run.boots for run in profile.runs}, reverse=True)


def _time_line(runs: "Sequence[Run]") -> list[tuple[str, ...]]:
    """Rows of what is touched first in each twentieth of the time."""
    step = max(run.t_ms for run in runs) / STEPS or 1.0
    parts: list[list[Run]] = [[] for _ in range(STEPS)]
    for run in runs:
        parts[min(STEPS - 1, int(run.t_ms / step))].append(run)
    totals = [sum(run.length for run in part) for part in parts]
    rows: list[tuple[str, ...]] = []
    so_far = 0
    for number, (part, total) in enumerate(zip(parts, totals, strict=True)):
        so_far += total
        bar = "▇" * round(40 * total / max(totals))
        files = len({run.path for run in part})
        rows.append((f"{number * step:,.0f}", size(total), size(so_far), f"{files:,}", bar))
    return rows


def _facts(profile: "Profile") -> dict[str, Any]:
    return {
        "role": profile.role,
        "release": profile.release,
        "release_version": profile.release_version,
        "manifest": profile.manifest,
        "digest": profile.digest,
        "block_size": profile.block_size,
        "boots": profile.boots,
        "run_count": len(profile.runs),
        "files": len({run.path for run in profile.runs}),
        "bytes": profile.bytes,
        "habit_bytes": sum(run.length for run in profile.habits()),
        "last_ms": profile.runs[-1].t_ms,
    }


def _summary(profile: "Profile") -> str:
    files = len({run.path for run in profile.runs})
    boots = f"{profile.boots:,} boot{'s' * (profile.boots != 1)}"
    return (
        f"role {profile.role}, {profile.release} {profile.release_version}, {boots}, "
        f"{size(profile.bytes)} in {len(profile.runs):,} runs of {files:,} files, "
        f"{profile.runs[-1].t_ms:,.0f} ms"
    )


def run_diff(args: argparse.Namespace) -> int:
    """`orioncache profile diff`."""
    from orioncache.profile.diff import diff, load  # noqa: PLC0415

    found = diff(load(args.one, args.share), load(args.other, args.share))
    failed = []
    if args.min_recall is not None and found.recall < args.min_recall:
        failed.append(f"the recall is below {100 * args.min_recall:g}%")
    if args.max_waste is not None and found.waste > args.max_waste:
        failed.append(f"the waste is above {100 * args.max_waste:g}%")
    if args.json:
        facts = {
            "recall": round(found.recall, 6),
            "precision": round(found.precision, 6),
            "waste": round(found.waste, 6),
            "had_bytes": found.had,
            "wanted_bytes": found.wanted,
            "hit_bytes": found.hit,
            "same_release": found.same_release,
            "missed": dict(found.missed),
            "wasted": dict(found.wasted),
            "failed": failed,
        }
        print(json.dumps(facts))
    else:
        _print_difference(found)
        for each in failed:
            print(f"FAILED: {each}")
    return 1 if failed else 0


def _print_difference(found: "Difference") -> None:
    print(
        f"recall  {100 * found.recall:6.2f}%  {size(found.hit)} of the {size(found.wanted)} that were wanted"
    )
    print(f"waste   {100 * found.waste:6.2f}%  {size(found.had - found.hit)} of the {size(found.had)} in it")
    if not found.same_release:
        print("The two are of different releases: contents are compared.")
    for title, files in (("missed", found.missed), ("wasted", found.wasted)):
        if files:
            print()
            print(table([(title, "file"), *((size(count), path) for path, count in files[:NAMED])]))
            if len(files) > NAMED:
                print(f"… and {len(files) - NAMED:,} files more")


def run_serve(args: argparse.Namespace) -> int:
    """`orioncache profile serve`."""
    from orioncache.profile import receiving  # noqa: PLC0415
    from orioncache.profile.inbox import Group, Inbox  # noqa: PLC0415
    from orioncache.profile.learning import learn  # noqa: PLC0415
    from orioncache.release.bundle import check_role  # noqa: PLC0415
    from orioncache.release.sign import read_key  # noqa: PLC0415
    from orioncache.release.store import Store  # noqa: PLC0415

    try:
        host, port = receiving.place(args.listen)
    except ValueError as error:
        raise UserError(str(error), "as in --listen 10.0.0.1:8465") from None
    secret = None if args.key is None else read_key(args.key, "secret")
    inbox = Inbox(Store(args.store), keep=args.keep, roles=[check_role(role) for role in args.role])

    def work(group: Group) -> str:
        return learn(inbox, group, secret=secret, share=args.share)

    tell = receiving.tell_as_json if args.json else receiving.tell_as_text
    receiving.serve(receiving.Receiver(inbox, work, tell, once=args.once), host, port)
    return 0


def _warn(text: str) -> None:
    print(f"orioncache: warning: {text}", file=sys.stderr)
