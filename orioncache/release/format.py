"""The manifest's records as they lie in the file: docs/manifest.md specifies them, as does native/manifest.h.

All integers are little-endian. Nothing here trusts anything but the length of what it is given.
"""

import dataclasses
import enum
import struct

from orioncache.native import digests
from orioncache.release.detect import MAGIC

VERSION = 1
HEADER_SIZE = 512
# Where the digest stands in the header; it is of all bytes but its own.
DIGEST_AT, DIGEST_MAX = 480, 32
ROOT = 0
# In place of a block's number: a run of zeros that no pack holds.
HOLE = (1 << 32) - 1
NAME_MAX = 255
TARGET_MAX = 4095
XATTR_MAX = 65536
SIZE_MAX = (1 << 63) - 1
BLOCK_SIZES = tuple(1 << shift for shift in range(12, 21))
HAS_XATTRS, HAS_ACLS = 1, 2

HEADER = struct.Struct("<8sIIQIIIIQQ144s96s96s88s32s")
INODE = struct.Struct("<QqIIIIIIIIIIII")
DIRENT = struct.Struct("<IIHBB")
EXTENT = struct.Struct("<IIII")
PLACE = struct.Struct("<QII")
XATTR = struct.Struct("<IIIHH")
PACK = struct.Struct("<16sQQ")
RANGE = struct.Struct("<QQ")


class Section(enum.IntEnum):
    """The parts of a manifest, in their order."""

    INODES = 0
    DIRENTS = 1
    EXTENTS = 2
    BLOCKS = 3
    DIGESTS = 4
    FILE_DIGESTS = 5
    XATTRS = 6
    PACKS = 7
    BYTES = 8


def record_size(section: Section, digest_size: int) -> int:
    """Bytes of one record of a section."""
    return {
        Section.INODES: INODE.size,
        Section.DIRENTS: DIRENT.size,
        Section.EXTENTS: EXTENT.size,
        Section.BLOCKS: PLACE.size,
        Section.XATTRS: XATTR.size,
        Section.PACKS: PACK.size,
        Section.BYTES: 1,
    }.get(section, digest_size)


class ManifestError(Exception):
    """These bytes are no manifest that can be used; says why, in a few words."""


@dataclasses.dataclass(frozen=True)
class Header:
    """The header of a manifest.

    Attributes:
        digest_kind: of which kind all digests are (:mod:`orioncache.native.digests`).
        digest_size: bytes of each.
        block_size: bytes of a block, but for the last one of a file.
        flags: ``HAS_XATTRS``, ``HAS_ACLS``.
        content_bytes: the sum of all files' sizes.
        stored_bytes: the sum of all blocks' lengths.
        sections: where each section begins, in bytes, and how many records it has.
        name: the release's.
        label: its version.
        digest: the manifest's own, which names the release.
    """

    digest_kind: int
    digest_size: int
    block_size: int
    flags: int
    content_bytes: int
    stored_bytes: int
    sections: tuple[tuple[int, int], ...]
    name: str
    label: str
    digest: bytes


def read_header(data: bytes | memoryview, length: int) -> Header:
    """The header, and whether every section lies inside of the file.

    Args:
        data: the file's first bytes, at least ``HEADER_SIZE`` of them if it has so many.
        length: bytes of the whole file.

    Raises:
        ManifestError: it is no manifest, one of another version, or broken.
    """
    if bytes(data[:8]) != MAGIC:
        raise ManifestError("this is no manifest")
    if len(data) < 12:
        raise ManifestError("it is cut short")
    (version,) = struct.unpack_from("<I", data, 8)
    if version != VERSION:
        raise ManifestError(f"it has version {version} of the format, and this program reads {VERSION}")
    if len(data) < HEADER_SIZE:
        raise ManifestError("it is cut short")
    fields = HEADER.unpack_from(data)
    header_size, file_size, kind, digest_size, block_size, flags, content_bytes, stored_bytes = fields[2:10]
    ranges, name, label, reserved, digest = fields[10:]
    if file_size != length:
        raise ManifestError(f"it has {length} bytes and should have {file_size}")
    good = (
        header_size == HEADER_SIZE
        and digest_size == digests.size(kind) != 0
        and block_size in BLOCK_SIZES
        and flags & ~(HAS_XATTRS | HAS_ACLS) == 0
        and name[-1] == 0 == label[-1]
        and not any(reserved)
        and not any(digest[digest_size:])
    )
    if not good:
        raise ManifestError("its header is broken")
    sections = tuple(RANGE.iter_unpack(ranges))
    for section, (offset, count) in zip(Section, sections, strict=True):
        room = (length - offset) // record_size(section, digest_size)
        if offset % 8 or not HEADER_SIZE <= offset <= length or count > min(room, HOLE):
            raise ManifestError(f"its section {section.name} does not lie inside")
    if sections[Section.DIGESTS][1] != sections[Section.BLOCKS][1]:
        raise ManifestError("it has not one digest for each block")
    return Header(
        digest_kind=kind,
        digest_size=digest_size,
        block_size=block_size,
        flags=flags,
        content_bytes=content_bytes,
        stored_bytes=stored_bytes,
        sections=sections,
        name=_text(name),
        label=_text(label),
        digest=digest[:digest_size],
    )


def _text(padded: bytes) -> str:
    """A name for people: whatever is in it, it cannot steer a terminal."""
    text = padded.split(b"\0", 1)[0].decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
