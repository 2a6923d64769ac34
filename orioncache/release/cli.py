"""Build releases of a root, and look after the store that they are in.

A release is an immutable version of a directory tree: a manifest that names everything in it, and packs
with the content. Many versions share one store, and what is the same in them is there once. Nodes mount the
directory STORE/releases/NAME/VERSION from a server. docs/releases.md tells the rest.

Examples:
  orioncache release build /srv/root /srv/store --name debian
  orioncache release build /srv/root /srv/store --name debian --version 12.8 --digest blake2b
  orioncache release list /srv/store
  orioncache release verify /srv/store debian
  orioncache release remove /srv/store debian 2026.01.31-1 && orioncache release gc /srv/store
"""

import argparse
import json
import sys
from pathlib import Path

from orioncache.errors import UserError
from orioncache.release import upkeep
from orioncache.release.text import size

DIGESTS = ("xxh3", "blake2b", "sha256")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the subcommands."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    build = commands.add_parser(
        "build",
        help="make a release of a directory",
        description="Makes a release of a directory. Only what changed since an earlier one is read, and\n"
        "only what is new is written. The next build goes on with one that was killed.",
        epilog="Examples:\n"
        "  orioncache release build /srv/root /srv/store --name debian\n"
        "  orioncache release build /srv/root /srv/store --exclude '*.pyc' --exclude /tmp/'*'",
        formatter_class=parser.formatter_class,
    )
    build.add_argument("root", type=Path, metavar="ROOT", help="the directory")
    build.add_argument("store", type=Path, metavar="STORE", help="the store; made if it is not there")
    build.add_argument("--name", help="the release's name (default: ROOT's)")
    build.add_argument("--version", help="its version (default: the day and a counter, as in 2026.01.31-1)")
    build.add_argument(
        "--digest",
        choices=DIGESTS,
        default="xxh3",
        help="kind of digest; blake2b or sha256 to sign (default: xxh3)",
    )
    build.add_argument(
        "--block-size", type=_block_size, default=128 << 10, metavar="BYTES", help="4k to 1m (default: 128k)"
    )
    build.add_argument("--rehash", action="store_true", help="read every file, even if it looks unchanged")
    build.add_argument(
        "--verify-store",
        action="store_true",
        help="read the store's blocks as well, and store those again that are damaged there",
    )
    build.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave out names that match, or, with a slash, paths from ROOT; may be given again",
    )
    build.add_argument("--cross-file-systems", action="store_true", help="enter what is mounted in ROOT")
    build.add_argument("--force", action="store_true", help="begin even if the store's disk looks too small")
    build.add_argument(
        "--jobs", type=_jobs, default=0, metavar="N", help="threads (default: one for each processor)"
    )
    build.add_argument("--json", action="store_true", help="print the result as JSON")
    build.set_defaults(run=run_build)
    upkeep.configure(commands, parser.formatter_class)


def run_build(args: argparse.Namespace) -> int:
    """`orioncache release build`."""
    from orioncache.native import digests  # noqa: PLC0415
    from orioncache.release.build import build  # noqa: PLC0415
    from orioncache.release.progress import Meter  # noqa: PLC0415
    from orioncache.release.store import Store  # noqa: PLC0415

    if not args.root.is_dir():
        raise UserError(
            f"{args.root} is no directory", "give the directory that nodes shall have as their root"
        )
    name = args.name or args.root.resolve().name
    store = Store.create(args.store)
    with Meter(f"release {name}", quiet=args.json and not sys.stderr.isatty()) as meter:

        def watch(progress: object) -> None:
            meter.show(*_state(progress))

        result = build(
            args.root,
            store,
            name,
            args.version,
            digest_kind=digests.KINDS[args.digest],
            block_size=args.block_size,
            jobs=args.jobs,
            rehash=args.rehash,
            verify_store=args.verify_store,
            cross=args.cross_file_systems,
            force=args.force,
            exclude=args.exclude,
            watch=watch,
        )
    for warning in result.warnings:
        print(f"orioncache: warning: {warning}", file=sys.stderr)
    if result.progress.warnings > len(result.warnings):
        print(f"orioncache: {result.progress.warnings - len(result.warnings)} more warnings", file=sys.stderr)
    counts = result.progress
    if args.json:
        facts = {
            "name": result.release.name,
            "version": result.release.version,
            "path": str(result.release.path),
            "inodes": counts.inodes,
            "files": counts.files,
            "hashed_files": counts.files_done,
            "unchanged_files": counts.known_files,
            "content_bytes": counts.content_bytes,
            "hashed_bytes": counts.bytes_done,
            "new_bytes": result.new_bytes,
            "resumed_bytes": counts.resumed_bytes,
            "shared_bytes": result.shared_bytes,
            "stored_bytes": counts.stored_bytes,
            "manifest_bytes": counts.manifest_bytes,
            "seconds": round(result.seconds, 3),
            "warnings": counts.warnings,
        }
        print(json.dumps(facts))
    else:
        each = counts.manifest_bytes / max(1, counts.inodes)
        resumed = (
            f", {size(counts.resumed_bytes)} of it from a build that was killed"
            if counts.resumed_bytes
            else ""
        )
        print(
            f"{result.release.path}: {counts.inodes:,} inodes, {counts.files:,} files, "
            f"{size(counts.content_bytes)}\n"
            f"  read      {counts.files_done:,} files, {size(counts.bytes_done)}; "
            f"unchanged {counts.known_files:,} files\n"
            f"  new       {size(result.new_bytes)}{resumed}; shared {size(result.shared_bytes)}\n"
            f"  manifest  {size(counts.manifest_bytes)}, {each:.0f} bytes per inode\n"
            f"  took      {result.seconds:.2f} s, {size(counts.bytes_done / max(0.001, result.seconds))}/s"
        )
    return 0


def _state(progress: object) -> tuple[str, int, int, str]:
    from orioncache.native.builder import Progress  # noqa: PLC0415

    assert isinstance(progress, Progress)
    if progress.phase < 2:
        return "looking", 0, 0, f"{progress.inodes:,} inodes"
    what = "hashing" if progress.phase == 2 else "writing"
    return what, progress.bytes_done, progress.bytes_total, f"{progress.files_done:,} files"


def _block_size(text: str) -> int:
    units = {"k": 10, "m": 20}
    number = int(text[:-1]) << units[text[-1].lower()] if text[-1:].lower() in units else int(text)
    if number < 4096 or number > 1 << 20 or number & (number - 1):
        raise argparse.ArgumentTypeError(f"{text}: a block has 4k, 8k, … 1m bytes")
    return number


def _jobs(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 256:
        raise argparse.ArgumentTypeError("1 to 256")
    return number
