"""`orioncache server check`: whole copies of a release against its manifest and each other."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from orioncache import options
from orioncache.errors import UserError

RATE = "50M"


def configure(commands: Any, formatter: Any) -> None:  # noqa: ANN401  # argparse's own types are private
    """Declares the subcommand."""
    parser = commands.add_parser(
        "check",
        help="compare whole copies of a release with its manifest and with each other",
        description="Reads every pack of each copy and compares every block with its digest; tells what is\n"
        "missing, too short or too much; compares manifests, signatures and bundles. A line for each\n"
        "problem, with file and block; exits with 1 if there is any. No running cache is asked.",
        epilog="Examples:\n"
        "  orioncache server check /mnt/nfs1 /mnt/nfs2\n"
        "  orioncache server check /srv/store/releases/debian/12.8 --rate 0 --jobs 4 --key release.pub\n"
        "  orioncache server check /mnt/nfs2 --release 3f9a00c1 --rate 10M --json",
        formatter_class=formatter,
    )
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="directories of the same release")
    parser.add_argument(
        "--rate",
        type=_size,
        default=_size(RATE),
        metavar="SIZE",
        help=f"bytes per second to read, on average; 0: as many as come (default: {RATE})",
    )
    parser.add_argument("--jobs", type=_jobs, default=1, metavar="N", help="threads that read (default: 1)")
    parser.add_argument(
        "--key", type=Path, metavar="PUBLIC", help="a public key by which each must be signed"
    )
    parser.add_argument(
        "--release",
        type=_digest,
        metavar="DIGEST",
        help="digest, or its first digits, of the release that each must be (default: the first's)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from orioncache.release.progress import Meter  # noqa: PLC0415
    from orioncache.release.replicas import check, same_machine  # noqa: PLC0415
    from orioncache.release.sign import read_key  # noqa: PLC0415

    for source in args.sources:
        if ":/" in source and not Path(source).exists():
            raise UserError(f"{source} is not mounted", "mount it, and name the directory")
    key = None if args.key is None else read_key(args.key, "public")
    for line in same_machine(args.sources):
        print(f"orioncache: warning: {line}: a server that is lost loses both", file=sys.stderr)
    with Meter("server check", quiet=args.json and not sys.stderr.isatty()) as meter:
        replicas = check(
            args.sources,
            key=key,
            jobs=args.jobs,
            rate=args.rate,
            digest=args.release,
            watch=meter.show,
        )
    good = all(replica.good for replica in replicas)
    if args.json:
        found = [
            {
                "source": replica.source,
                "ok": replica.good,
                "release": None if replica.header is None else replica.release,
                "digest": None if replica.header is None else replica.header.digest.hex(),
                "blocks": replica.blocks,
                "bad_blocks": replica.bad_blocks,
                "bytes": replica.bytes,
                "seconds": round(replica.seconds, 3),
                "problems": replica.problems,
            }
            for replica in replicas
        ]
        print(json.dumps({"ok": good, "sources": found}))
    else:
        for replica in replicas:
            _say(replica)
    if not good:
        print("  mend: copy what is named from a good server again", file=sys.stderr)
    return 0 if good else 1


def _say(replica: Any) -> None:  # noqa: ANN401  # its module is imported late
    from orioncache.release.text import printable, size  # noqa: PLC0415

    if replica.good:
        much = f"{replica.blocks:,} blocks, {size(replica.bytes)}"
        rate = size(replica.bytes / max(0.001, replica.seconds))
        print(f"{replica.source}: good, {replica.release}, {much}, {rate}/s")
    for problem in replica.problems:
        print(printable(f"{replica.source}: {problem}"))


def _size(text: str) -> int:
    try:
        return options.size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _jobs(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= 256):
        raise argparse.ArgumentTypeError("1 to 256")
    return int(text)


def _digest(text: str) -> str:
    if len(text) < 8 or set(text.lower()) - set("0123456789abcdef"):
        raise argparse.ArgumentTypeError(f"'{text}' is no digest: 8 or more hexadecimal digits")
    return text
