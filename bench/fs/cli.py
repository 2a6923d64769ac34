"""Measures the file system on this machine, side by side with what it is held against. No boot.

The native engine against a minimal C server on libfuse and against the Python engine, over one release of one
tree; what a warm tree costs below an overlay; how fast releases are built. All stands in a tmpfs in a mount
namespace of its own, so nothing is left behind. Subjects take turns every few milliseconds, so that what else
the machine does falls on all alike; a ratio is that of the medians. Needs root rights and /dev/fuse.

Examples:
  orioncache bench fs                                 all of it, about 2 minutes
  orioncache bench fs --only lookup,read,pages        some of it
  orioncache bench fs --only pages --rounds 200       narrower
  orioncache bench fs --bars --json fs.json           exit code 1 if a bar is missed, all samples kept
  orioncache bench fs --files 2000 --big 8M --rebuild-files 5000 --inodes 50000    quick and rough

Exit code: 0 if it was measured, 1 if it could not be or, with --bars, if a bar is missed.
"""

import argparse
import os
from pathlib import Path

from orioncache.bench.environment import origin
from orioncache.bench.fs.cells import CELLS, choose, measure
from orioncache.bench.fs.figures import SCHEMA, Document, Figure, write
from orioncache.bench.fs.report import table
from orioncache.bench.fs.scene import Scene, Sizes
from orioncache.bench.fs.stage import private_stage
from orioncache.errors import UserError
from orioncache.options import size
from orioncache.progress import step

HELP = "the file system alone, against a minimal C server; builds of releases"

MISSED = 1


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.epilog = "measurements:\n" + "\n".join(f"  {name:10} {cell.help}" for name, cell in CELLS.items())
    parser.add_argument(
        "--only", metavar="NAME,…", default="", help="of the measurements below (default: all)"
    )
    parser.add_argument("--bars", action="store_true", help="exit code 1 if a bar is missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every raw sample and the environment")
    how = parser.add_argument_group("how much")
    how.add_argument(
        "--files", type=_count, default=6000, metavar="N", help="small files (default: %(default)s)"
    )
    how.add_argument(
        "--rounds",
        type=_count,
        default=40,
        metavar="N",
        help="turns of each subject, if there are files enough (default: %(default)s)",
    )
    how.add_argument(
        "--big",
        type=_bytes,
        default="128M",
        metavar="SIZE",
        help="a file that is read sequentially (default: %(default)s)",
    )
    how.add_argument(
        "--build-files",
        type=_count,
        default=40_000,
        metavar="N",
        help="small files in the tree that is built against xxh128sum (default: %(default)s)",
    )
    how.add_argument(
        "--rebuild-files",
        type=_count,
        default=100_000,
        metavar="N",
        help="files that are built again unchanged (default: %(default)s)",
    )
    how.add_argument(
        "--inodes",
        type=_count,
        default=1_000_000,
        metavar="N",
        help="of the large manifest (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 10_000_000:
        raise argparse.ArgumentTypeError(f"'{text}' is no number from 1 to 10,000,000")
    return int(text)


def _bytes(text: str) -> int:
    try:
        value = size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not 1 << 20 <= value <= 1 << 36:
        raise argparse.ArgumentTypeError(f"'{text}' is out of range: 1M to 64G")
    return value


def run(args: argparse.Namespace) -> int:
    """Measures, prints the table, and judges."""
    names = choose([name.strip() for name in args.only.split(",") if name.strip()])
    if os.geteuid() != 0:
        raise UserError("the bench mounts file systems", "run it as root (sudo)")
    if not Path("/dev/fuse").exists():
        raise UserError("there is no /dev/fuse", "modprobe fuse; in a container, pass the device in")
    if args.json is not None and (not args.json.parent.is_dir() or args.json.is_dir()):
        raise UserError(f"{args.json} cannot be written", "name a file in a directory that exists")
    sizes = Sizes(args.files, args.rounds, args.big, args.build_files, args.rebuild_files, args.inodes)
    figures: list[Figure] = []
    with private_stage(sizes.memory(names)) as stage:
        scene = Scene(stage, sizes)
        with step("measuring", f"{len(names)} measurements", total=len(names)) as progress:
            for done, name in enumerate(names):
                progress.update(done, f"{name}: {CELLS[name].help}")
                figures += measure(scene, name)
    table(figures)
    if args.json is not None:
        write(Document(SCHEMA, {**origin(), "sizes": vars(sizes)}, figures, stage.samples), args.json)
    return MISSED if args.bars and any(figure.met is False for figure in figures) else 0
