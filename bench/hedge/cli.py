"""Measures hedged reads: what they cost while all servers are well, and what they save when one is late.

The native engine over two servers that are late as they are told (small FUSE file systems), which show one
release in a tmpfs. Its blocks are read one by one, at a steady rate, each of them once, so that each read
is a server's. Three mounts with servers of their own run side by side: all servers well; server 1 giving
some of its reads late, nothing hedged; the same, hedged as by default. What the servers are asked they
count themselves. Needs root rights and /dev/fuse.

Examples:
  orioncache bench hedge                              half a minute
  orioncache bench hedge --rounds 10 --bars --json hedge.json    exit code 1 if a bar is missed
  orioncache bench hedge --late 1 --by 2s             one read in a hundred, two seconds
  orioncache bench hedge --latency 1ms-40ms           servers whose latency differs from read to read
  orioncache bench hedge --spread                     reads go to both servers all the time

Exit code: 0 if it was measured, 1 if it could not be or, with --bars, if a bar is missed.
"""

import argparse
import os
from pathlib import Path

from orioncache.bench.environment import origin
from orioncache.bench.fs.figures import Figure, write
from orioncache.bench.fs.report import table
from orioncache.bench.fs.stage import private_stage
from orioncache.bench.hedge.figures import SCHEMA, Document, figures
from orioncache.bench.hedge.measuring import BLOCK, Reads, Trial, measure_all, release
from orioncache.errors import UserError
from orioncache.options import seconds
from orioncache.progress import step

HELP = "hedged reads alone: what they cost and what they save"

MISSED = 1
# Of the release: the tree, the store, what is cached of both.
COPIES = 4
ROOM = 64 << 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("--bars", action="store_true", help="exit code 1 if a bar is missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every latency and the environment")
    what = parser.add_argument_group("the servers")
    what.add_argument(
        "--late",
        type=_percent,
        default=5,
        metavar="PERCENT",
        help="reads that server 1 is late with (default: %(default)s)",
    )
    what.add_argument(
        "--by", type=_latency, default=0.5, metavar="TIME", help="how much later (default: 500ms)"
    )
    what.add_argument(
        "--latency",
        type=_latencies,
        default=(0.0, 0.0),
        metavar="TIME[-TIME]",
        help="what each read takes on a server that is well (default: no longer than it does)",
    )
    what.add_argument("--spread", action="store_true", help="read from both in turn")
    how = parser.add_argument_group("how much")
    how.add_argument(
        "--rounds", type=_count, default=2, metavar="N", help="of all three mounts (default: %(default)s)"
    )
    how.add_argument(
        "--reads", type=_count, default=1500, metavar="N", help="in each round (default: %(default)s)"
    )
    how.add_argument(
        "--rate", type=_count, default=150, metavar="N", help="reads a second (default: %(default)s)"
    )
    parser.set_defaults(run=run)


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"'{text}' is no number from 1 to 100,000")
    return int(text)


def _percent(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number from 1 to 100")
    return int(text)


def _latency(text: str) -> float:
    try:
        value = seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not 0.001 <= value <= 60:
        raise argparse.ArgumentTypeError(f"'{text}' is out of range: 1ms to 60s")
    return value


def _latencies(text: str) -> tuple[float, float]:
    least, _, most = text.partition("-")
    found = _latency(least), _latency(most or least)
    if found[0] > found[1]:
        raise argparse.ArgumentTypeError(f"'{text}': the second is the longer one")
    return found


def run(args: argparse.Namespace) -> int:
    """Measures, prints the table, and judges."""
    if os.geteuid() != 0:
        raise UserError("the bench mounts file systems", "run it as root (sudo)")
    if not Path("/dev/fuse").exists():
        raise UserError("there is no /dev/fuse", "modprobe fuse; in a container, pass the device in")
    if args.json is not None and (not args.json.parent.is_dir() or args.json.is_dir()):
        raise UserError(f"{args.json} cannot be written", "name a file in a directory that exists")
    how = Reads(args.reads, args.rate, args.late, args.by, args.latency, args.spread)
    trials: list[Trial] = []
    with private_stage(COPIES * how.reads * BLOCK + ROOM) as stage:
        path = release(stage, how)
        with step("measuring", f"{args.rounds} rounds", total=args.rounds) as progress:
            for turn in range(args.rounds):
                progress.update(turn, f"{how.reads} reads at {how.rate} a second")
                trials += measure_all(stage, path, how, turn)
    found: list[Figure] = figures(trials)
    table(found)
    if args.json is not None:
        write(Document(SCHEMA, {**origin(), "sizes": vars(how)}, found, trials), args.json)
    return MISSED if args.bars and any(figure.met is False for figure in found) else 0
