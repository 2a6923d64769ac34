"""Configure, build and check kernels for diskless nodes.

  config  lays the fragments over an empty configuration and writes the .config; seconds
  build   compiles it and prints the image's path and size; minutes, once for each configuration
  check   tells whether a kernel has what a node (or, with --fragment bench, the workbench) needs

A kernel always gets the fragments core, nfs-root, overlay, fuse and virt. Others are added with --fragment:
hardware (network cards, EFI, screen and keyboard of real machines), bench (the workbench's own; never for a
node), a file, - for standard input, or a line such as CONFIG_WIREGUARD=y. What is asked for and does not
come out is an error that names the unmet dependency.

Examples:
  orioncache kernel build
  orioncache kernel build --fragment hardware --output /srv/tftp/vmlinuz
  orioncache kernel build --fragment CONFIG_WIREGUARD=y --source ~/src/linux
  orioncache kernel config --fragment bench --output bench.config
  orioncache kernel check --kernel /boot/vmlinuz-6.1.0-18-amd64
  orioncache kernel check --fragment hardware --bars
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from orioncache.atomic import replacing
from orioncache.errors import UserError
from orioncache.kernel import config as configuration
from orioncache.kernel.build import build_fragments, cached_path
from orioncache.kernel.check import bar, check_image, describe_size
from orioncache.kernel.fragments import Fragment, load, merge
from orioncache.kernel.source import find_source
from orioncache.paths import cache_directory


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares `config`, `build` and `check`."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    config = commands.add_parser("config", help="write the .config of these fragments")
    build = commands.add_parser("build", help="compile the kernel, or find it in the cache")
    check = commands.add_parser("check", help="tell whether a kernel has what is needed")
    for command in (config, build, check):
        command.formatter_class = parser.formatter_class
        command.add_argument(
            "-F",
            "--fragment",
            action="append",
            default=[],
            metavar="F",
            help="hardware, bench, a file, - for standard input, or CONFIG_X=y; may be given again",
        )
        command.add_argument(
            "--source", type=Path, metavar="DIR", help="a kernel tree (default: Debian's linux-source)"
        )
        command.add_argument("--json", action="store_true", help="print the result as JSON")
    for command in (config, build):
        command.add_argument("--output", type=Path, metavar="FILE", help="where the result is put")
        command.add_argument("--dry-run", action="store_true", help="print the commands, run none")
    build.add_argument(
        "--jobs", type=_positive, metavar="N", help="processes of make (default: one for each processor)"
    )
    check.add_argument(
        "--kernel",
        type=Path,
        metavar="FILE",
        help="a bzImage or .config (default: the one built from the fragments)",
    )
    check.add_argument("--bars", action="store_true", help="fail if the image is larger than it may be")
    config.set_defaults(run=run_config)
    build.set_defaults(run=run_build)
    check.set_defaults(run=run_check)


def run_config(args: argparse.Namespace) -> int:
    """`orioncache kernel config`."""
    pieces = load(args.fragment)
    source = find_source(args.source)
    if args.dry_run:
        configuration.configure(source, pieces, Path("build"), dry_run=True)
        return 0
    source.unpack()
    with _scratch() as scratch:
        values = configuration.configure(source, pieces, Path(scratch))
        data = (Path(scratch) / ".config").read_bytes()
    if args.output:
        with replacing(args.output) as file:
            file.write(data)
    if args.json:
        print(
            json.dumps(
                {"version": source.release(), "options": len(values), "output": _text(args.output)}
                | _asked(pieces)
            )
        )
    elif args.output:
        print(
            f"{args.output}: Linux {source.release()}, all {len(merge(pieces))} symbols asked for were kept"
        )
    else:
        sys.stdout.write(data.decode())
    return 0


def run_build(args: argparse.Namespace) -> int:
    """`orioncache kernel build`."""
    pieces = load(args.fragment)
    kernel = build_fragments(pieces, source=args.source, jobs=args.jobs, dry_run=args.dry_run)
    if args.dry_run:
        return 0
    image = kernel.image
    if args.output:
        with replacing(args.output) as file, image.open("rb") as built:
            shutil.copyfileobj(built, file)
        image = args.output
    if args.json:
        limit = bar(args.fragment)
        result = {"version": kernel.version, "bytes": kernel.size, "bar_bytes": limit[1] if limit else None}
        print(json.dumps(result | {"image": str(image), "config": str(kernel.config)} | _asked(pieces)))
    else:
        print(f"{image}: Linux {kernel.version}, {describe_size(kernel.size, args.fragment)}")
    return 0


def run_check(args: argparse.Namespace) -> int:
    """`orioncache kernel check`."""
    image: Path | None = args.kernel
    if image is None:
        pieces = load(args.fragment)
        source = find_source(args.source)
        image = cached_path(source, pieces) / "bzImage"
        if not image.is_file():
            options = "".join(f" --fragment {name}" for name in args.fragment)
            raise UserError(
                "this kernel is not built yet", f"orioncache kernel build{options}, or give --kernel FILE"
            )
    values = check_image(image, args.fragment)
    size = image.stat().st_size
    limit = bar(args.fragment)
    if args.bars and limit is None:
        raise UserError(
            "there is no bar for these fragments", "check the base alone, or with --fragment hardware"
        )
    if args.json:
        print(json.dumps({"kernel": str(image), "ok": True, "options": len(values), "bytes": size}))
    else:
        print(f"{image}: has all that is needed; {describe_size(size, args.fragment)}")
    if args.bars and limit is not None and size > limit[1]:
        raise UserError(
            f"the image is {size - limit[1]:,} bytes over the bar of {limit[1]:,} bytes ({limit[0]})",
            "take out of kernel/fragments what a node can do without",
        )
    return 0


def _scratch() -> tempfile.TemporaryDirectory[str]:
    work = cache_directory("kernel") / "work"
    work.mkdir(exist_ok=True)
    return tempfile.TemporaryDirectory(dir=work, prefix="config-")


def _asked(pieces: Sequence[Fragment]) -> dict[str, object]:
    return {"fragments": [piece.name for piece in pieces], "asked": len(merge(pieces))}


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number
