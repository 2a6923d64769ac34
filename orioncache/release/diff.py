"""What changed from one release to another: both trees are walked side by side, by name."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from orioncache.errors import UserError
from orioncache.release.format import ROOT, ManifestError
from orioncache.release.manifest import Inode, Manifest
from orioncache.release.packs import read_quietly
from orioncache.release.store import Release


@dataclass(frozen=True)
class Change:
    """One difference.

    Attributes:
        kind: "added", "removed", "changed" (content, target, type) or "metadata".
        path: from the root.
        bytes: of the new content, or of the removed one; 0 for metadata.
    """

    kind: str
    path: str
    bytes: int


def diff(old: Release, new: Release) -> Iterator[Change]:
    """Every difference, in the order of the paths.

    Raises:
        UserError: a manifest is damaged, or the two have different kinds of digests or sizes of blocks.
    """
    one, other = _open(old), _open(new)
    if (one.header.digest_kind, one.header.block_size) != (other.header.digest_kind, other.header.block_size):
        raise UserError(
            f"{old} and {new} have other digests or blocks, so their contents cannot be compared",
            "compare releases that were built with the same --digest and --block-size",
        )
    # A stack of its own: trees may be deeper than Python's.
    waiting = [("", ROOT, ROOT)]
    if kind := _difference(one, ROOT, other, ROOT):
        yield Change(kind, ".", 0)
    while waiting:
        prefix, left, right = waiting.pop()
        ours, theirs = _entries(one, left), _entries(other, right)
        deeper = []
        for name in sorted(ours.keys() | theirs.keys()):
            path = prefix + os.fsdecode(name)
            if name not in theirs:
                yield from _all(one, ours[name], path, "removed")
            elif name not in ours:
                yield from _all(other, theirs[name], path, "added")
            else:
                yield from _compare(one, ours[name], other, theirs[name], path)
                if _is_directory(one, ours[name]) and _is_directory(other, theirs[name]):
                    deeper.append((path + "/", ours[name], theirs[name]))
        waiting += reversed(deeper)


def _open(release: Release) -> Manifest:
    try:
        return Manifest(read_quietly(release.manifest))
    except ManifestError as error:
        raise UserError(f"{release}: its manifest is damaged: {error}", "orioncache release verify") from None


def _entries(manifest: Manifest, directory: int) -> dict[bytes, int]:
    count = manifest.inode(directory).records
    return {entry.name: entry.inode for entry in (manifest.entry(directory, at) for at in range(count))}


def _is_directory(manifest: Manifest, number: int) -> bool:
    return stat.S_ISDIR(manifest.inode(number).mode)


def _compare(one: Manifest, left: int, other: Manifest, right: int, path: str) -> Iterator[Change]:
    if stat.S_IFMT(one.inode(left).mode) != stat.S_IFMT(other.inode(right).mode):
        yield from _all(one, left, path, "removed")
        yield from _all(other, right, path, "added")
    elif kind := _difference(one, left, other, right):
        yield Change(kind, path, other.inode(right).size if kind == "changed" else 0)


def _difference(one: Manifest, left: int, other: Manifest, right: int) -> str | None:
    was, now = one.inode(left), other.inode(right)
    kind = stat.S_IFMT(was.mode)
    if kind == stat.S_IFREG and (
        was.size != now.size or (was.size and one.file_digest(left) != other.file_digest(right))
    ):
        return "changed"
    if kind == stat.S_IFLNK and one.target(left) != other.target(right):
        return "changed"
    if was.rdev != now.rdev:
        return "changed"
    return "metadata" if _metadata(one, left, was) != _metadata(other, right, now) else None


def _metadata(manifest: Manifest, number: int, inode: Inode) -> tuple[object, ...]:
    attributes = {name: manifest.xattr(number, name) for name in manifest.xattrs(number)}
    return inode.mode, inode.uid, inode.gid, inode.mtime, inode.mtime_nsec, attributes


def _all(manifest: Manifest, number: int, path: str, kind: str) -> Iterator[Change]:
    """An inode and, if it is a directory, all that is in it."""
    waiting = [(path, number)]
    while waiting:
        path, number = waiting.pop()
        inode = manifest.inode(number)
        is_directory = stat.S_ISDIR(inode.mode)
        yield Change(
            kind, path + "/" if is_directory else path, inode.size if stat.S_ISREG(inode.mode) else 0
        )
        if is_directory:
            below = [
                (f"{path}/{os.fsdecode(name)}", inner) for name, inner in _entries(manifest, number).items()
            ]
            waiting += reversed(below)
