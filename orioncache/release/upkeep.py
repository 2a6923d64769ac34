"""The subcommands of `orioncache release` that look after what was built."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orioncache.errors import UserError
from orioncache.release.text import age, printable, size, table

if TYPE_CHECKING:
    from orioncache.release.store import Release


def configure(commands: Any, formatter: Any) -> None:  # noqa: ANN401  # argparse's own types are private
    """Declares list, show, verify, diff, remove, gc, sign and keygen."""

    def add(name: str, run: Any, text: str, more: str, *examples: str) -> argparse.ArgumentParser:  # noqa: ANN401
        epilog = "Examples:\n" + "\n".join(f"  orioncache release {example}" for example in examples)
        parser: argparse.ArgumentParser = commands.add_parser(
            name, help=text, description=more, epilog=epilog, formatter_class=formatter
        )
        parser.set_defaults(run=run)
        return parser

    parser = add(
        "list",
        run_list,
        "show the releases of a store",
        "Shows what is in a store, the newest of each name first.",
        "list /srv/store",
        "list /srv/store debian --json",
    )
    _store(parser)
    parser.add_argument("name", nargs="?", metavar="NAME", help="only this one's versions")
    _json(parser)

    parser = add(
        "show",
        run_show,
        "show what a release's manifest says",
        "Shows what a release's manifest says of itself.",
        "show /srv/store debian",
        "show /srv/store debian 12.8 --json",
    )
    _release(parser)
    _json(parser)

    parser = add(
        "verify",
        run_verify,
        "read everything and compare it with its digests",
        "Verifies the manifest, every block of every pack and every bundle, and if --key is given the\n"
        "signatures. Names each bad file; exits with 1 if anything is wrong.",
        "verify /srv/store",
        "verify /srv/store debian 12.8 --key release.pub",
    )
    _store(parser)
    parser.add_argument("name", nargs="?", metavar="NAME", help="only this one's versions")
    parser.add_argument("version", nargs="?", metavar="VERSION", help="only this one")
    parser.add_argument("--key", type=Path, metavar="PUBLIC", help="a public key by which it must be signed")
    parser.add_argument(
        "--jobs", type=int, default=0, metavar="N", help="threads (default: one per processor)"
    )
    _json(parser)

    parser = add(
        "diff",
        run_diff,
        "show what changed between two versions",
        "Shows what was added, removed, or changed, in content or in metadata, from one version to another.",
        "diff /srv/store debian 12.7 12.8",
        "diff /srv/store debian 12.7 12.8 --summary",
    )
    _store(parser)
    parser.add_argument("name", metavar="NAME", help="the releases' name")
    parser.add_argument("old", metavar="OLD", help="a version")
    parser.add_argument("new", metavar="NEW", help="another version")
    parser.add_argument("--summary", action="store_true", help="count only")
    _json(parser)

    parser = add(
        "remove",
        run_remove,
        "take a release out of the store",
        "Takes a release out of the store, unless nodes may still use it: it is the newest of its name,\n"
        "it is mounted on this machine, or its manifest was read lately. Its room is freed by gc.",
        "remove /srv/store debian 12.7",
        "remove /srv/store debian 12.7 --unused-for 30 --dry-run",
    )
    _release(parser, version="VERSION")
    parser.add_argument("--force", action="store_true", help="remove it whoever may use it")
    parser.add_argument(
        "--unused-for",
        type=float,
        default=7,
        metavar="DAYS",
        help="unread for so long is unused (default: 7)",
    )
    parser.add_argument("--dry-run", action="store_true", help="say whether it would be removed")
    _json(parser)

    parser = add(
        "gc",
        run_gc,
        "free the room that no release uses",
        "Frees what no release uses: whole packs, parts of others, and what killed builds left.",
        "gc /srv/store --dry-run",
        "gc /srv/store",
    )
    _store(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what it would free")
    _json(parser)

    parser = add(
        "sign",
        run_sign,
        "sign a release",
        "Signs a release that was built with --digest blake2b or sha256, and its bundles. Nodes with the\n"
        "public key refuse all others.",
        "sign /srv/store debian --key release",
        "sign /srv/store debian 12.8 --key release",
    )
    _release(parser)
    parser.add_argument("--key", type=Path, required=True, metavar="SECRET", help="the secret key")
    _json(parser)

    parser = add(
        "keygen",
        run_keygen,
        "make a pair of keys",
        "Writes a new secret key to FILE, and the public one to FILE.pub.",
        "keygen release",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="where the secret key goes")


def _store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", type=Path, metavar="STORE", help="the store")


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _release(parser: argparse.ArgumentParser, version: str = "") -> None:
    _store(parser)
    parser.add_argument("name", metavar="NAME", help="the release's name")
    if version:
        parser.add_argument("version", metavar="VERSION", help="its version")
    else:
        parser.add_argument("version", nargs="?", metavar="VERSION", help="its version (default: the newest)")


def find(args: argparse.Namespace) -> "Release":
    """The release that the arguments name; without a version the newest.

    Raises:
        UserError: there is none.
    """
    from orioncache.release.store import Store  # noqa: PLC0415

    store = Store(args.store)
    if args.version is not None:
        return store.release(args.name, args.version)
    found = store.releases(args.name)
    if not found:
        raise UserError(f"{store.path} has no release {args.name}", f"orioncache release list {store.path}")
    return found[0]


def run_list(args: argparse.Namespace) -> int:
    """`orioncache release list`."""
    from orioncache.release.bundle import SUFFIX, bundles  # noqa: PLC0415
    from orioncache.release.format import ManifestError, Section  # noqa: PLC0415
    from orioncache.release.packs import read_header  # noqa: PLC0415
    from orioncache.release.retire import is_mounted, last_read  # noqa: PLC0415
    from orioncache.release.store import Store  # noqa: PLC0415

    now = time.time()
    facts: list[dict[str, Any]] = []
    rows: list[tuple[str, ...]] = [
        ("name", "version", "built", "inodes", "content", "bundles", "signed", "last read")
    ]
    for release in Store(args.store).releases(args.name):
        try:
            header = read_header(release.manifest)
        except ManifestError as error:
            print(f"orioncache: warning: {release}: its manifest is damaged: {error}", file=sys.stderr)
            continue
        read, mounted, signed = last_read(release), is_mounted(release), release.signature.exists()
        inodes = header.sections[Section.INODES][1]
        roles = [path.name.removesuffix(SUFFIX) for path in bundles(release.path)]
        facts.append(
            {
                "name": release.name,
                "version": release.version,
                "built": release.built,
                "inodes": inodes,
                "content_bytes": header.content_bytes,
                "digest": header.digest.hex(),
                "bundles": roles,
                "signed": signed,
                "last_read": read,
                "mounted": mounted,
                "path": str(release.path),
            }
        )
        seen = "mounted here" if mounted else age(now - read) if read else "–"
        rows.append(
            (
                release.name,
                release.version,
                time.strftime("%Y-%m-%d %H:%M", time.localtime(release.built)),
                f"{inodes:,}",
                size(header.content_bytes),
                ", ".join(roles) or "–",
                "yes" if signed else "no",
                seen,
            )
        )
    if args.json:
        print(json.dumps(facts))
    else:
        print(table(rows) if facts else "no releases")
    return 0


def run_show(args: argparse.Namespace) -> int:
    """`orioncache release show`."""
    from orioncache.native import digests  # noqa: PLC0415
    from orioncache.release.bundle import bundles  # noqa: PLC0415
    from orioncache.release.format import HAS_ACLS, HAS_XATTRS, ManifestError, Section  # noqa: PLC0415
    from orioncache.release.packs import read_header, used_packs  # noqa: PLC0415

    release = find(args)
    try:
        header, packs = read_header(release.manifest), used_packs(release.manifest)
    except ManifestError as error:
        raise UserError(f"{release}: its manifest is damaged: {error}", "build it again") from None
    manifest_bytes = release.manifest.stat().st_size
    inodes = header.sections[Section.INODES][1]
    kind = next(name for name, number in digests.KINDS.items() if number == header.digest_kind)
    facts = {
        "name": header.name,
        "version": header.label,
        "path": str(release.path),
        "digest": header.digest.hex(),
        "digest_kind": kind,
        "block_size": header.block_size,
        "inodes": inodes,
        "blocks": header.sections[Section.BLOCKS][1],
        "content_bytes": header.content_bytes,
        "stored_bytes": header.stored_bytes,
        "manifest_bytes": manifest_bytes,
        "manifest_bytes_per_inode": round(manifest_bytes / inodes, 1),
        "xattrs": bool(header.flags & HAS_XATTRS),
        "acls": bool(header.flags & HAS_ACLS),
        "signed": release.signature.exists(),
        "packs": packs,
        "bundles": [_bundle_facts(path) for path in bundles(release.path)],
    }
    if args.json:
        print(json.dumps(facts))
    else:
        width = max(map(len, facts))
        for key, value in facts.items():
            if type(value) is int:
                text = f"{value:,}"
            elif isinstance(value, list):
                text = ", ".join(each if isinstance(each, str) else _bundle_line(each) for each in value)
            else:
                text = str(value)
            print(f"{key.replace('_', ' '):{width}}  {text}".rstrip())
    return 0


def _bundle_facts(path: Path) -> dict[str, Any]:
    from orioncache.release.bundle import SUFFIX, Bundle, BundleError, signature  # noqa: PLC0415

    role = path.name.removesuffix(SUFFIX)
    try:
        bundle = Bundle(path)
    except BundleError as error:
        return {"role": role, "error": error.message}
    return {
        "role": role,
        "bytes": bundle.size,
        "raw_bytes": bundle.raw_bytes,
        "frames": len(bundle.frames),
        "chunks": len(bundle.chunks),
        "boots": bundle.boots,
        "signed": signature(path).exists(),
    }


def _bundle_line(facts: dict[str, Any]) -> str:
    if "error" in facts:
        return f"{facts['role']} (broken: {facts['error']})"
    boots = f"{facts['boots']} boot{'s' * (facts['boots'] != 1)}"
    return (
        f"{facts['role']} ({size(facts['raw_bytes'])} of pages in {size(facts['bytes'])}, "
        f"{facts['frames']:,} frames, from {boots}, {'signed' if facts['signed'] else 'not signed'})"
    )


def run_verify(args: argparse.Namespace) -> int:
    """`orioncache release verify`."""
    from orioncache.release.progress import Meter  # noqa: PLC0415
    from orioncache.release.sign import read_key  # noqa: PLC0415
    from orioncache.release.store import Store  # noqa: PLC0415
    from orioncache.release.verify import verify  # noqa: PLC0415

    key = None if args.key is None else read_key(args.key, "public")
    store = Store(args.store)
    releases = store.releases(args.name) if args.version is None else [store.release(args.name, args.version)]
    if not releases:
        raise UserError(
            f"{store.path} has no release {args.name or ''}".rstrip(), "orioncache release build makes one"
        )
    reports = []
    for release in releases:
        with Meter(f"verify {release}") as meter:
            reports.append(
                verify(release, key, args.jobs, lambda done, total: meter.show(str(release), done, total))  # noqa: B023
            )
        if not args.json:
            _say(reports[-1])
    if args.json:
        print(
            json.dumps(
                [
                    {
                        "name": report.release.name,
                        "version": report.release.version,
                        "ok": report.good,
                        "blocks": report.blocks,
                        "bad_blocks": report.bad_blocks,
                        "bytes": report.bytes,
                        "bundles": report.bundles,
                        "problems": report.problems,
                        "bad_files": report.bad_files,
                    }
                    for report in reports
                ]
            )
        )
    if all(report.good for report in reports):
        return 0
    print(
        "  mend: copy the release from a good server again, or build a new version with --verify-store",
        file=sys.stderr,
    )
    return 1


def _say(report: Any) -> None:  # noqa: ANN401
    if report.good:
        bundles = f", {report.bundles} bundle{'s' * (report.bundles != 1)}" if report.bundles else ""
        print(f"{report.release}: good, {report.blocks:,} blocks, {size(report.bytes)}{bundles}")
        return
    print(f"{report.release}: BAD, {report.bad_blocks:,} of {report.blocks:,} blocks")
    for problem in report.problems:
        print(f"  {printable(problem)}")


def run_diff(args: argparse.Namespace) -> int:
    """`orioncache release diff`."""
    from orioncache.release.diff import diff  # noqa: PLC0415
    from orioncache.release.store import Store  # noqa: PLC0415

    store = Store(args.store)
    marks = {"added": "+", "removed": "-", "changed": "~", "metadata": "m"}
    totals = {kind: [0, 0] for kind in marks}
    found = []
    for change in diff(store.release(args.name, args.old), store.release(args.name, args.new)):
        totals[change.kind][0] += 1
        totals[change.kind][1] += change.bytes
        if args.json and not args.summary:
            found.append({"kind": change.kind, "path": change.path, "bytes": change.bytes})
        elif not args.summary and not args.json:
            print(
                f"{marks[change.kind]} {printable(change.path)}"
                + (f"  {size(change.bytes)}" if change.bytes else "")
            )
    if args.json:
        counts = {kind: {"count": count, "bytes": total} for kind, (count, total) in totals.items()}
        print(json.dumps({"totals": counts, "changes": found}))
    else:
        print(", ".join(f"{count:,} {kind} ({size(total)})" for kind, (count, total) in totals.items()))
    return 0


def run_remove(args: argparse.Namespace) -> int:
    """`orioncache release remove`."""
    from orioncache.release.retire import reasons_to_keep, remove  # noqa: PLC0415
    from orioncache.release.store import Store  # noqa: PLC0415

    store = Store(args.store)
    release = store.release(args.name, args.version)
    reasons = reasons_to_keep(store, release, args.unused_for)
    if not args.dry_run:
        remove(store, release, force=args.force, unused_for=args.unused_for)
    if args.json:
        print(
            json.dumps(
                {
                    "name": release.name,
                    "version": release.version,
                    "removed": not args.dry_run,
                    "kept_for": reasons,
                }
            )
        )
    elif not args.dry_run:
        print(f"{release}: removed; orioncache release gc {store.path} frees what only it used")
    elif reasons and not args.force:
        print(f"{release}: would be refused: {'; '.join(reasons)}")
    else:
        print(f"{release}: would be removed")
    return 0


def run_gc(args: argparse.Namespace) -> int:
    """`orioncache release gc`."""
    from orioncache.release.retire import collect  # noqa: PLC0415
    from orioncache.release.store import Store  # noqa: PLC0415

    freed = collect(Store(args.store), dry_run=args.dry_run)
    if args.json:
        facts = {
            "dry_run": args.dry_run,
            "bytes": freed.bytes,
            "packs": freed.packs,
            "pack_bytes": freed.pack_bytes,
            "hole_bytes": freed.hole_bytes,
            "leftovers": freed.leftovers,
            "leftover_bytes": freed.leftover_bytes,
        }
        print(json.dumps(facts))
    else:
        print(
            f"{'would free' if args.dry_run else 'freed'} {size(freed.bytes)}: {len(freed.packs)} packs with "
            f"{size(freed.pack_bytes)}, {size(freed.hole_bytes)} inside of others, "
            f"{len(freed.leftovers)} leftovers with {size(freed.leftover_bytes)}"
        )
    return 0


def run_sign(args: argparse.Namespace) -> int:
    """`orioncache release sign`."""
    from orioncache.release.sign import read_key, sign  # noqa: PLC0415

    release = find(args)
    public = sign(release, read_key(args.key, "secret"))
    if args.json:
        print(json.dumps({"name": release.name, "version": release.version, "public_key": public.hex()}))
    else:
        print(f"{release}: signed; the public key is {public.hex()}")
    return 0


def run_keygen(args: argparse.Namespace) -> int:
    """`orioncache release keygen`."""
    from orioncache.release.sign import keygen  # noqa: PLC0415

    public = keygen(args.file)
    print(f"{args.file}: keep it secret; {public}: goes into the nodes' image")
    return 0
