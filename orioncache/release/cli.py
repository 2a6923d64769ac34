"""Build releases of a root, and look after the store that they are in.

A release is an immutable version of a directory tree: a manifest that names everything in it, and packs
with the content. Many versions share one store, and what is the same in them is there once. Nodes mount the
directory STORE/releases/NAME/VERSION from a server. docs/releases.md tells the rest.

Examples:
  orioncache release build /srv/root /srv/store --name debian
  orioncache release build /srv/root /srv/store --name debian --version 12.8 --digest blake2b
  orioncache release build /srv/root /srv/store --name debian --profile kiosk.profile
  orioncache release list /srv/store
  orioncache release verify /srv/store debian
  orioncache release remove /srv/store debian 2026.01.31-1 && orioncache release gc /srv/store
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from orioncache.errors import UserError
from orioncache.profile.cli import role_argument, share_argument
from orioncache.release import upkeep
from orioncache.release.text import size

if TYPE_CHECKING:
    from orioncache.profile.carry import Carried
    from orioncache.release.bundling import Written

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
    build.add_argument(
        "--profile",
        type=Path,
        metavar="FILE",
        help="write a bundle of what this profile says that boots read",
    )
    role_argument(build, "the profile's")
    share_argument(build)
    build.add_argument("--json", action="store_true", help="print the result as JSON")
    build.set_defaults(run=run_build)
    bundle = commands.add_parser(
        "bundle",
        help="write what boots read into a release, in the order of their reading",
        description="Writes the bundle of a profile into a release: one file that nodes of that role stream\n"
        "while they boot. What is not in the release any more is left out. A release that is signed\n"
        "wants to be signed again.",
        epilog="Examples:\n"
        "  orioncache release bundle /srv/store debian --profile kiosk.profile\n"
        "  orioncache release bundle /srv/store debian 12.8 --profile kiosk.profile --role lobby",
        formatter_class=parser.formatter_class,
    )
    bundle.add_argument("store", type=Path, metavar="STORE", help="the store")
    bundle.add_argument("name", metavar="NAME", help="the release's name")
    bundle.add_argument("version", nargs="?", metavar="VERSION", help="its version (default: the newest)")
    bundle.add_argument("--profile", type=Path, required=True, metavar="FILE", help="what boots read")
    role_argument(bundle, "the profile's")
    share_argument(bundle)
    bundle.add_argument("--json", action="store_true", help="print the result as JSON")
    bundle.set_defaults(run=run_bundle)
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
    bundler = _Bundler(args) if args.profile is not None else None
    if bundler is not None:
        bundler.check(digests.KINDS[args.digest], args.block_size)
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
            finish=bundler,
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
            "bundle": None if bundler is None else bundler.facts(),
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
        if bundler is not None:
            print(f"  bundle    {bundler.text()}")
    return 0


def run_bundle(args: argparse.Namespace) -> int:
    """`orioncache release bundle`."""
    from orioncache.release.packs import read_header  # noqa: PLC0415
    from orioncache.release.store import Store  # noqa: PLC0415

    bundler = _Bundler(args)
    release = upkeep.find(args)
    header = read_header(release.manifest)
    bundler.check(header.digest_kind, header.block_size)
    with Store(args.store).locked():
        bundler(release.path)
    if bundler.written is None:
        raise UserError(
            f"{release}: {bundler.text()}", "record a boot of this release: orioncache trace record --help"
        )
    if release.signature.exists():
        print(
            "orioncache: warning: the release is signed, its new bundle is not: sign it again",
            file=sys.stderr,
        )
    if args.json:
        facts = {"name": release.name, "version": release.version, "path": str(bundler.written.path)}
        print(json.dumps(facts | (bundler.facts() or {})))
    else:
        print(f"{bundler.written.path}: {bundler.text()}")
    return 0


class _Bundler:
    """Writes the bundle of the profile that the arguments name, into a release's directory.

    Attributes:
        written: the bundle; None as long as there is none, and if nothing of the profile was there.
        carried: how the profile was found in the release.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        from orioncache.profile.format import read  # noqa: PLC0415
        from orioncache.release.bundle import check_role  # noqa: PLC0415

        self._profile = read(args.profile)
        self._role = check_role(args.role or self._profile.role)
        self._share = args.share
        self.written: Written | None = None
        self.carried: Carried | None = None

    def check(self, kind: int, block_size: int) -> None:
        """Says beforehand if the profile cannot fit a release with these digests and blocks."""
        from orioncache.profile.carry import check_fit  # noqa: PLC0415

        check_fit(self._profile, kind, block_size)

    def __call__(self, release: Path) -> None:
        from orioncache.profile.carry import carry  # noqa: PLC0415
        from orioncache.release import bundling  # noqa: PLC0415
        from orioncache.release.content import open_manifest  # noqa: PLC0415

        manifest = open_manifest(release)
        self.carried = carry(self._profile, manifest, share=self._share)
        if self.carried.pieces:
            boots = self._profile.boots
            self.written = bundling.write(release, manifest, self._role, self.carried.pieces, boots)

    def facts(self) -> dict[str, object] | None:
        """For ``--json``; None if there is no bundle."""
        if self.written is None or self.carried is None:
            return None
        return {
            "role": self.written.role,
            "bytes": self.written.size,
            "raw_bytes": self.written.raw_bytes,
            "frames": self.written.frames,
            "chunks": self.written.chunks,
            "same_bytes": self.carried.same,
            "moved_bytes": self.carried.moved,
            "guessed_bytes": self.carried.guessed,
            "gone_bytes": self.carried.gone,
            "gone_blocks": self.carried.gone_blocks,
        }

    def text(self) -> str:
        """For people."""
        assert self.carried is not None
        lost = f"{size(self.carried.gone)} of {self.carried.gone_blocks:,} blocks are gone"
        if self.written is None:
            return f"none: nothing of the profile is in the release; {lost}"
        return (
            f"role {self.written.role}, {size(self.written.raw_bytes)} in {size(self.written.size)}, "
            f"{self.written.frames:,} frames; of them {size(self.carried.moved)} moved, "
            f"{size(self.carried.guessed)} at the place of what changed; {lost}"
        )


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
