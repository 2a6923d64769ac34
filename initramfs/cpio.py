"""The kernel's initramfs format: cpio "newc" archives.

The kernel's Documentation/driver-api/early-userspace/buffer-format.rst has the grammar.
"""

import dataclasses
import stat
from collections.abc import Mapping
from pathlib import PurePosixPath

MAGIC = b"070701"
TRAILER = "TRAILER!!!"
_HEADER = 110  # bytes: the magic and 13 fields of 8 hexadecimal digits
_FIELDS = 13


class BadArchiveError(ValueError):
    """The bytes are no cpio "newc" archive."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One file of the image.

    Attributes:
        mode: type and permission bits, as in ``st_mode``.
        data: a file's content, or the bytes of a symbolic link's target; empty for all else.
        device: major and minor number of a device node.
    """

    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)

    @classmethod
    def file(cls, data: bytes, *, executable: bool = False) -> "Entry":
        """A regular file."""
        return cls(stat.S_IFREG | (0o755 if executable else 0o644), data)

    @classmethod
    def directory(cls, permissions: int = 0o755) -> "Entry":
        """A directory."""
        return cls(stat.S_IFDIR | permissions)

    @classmethod
    def link(cls, target: str) -> "Entry":
        """A symbolic link."""
        return cls(stat.S_IFLNK | 0o777, target.encode())

    @property
    def kind(self) -> str:
        """The letter that ``ls -l`` shows for the type."""
        return stat.filemode(self.mode)[0]


def pack(entries: Mapping[str, Entry]) -> bytes:
    """The archive, the same for the same entries: sorted, owner 0:0, time 0, inode numbers counted from 1.

    Paths have no leading slash. Directories above an entry are added where they are missing.
    """
    whole = dict(entries)
    for path in entries:
        for parent in PurePosixPath(path).parents:
            if str(parent) != ".":
                whole.setdefault(str(parent), Entry.directory())
    parts = [_record(number, path, whole[path]) for number, path in enumerate(sorted(whole), start=1)]
    parts.append(_record(0, TRAILER, Entry(0)))
    return b"".join(parts)


def _record(number: int, path: str, entry: Entry) -> bytes:
    name = path.encode() + b"\0"
    links = 0 if path == TRAILER else 1
    fields = (number, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
    header = MAGIC + b"".join(b"%08X" % field for field in fields)
    return _padded(header + name) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def unpack(archive: bytes) -> dict[str, Entry]:
    """The entries of an archive, or of several put one after another; later ones win, as in the kernel.

    Raises:
        BadArchiveError: with the byte offset of what is malformed.
    """
    found: dict[str, Entry] = {}
    at = 0
    while at < len(archive):
        if archive[at] == 0:  # padding between archives
            at += 1
            continue
        path, entry, at = _read_record(archive, at)
        if path != TRAILER:
            found[path] = entry
    if not found:
        raise BadArchiveError("it holds no file")
    return found


def _read_record(archive: bytes, at: int) -> tuple[str, Entry, int]:
    header = archive[at : at + _HEADER]
    if len(header) < _HEADER or not header.startswith(MAGIC):
        raise BadArchiveError(f"no cpio header at byte {at}")
    try:
        fields = [int(header[6 + 8 * i : 14 + 8 * i], 16) for i in range(_FIELDS)]
    except ValueError:
        raise BadArchiveError(f"malformed cpio header at byte {at}") from None
    mode, length, name_length = fields[1], fields[6], fields[11]
    name_at = at + _HEADER
    data_at = name_at + name_length
    data_at += -(data_at - at) % 4
    end = data_at + length
    if end > len(archive) or not name_length:
        raise BadArchiveError(f"the entry at byte {at} is cut off")
    path = archive[name_at : name_at + name_length - 1].decode(errors="surrogateescape")
    entry = Entry(mode, archive[data_at:end], (fields[9], fields[10]))
    return path, entry, end + -(end - at) % 4
