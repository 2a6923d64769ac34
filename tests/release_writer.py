"""A small release for tests: a tree described in Python, to a manifest and the pack that holds its content.

Slow and plain; the real builder is native/builder.c.
"""

import dataclasses
import stat
from pathlib import Path

from orioncache.native import digests
from orioncache.release import format as layout
from orioncache.release.detect import MAGIC
from orioncache.release.format import HOLE, Section


@dataclasses.dataclass
class Node:
    """Something in a tree; several names may lead to the same one."""

    mode: int
    children: dict[bytes, "Node"] = dataclasses.field(default_factory=dict)
    content: bytes = b""  # of a file, or a symlink's target
    xattrs: dict[bytes, bytes] = dataclasses.field(default_factory=dict)
    mtime_ns: int = 1_700_000_000_123_456_789
    owner: tuple[int, int] = (0, 0)
    rdev: int = 0


def directory(children: dict[bytes, Node] | None = None, mode: int = 0o755, **fields) -> Node:
    return Node(stat.S_IFDIR | mode, children or {}, **fields)


def file(content: bytes = b"", mode: int = 0o644, **fields) -> Node:
    return Node(stat.S_IFREG | mode, content=content, **fields)


def symlink(target: bytes, **fields) -> Node:
    return Node(stat.S_IFLNK | 0o777, content=target, **fields)


class _Writer:
    def __init__(self, kind: int, block_size: int) -> None:
        self.kind, self.block_size = kind, block_size
        self.sections: list[list[bytes]] = [[] for _ in Section]
        self.text = bytearray()
        self.texts: dict[bytes, int] = {}
        self.pack = bytearray()
        self.blocks: dict[bytes, int] = {}
        self.file_digests: dict[bytes, int] = {}
        self.sets: dict[bytes, int] = {}
        self.content_bytes = 0

    def string(self, text: bytes) -> int:
        if text not in self.texts:
            self.texts[text] = len(self.text)
            self.text += text
        return self.texts[text]

    def add(self, section: Section, record: bytes) -> int:
        self.sections[section].append(record)
        return len(self.sections[section]) - 1

    def block(self, content: bytes) -> tuple[int, bytes]:
        digest = digests.digest(self.kind, content)
        if not any(content):
            return HOLE, digest
        if digest not in self.blocks:
            self.blocks[digest] = self.add(Section.BLOCKS, layout.PLACE.pack(len(self.pack), 0, len(content)))
            self.add(Section.DIGESTS, digest)
            self.pack += content
        return self.blocks[digest], digest

    def file(self, content: bytes) -> tuple[int, int, int]:
        """first extent, extents, file digest"""
        self.content_bytes += len(content)
        runs: list[list[int]] = []
        found = []
        for number, at in enumerate(range(0, len(content), self.block_size)):
            block, digest = self.block(content[at : at + self.block_size])
            found.append(digest)
            follows = runs and (
                runs[-1][2] == HOLE if block == HOLE else HOLE != runs[-1][2] == block - runs[-1][1]
            )
            if follows:
                runs[-1][1] += 1
            else:
                runs.append([number, 1, block])
        first = len(self.sections[Section.EXTENTS]) if runs else 0
        for run in runs:
            self.add(Section.EXTENTS, layout.EXTENT.pack(*run, 0))
        if len(found) < 2:
            return first, len(runs), 0
        digest = digests.digest(self.kind, b"".join(found))
        if digest not in self.file_digests:
            self.file_digests[digest] = self.add(Section.FILE_DIGESTS, digest)
        return first, len(runs), self.file_digests[digest]

    def xattrs(self, node: Node) -> tuple[int, int]:
        records = b"".join(
            layout.XATTR.pack(self.string(name), self.string(value), len(value), len(name), 0)
            for name, value in sorted(node.xattrs.items())
        )
        if records and records not in self.sets:
            self.sets[records] = len(self.sections[Section.XATTRS])
            for name, value in sorted(node.xattrs.items()):
                self.add(
                    Section.XATTRS,
                    layout.XATTR.pack(self.string(name), self.string(value), len(value), len(name), 0),
                )
        return self.sets.get(records, 0), len(node.xattrs)


def write_manifest(
    root: Node,
    *,
    kind: int = digests.XXH3_128,
    block_size: int = 4096,
    name: str = "test",
    label: str = "1",
) -> tuple[bytes, bytes]:
    """The manifest, and the content of its one pack."""
    writer = _Writer(kind, block_size)
    numbers: dict[int, int] = {id(root): 0}
    order, names, parents = [root], {id(root): 0}, {id(root): 0}
    for node in order:
        for child in node.children.values():
            if id(child) not in numbers:
                numbers[id(child)] = len(order)
                order.append(child)
                parents[id(child)] = numbers[id(node)]
            names[id(child)] = names.get(id(child), 0) + 1
    for node in order:
        fmt = stat.S_IFMT(node.mode)
        size, first, count, file_digest = 0, 0, 0, 0
        links = names[id(node)]
        if fmt == stat.S_IFDIR:
            links = 2 + sum(stat.S_ISDIR(child.mode) for child in node.children.values())
            count = len(node.children)
            first = len(writer.sections[Section.DIRENTS]) if count else 0
            for text, child in sorted(node.children.items()):
                record = layout.DIRENT.pack(
                    writer.string(text), numbers[id(child)], len(text), stat.S_IFMT(child.mode) >> 12, 0
                )
                writer.add(Section.DIRENTS, record)
        elif fmt == stat.S_IFREG:
            size = len(node.content)
            first, count, file_digest = writer.file(node.content)
        elif fmt == stat.S_IFLNK:
            size, first = len(node.content), writer.string(node.content)
        xattr_first, xattr_count = writer.xattrs(node)
        seconds, nanoseconds = divmod(node.mtime_ns, 1_000_000_000)
        writer.add(
            Section.INODES,
            layout.INODE.pack(
                size, seconds, nanoseconds, node.mode, *node.owner, links, node.rdev, first, count,
                parents[id(node)] if fmt == stat.S_IFDIR else 0, xattr_first, xattr_count, file_digest,
            ),
        )  # fmt: skip
    if writer.pack:
        identity = digests.digest(digests.XXH3_128, b"".join(writer.sections[Section.DIGESTS]))
        writer.add(Section.PACKS, layout.PACK.pack(identity, len(writer.pack), 0))
    acls = any(name.startswith(b"system.posix_acl_") for node in order for name in node.xattrs)
    return assemble(
        [*map(b"".join, writer.sections[:-1]), bytes(writer.text)],
        kind=kind,
        block_size=block_size,
        flags=bool(writer.sets) * layout.HAS_XATTRS | acls * layout.HAS_ACLS,
        content_bytes=writer.content_bytes,
        stored_bytes=len(writer.pack),
        name=name,
        label=label,
    ), bytes(writer.pack)


def assemble(
    sections: list[bytes],
    *,
    kind: int,
    block_size: int,
    flags: int = 0,
    content_bytes: int = 0,
    stored_bytes: int = 0,
    name: str = "test",
    label: str = "1",
) -> bytes:
    """The manifest of these sections, sealed with its digest."""
    body, ranges = bytearray(), b""
    for section, data in zip(Section, sections, strict=True):
        count = len(data) // layout.record_size(section, digests.size(kind))
        ranges += layout.RANGE.pack(layout.HEADER_SIZE + len(body), count)
        body += data + bytes(-len(data) % 8)
    header = layout.HEADER.pack(
        MAGIC, layout.VERSION, layout.HEADER_SIZE, layout.HEADER_SIZE + len(body), kind, digests.size(kind),
        block_size, flags, content_bytes, stored_bytes, ranges, name.encode(), label.encode(), b"", b"",
    )  # fmt: skip
    return seal(header + body)


def seal(manifest: bytes) -> bytes:
    """The same bytes with the digest that they should have."""
    kind = int.from_bytes(manifest[24:28], "little")
    digest = digests.manifest_digest(kind, manifest).ljust(layout.DIGEST_MAX, b"\0")
    return manifest[: layout.DIGEST_AT] + digest + manifest[layout.HEADER_SIZE :]


def write_release(where: Path, manifest: bytes, pack: bytes) -> Path:
    """A release's directory, as a server exports it."""
    (where / "packs").mkdir(parents=True)
    (where / "manifest").write_bytes(manifest)
    if pack:
        at = int.from_bytes(manifest[56 + 16 * Section.PACKS :][:8], "little")
        (where / "packs" / f"{manifest[at : at + 16].hex()}.pack").write_bytes(pack)
    return where
