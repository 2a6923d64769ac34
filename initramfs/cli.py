"""Build and inspect the image that a node boots.

It holds busybox, /init, the Python modules that the node's daemon imports, their shared libraries, and no
more. The same parts give the same bytes; what was built before is found in the cache.

Examples:
  orioncache initramfs build --output initramfs.img
  orioncache initramfs build --key release.pub --output initramfs.img
  orioncache initramfs build --add ./60-disk:hooks/network/60-disk
  orioncache initramfs ls
  orioncache initramfs ls initramfs.img --json
  orioncache initramfs cat /init
  orioncache initramfs diff old.img initramfs.img
"""

import argparse
import dataclasses
import hashlib
import json
import stat
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from orioncache.errors import UserError
from orioncache.initramfs.build import LIMIT, build_initramfs, plan
from orioncache.initramfs.cpio import Entry
from orioncache.initramfs.image import compare, group_of, read_image


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of ``orioncache initramfs``."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    build = commands.add_parser("build", help="build the image, and print its size against the bar")
    build.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="where to put it (default: the cache)"
    )
    build.add_argument(
        "--add",
        action="append",
        default=[],
        metavar="FILE[:DEST]",
        help="a further file, such as a hook; repeatable",
    )
    build.add_argument(
        "--key", type=Path, metavar="FILE", help="public key that the node's release must be signed with"
    )
    build.add_argument("--json", action="store_true", help="print what was built as JSON")
    build.add_argument(
        "-n", "--dry-run", action="store_true", help="print what would go in, and build nothing"
    )
    build.set_defaults(run=_build)

    listing = commands.add_parser("ls", help="list what is in an image")
    listing.add_argument("image", nargs="?", type=Path, help="an image (default: the one that build makes)")
    listing.add_argument("--json", action="store_true", help="as JSON")
    listing.set_defaults(run=_ls)

    show = commands.add_parser("cat", help="print files of an image")
    show.add_argument("path", nargs="+", help="a file in the image, such as /init")
    show.add_argument(
        "--image", type=Path, metavar="FILE", help="an image (default: the one that build makes)"
    )
    show.set_defaults(run=_cat)

    diff = commands.add_parser("diff", help="compare two images; exit code 1 if they differ")
    diff.add_argument("old", type=Path, help="an image")
    diff.add_argument("new", nargs="?", type=Path, help="another (default: the one that build makes)")
    diff.add_argument("--json", action="store_true", help="as JSON")
    diff.set_defaults(run=_diff)


def _build(args: argparse.Namespace) -> int:
    extra = _extra(args.add)
    if args.dry_run:
        _print_plan(extra, args.key, as_json=args.json)
        return 0
    image = build_initramfs(args.output, extra=extra, key=args.key)
    entries = read_image(image)
    data = image.read_bytes()
    parts: Counter[str] = Counter()
    for path, entry in entries.items():
        parts[group_of(path)] += len(entry.data)
    if args.json:
        said = {
            "image": str(image),
            "bytes": len(data),
            "limit": LIMIT,
            "sha256": hashlib.sha256(data).hexdigest(),
            "files": len(entries),
            "unpacked_bytes": sum(parts.values()),
            "parts": dict(parts.most_common()),
        }
        print(json.dumps(said, indent=2))
    else:
        print(f"{image}")
        print(f"  {len(data):,} bytes of {LIMIT:,} allowed")
        print(f"  {sum(parts.values()):>12,}  unpacked, {len(entries)} files; of these:")
        for name, size in parts.most_common():
            print(f"  {size:>12,}  {name}")
    if len(data) > LIMIT:
        raise UserError(
            f"the image has {len(data):,} bytes, more than {LIMIT:,}",
            "see the biggest: orioncache initramfs ls",
        )
    return 0


def _extra(words: Sequence[str]) -> dict[str, Path]:
    """FILE[:DEST] to place -> file; the default place is the file's name at the top."""
    extra = {}
    for word in words:
        name, _, place = word.partition(":")
        if not Path(name).is_file():
            raise UserError(f"--add {word}: {name} is no file", "write FILE or FILE:DEST")
        place = place.lstrip("/") or Path(name).name
        if place.endswith("/"):
            place += Path(name).name
        if ".." in Path(place).parts:
            raise UserError(
                f"--add {word}: the place leaves the image", "write a path such as hooks/mount/10-tune"
            )
        extra[place] = Path(name).resolve()
    return extra


def _print_plan(extra: Mapping[str, Path], key: Path | None, *, as_json: bool) -> None:
    wanted = plan(extra, key=key)
    sources = {**wanted.modules, **wanted.binaries, **wanted.plain, **wanted.tools}
    if as_json:
        print(json.dumps({place: str(file) for place, file in sorted(sources.items())}, indent=2))
        return
    for place, file in sorted(sources.items()):
        print(f"/{place}  <- {file}")


def _image(path: Path | None) -> dict[str, Entry]:
    return read_image(build_initramfs() if path is None else path)


def _ls(args: argparse.Namespace) -> int:
    entries = sorted(_image(args.image).items())
    if args.json:
        print(json.dumps([_described(path, entry) for path, entry in entries], indent=2))
        return 0
    for path, entry in entries:
        target = f" -> {entry.data.decode(errors='replace')}" if stat.S_ISLNK(entry.mode) else ""
        size = f"{entry.device[0]}, {entry.device[1]}" if entry.kind in "bc" else f"{len(entry.data)}"
        print(f"{stat.filemode(entry.mode)} {size:>9} /{path}{target}")
    return 0


def _described(path: str, entry: Entry) -> dict[str, str | int]:
    said: dict[str, str | int] = {
        "path": f"/{path}",
        "mode": stat.filemode(entry.mode),
        "bytes": len(entry.data),
    }
    if stat.S_ISLNK(entry.mode):
        said["target"] = entry.data.decode(errors="replace")
    return said


def _cat(args: argparse.Namespace) -> int:
    entries = _image(args.image)
    for name in args.path:
        entry = entries.get(name.strip("/"))
        if entry is None:
            raise UserError(f"{name} is not in the image", "see what is: orioncache initramfs ls")
        if not stat.S_ISREG(entry.mode):
            raise UserError(f"{name} is no regular file", "see what it is: orioncache initramfs ls")
        sys.stdout.buffer.write(entry.data)
    sys.stdout.flush()
    return 0


def _diff(args: argparse.Namespace) -> int:
    changes = compare(read_image(args.old), _image(args.new))
    if args.json:
        print(json.dumps([dataclasses.asdict(change) for change in changes], indent=2))
    else:
        for change in changes:
            sizes = [f"{size:,}" for size in (change.before, change.after) if size is not None]
            note = f" ({change.what})" if change.what else ""
            print(f"{change.sign} {change.path}  {' -> '.join(sizes)} bytes{note}")
    return 1 if changes else 0
