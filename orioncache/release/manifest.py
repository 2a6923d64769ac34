"""A manifest read by Python alone: the reference for native/manifest.c, with the same answers and refusals.

Errors are OSErrors as a file system would raise them; a broken record is EIO.
"""

import errno
import os
import stat
from collections.abc import Collection
from typing import NamedTuple, NoReturn

from orioncache.native import digests
from orioncache.release import format as layout
from orioncache.release.format import HOLE, ROOT, Header, ManifestError, Section


class Inode(NamedTuple):
    """An inode of the manifest.

    Attributes:
        size: bytes of a regular file or a symlink's target; else 0.
        mtime: seconds since 1970.
        mtime_nsec: and nanoseconds.
        mode: type and permissions.
        uid, gid: the owner.
        nlink: how many links it has.
        rdev: a device's number, as the kernel's new_encode_dev() has it.
        first: its first dirent, its first extent, or its target in BYTES.
        records: how many dirents or extents it has.
        parent: a directory's parent.
        xattr_first, xattr_count: its extended attributes.
        file_digest: the digest of a file with more than one block.
    """

    size: int
    mtime: int
    mtime_nsec: int
    mode: int
    uid: int
    gid: int
    nlink: int
    rdev: int
    first: int
    records: int
    parent: int
    xattr_first: int
    xattr_count: int
    file_digest: int


class Entry(NamedTuple):
    """An entry of a directory: its name, the inode's number, its type (DT_…)."""

    name: bytes
    inode: int
    type: int


class Block(NamedTuple):
    """One block of a file.

    Attributes:
        number: in BLOCKS; or ``HOLE``.
        length: bytes of the file that it holds.
        offset: where it begins in its pack.
        pack: in PACKS.
        digest: None for a hole.
    """

    number: int
    length: int
    offset: int
    pack: int
    digest: bytes | None


def _fail(code: int) -> NoReturn:
    raise OSError(code, os.strerror(code))


class Manifest:
    """An opened manifest: answers from its bytes, which are not trusted.

    Attributes:
        header: what it says of itself.
        inodes: how many there are.
    """

    def __init__(self, data: bytes | memoryview) -> None:
        """Opens it, in a time that does not depend on its size.

        Args:
            data: all of it.

        Raises:
            ManifestError: it is no manifest, one of another version, or broken.
        """
        self._data = memoryview(data)
        self.header: Header = layout.read_header(self._data[: layout.HEADER_SIZE], len(data))
        self._start = [offset for offset, _ in self.header.sections]
        self._count = [count for _, count in self.header.sections]
        self._size = [layout.record_size(section, self.header.digest_size) for section in Section]
        self.inodes = self._count[Section.INODES]
        try:
            root = self.inode(ROOT)
        except OSError:
            raise ManifestError("its root is broken") from None
        if not stat.S_ISDIR(root.mode) or root.parent != ROOT:
            raise ManifestError("its root is no directory")

    def verify(self) -> bool:
        """Whether it has the digest that its header names."""
        return digests.manifest_digest(self.header.digest_kind, self._data) == self.header.digest

    def inode(self, number: int) -> Inode:
        """An inode, whose records are there; ESTALE if there is none."""
        if not 0 <= number < self.inodes:
            _fail(errno.ESTALE)
        inode = Inode._make(layout.INODE.unpack_from(self._data, self._at(Section.INODES, number)))
        kind = stat.S_IFMT(inode.mode)
        if kind == stat.S_IFDIR:
            good = self._has(Section.DIRENTS, inode.first, inode.records) and inode.parent < self.inodes
        elif kind == stat.S_IFREG:
            good = inode.size <= layout.SIZE_MAX and self._has(Section.EXTENTS, inode.first, inode.records)
        elif kind == stat.S_IFLNK:
            good = 1 <= inode.size <= layout.TARGET_MAX and self._has(Section.BYTES, inode.first, inode.size)
        else:
            good = kind in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK)
        if (
            not good
            or inode.mode >> 16
            or inode.mtime_nsec >= 1_000_000_000
            or not self._has(Section.XATTRS, inode.xattr_first, inode.xattr_count)
        ):
            _fail(errno.EIO)
        return inode

    def lookup(self, directory: int, name: bytes) -> int:
        """The number of what has this name in a directory; ENOENT, ENOTDIR, ENAMETOOLONG."""
        inode = self._directory(directory)
        if len(name) > layout.NAME_MAX:
            _fail(errno.ENAMETOOLONG)
        low, high = inode.first, inode.first + inode.records
        while low < high:
            middle = (low + high) // 2
            found = self._name(middle)
            if name == found:
                return self._entry(directory, middle).inode
            if name < found:
                high = middle
            else:
                low = middle + 1
        _fail(errno.ENOENT)

    def entry(self, directory: int, position: int) -> Entry:
        """The entry at a position, from 0; ENOENT after the last."""
        inode = self._directory(directory)
        if not 0 <= position < inode.records:
            _fail(errno.ENOENT)
        return self._entry(directory, inode.first + position)

    def target(self, number: int) -> bytes:
        """A symlink's target; EINVAL for what is none."""
        inode = self.inode(number)
        if not stat.S_ISLNK(inode.mode):
            _fail(errno.EINVAL)
        target = self._text(inode.first, inode.size)
        if b"\0" in target:
            _fail(errno.EIO)
        return target

    def xattr(self, number: int, name: bytes) -> bytes:
        """The value of an extended attribute; ENODATA."""
        inode = self.inode(number)
        low, high = inode.xattr_first, inode.xattr_first + inode.xattr_count
        while low < high:
            middle = (low + high) // 2
            found, value, length = self._xattr(middle)
            if name == found:
                if length > layout.XATTR_MAX or not self._has(Section.BYTES, value, length):
                    _fail(errno.EIO)
                return self._text(value, length)
            if name < found:
                high = middle
            else:
                low = middle + 1
        _fail(errno.ENODATA)

    def xattrs(self, number: int) -> list[bytes]:
        """The names of the extended attributes."""
        inode = self.inode(number)
        return [self._xattr(inode.xattr_first + position)[0] for position in range(inode.xattr_count)]

    def block(self, number: int, file_block: int) -> Block:
        """Which block holds a part of a file; ENOENT beyond its end, EISDIR or EINVAL for what is no file."""
        return self._block(self._file(number), file_block)

    def allocated(self, number: int) -> int:
        """Bytes of a file that are no hole."""
        inode = self.inode(number)
        if not stat.S_ISREG(inode.mode):
            return 0
        blocks, last = 0, HOLE
        for extent in range(inode.first, inode.first + inode.records):
            _, count, last, _ = layout.EXTENT.unpack_from(self._data, self._at(Section.EXTENTS, extent))
            blocks += count if last != HOLE else 0
        if blocks >= self._blocks(inode):
            return inode.size
        tail = inode.size % self.header.block_size
        short = self.header.block_size - tail if tail and blocks and last != HOLE else 0
        return blocks * self.header.block_size - short

    def file_digest(self, number: int) -> bytes:
        """The digest of a file's content, as the manifest has it."""
        inode = self._file(number)
        blocks = self._blocks(inode)
        if blocks > 1:
            if inode.file_digest >= self._count[Section.FILE_DIGESTS]:
                _fail(errno.EIO)
            return self._record(Section.FILE_DIGESTS, inode.file_digest)
        if blocks == 1:
            return self._digest(self._block(inode, 0))
        return digests.digest(self.header.digest_kind, b"")

    def file_is_good(self, number: int) -> bool:
        """Whether that is what its blocks' digests add up to; takes time with the file's size."""
        inode = self._file(number)
        blocks = self._blocks(inode)
        if blocks <= 1:
            return True
        joined = b"".join(self._digest(self._block(inode, at)) for at in range(blocks))
        return digests.digest(self.header.digest_kind, joined) == self.file_digest(number)

    def path(self, number: int) -> bytes:
        """A path of an inode, without a leading slash; ENOENT if it has none. Searches all names."""
        names: list[bytes] = []
        inode = self.inode(number)
        while number != ROOT and sum(map(len, names)) + len(names) < 4096:
            directory = inode.parent if stat.S_ISDIR(inode.mode) else self._holder(number)
            names.append(self._name_in(directory, number))
            number = directory
            inode = self.inode(number)
        return b"/".join(reversed(names))

    def places(self, wanted: Collection[bytes]) -> dict[bytes, list[tuple[int, int]]]:
        """Where blocks with these digests stand: inodes, and which block of each. Searches all."""
        if not wanted:
            return {}
        digests_at, size = self._start[Section.DIGESTS], self._size[Section.DIGESTS]
        numbers = {}
        for number in range(self._count[Section.DIGESTS]):
            at = digests_at + number * size
            digest = bytes(self._data[at : at + size])
            if digest in wanted:
                numbers[number] = digest
        found: dict[bytes, list[tuple[int, int]]] = {}
        for inode in range(self.inodes):
            try:
                record = self.inode(inode)
            except OSError:
                continue
            if not stat.S_ISREG(record.mode):
                continue
            for extent in range(record.first, record.first + record.records):
                begins, count, first, _ = layout.EXTENT.unpack_from(
                    self._data, self._at(Section.EXTENTS, extent)
                )
                # A hostile extent may claim 2^32 blocks; of those that are wanted there are few.
                for number in numbers if count > len(numbers) else range(first, first + count):
                    if number in numbers and first <= number < first + count and first != HOLE:
                        found.setdefault(numbers[number], []).append((inode, begins + number - first))
        return found

    def pack(self, number: int) -> tuple[bytes, int]:
        """A pack's identity, and its size in bytes; ESTALE if there is none."""
        if not 0 <= number < self._count[Section.PACKS]:
            _fail(errno.ESTALE)
        identity, size, _ = layout.PACK.unpack_from(self._data, self._at(Section.PACKS, number))
        return identity, size

    def _at(self, section: Section, number: int) -> int:
        return self._start[section] + number * self._size[section]

    def _has(self, section: Section, first: int, count: int) -> bool:
        return first + count <= self._count[section]

    def _record(self, section: Section, number: int) -> bytes:
        at = self._at(section, number)
        return bytes(self._data[at : at + self._size[section]])

    def _text(self, first: int, length: int) -> bytes:
        at = self._start[Section.BYTES] + first
        return bytes(self._data[at : at + length])

    def _directory(self, number: int) -> Inode:
        inode = self.inode(number)
        if not stat.S_ISDIR(inode.mode):
            _fail(errno.ENOTDIR)
        return inode

    def _file(self, number: int) -> Inode:
        inode = self.inode(number)
        if not stat.S_ISREG(inode.mode):
            _fail(errno.EISDIR if stat.S_ISDIR(inode.mode) else errno.EINVAL)
        return inode

    def _name(self, dirent: int) -> bytes:
        first, _, length, _, _ = layout.DIRENT.unpack_from(self._data, self._at(Section.DIRENTS, dirent))
        if not 1 <= length <= layout.NAME_MAX or not self._has(Section.BYTES, first, length):
            _fail(errno.EIO)
        return self._text(first, length)

    def _entry(self, directory: int, dirent: int) -> Entry:
        """An entry fit to be shown.

        As each directory has one parent, nobody who starts at the root can walk in a circle.
        """
        name = self._name(dirent)
        _, number, _, kind, _ = layout.DIRENT.unpack_from(self._data, self._at(Section.DIRENTS, dirent))
        if b"/" in name or b"\0" in name or name in (b".", b"..") or number >= self.inodes:
            _fail(errno.EIO)
        inode = self.inode(number)
        if kind != stat.S_IFMT(inode.mode) >> 12:
            _fail(errno.EIO)
        if stat.S_ISDIR(inode.mode) and (inode.parent != directory or number == ROOT):
            _fail(errno.EIO)
        return Entry(name, number, kind)

    def _xattr(self, number: int) -> tuple[bytes, int, int]:
        record = layout.XATTR.unpack_from(self._data, self._at(Section.XATTRS, number))
        name, value, value_length, name_length, _ = record
        if not 1 <= name_length <= layout.NAME_MAX or not self._has(Section.BYTES, name, name_length):
            _fail(errno.EIO)
        text = self._text(name, name_length)
        if b"\0" in text:
            _fail(errno.EIO)
        return text, value, value_length

    def _blocks(self, inode: Inode) -> int:
        return -(-inode.size // self.header.block_size)

    def _block(self, inode: Inode, file_block: int) -> Block:
        if not 0 <= file_block < self._blocks(inode):
            _fail(errno.ENOENT)
        length = min(self.header.block_size, inode.size - file_block * self.header.block_size)
        low, high = inode.first, inode.first + inode.records
        while low < high:
            middle = (low + high) // 2
            begins, _, _, _ = layout.EXTENT.unpack_from(self._data, self._at(Section.EXTENTS, middle))
            low, high = (middle + 1, high) if begins <= file_block else (low, middle)
        if low == inode.first:
            _fail(errno.EIO)
        begins, count, first, _ = layout.EXTENT.unpack_from(self._data, self._at(Section.EXTENTS, low - 1))
        if file_block - begins >= count:
            _fail(errno.EIO)
        if first == HOLE:
            return Block(HOLE, length, 0, 0, None)
        number = first + file_block - begins
        if number >= self._count[Section.BLOCKS]:
            _fail(errno.EIO)
        offset, pack, stored = layout.PLACE.unpack_from(self._data, self._at(Section.BLOCKS, number))
        if stored != length or pack >= self._count[Section.PACKS]:
            _fail(errno.EIO)
        if offset > layout.SIZE_MAX or offset + length > self.pack(pack)[1]:
            _fail(errno.EIO)
        return Block(number, length, offset, pack, self._record(Section.DIGESTS, number))

    def _digest(self, block: Block) -> bytes:
        return block.digest or digests.digest(self.header.digest_kind, bytes(block.length))

    def _holder(self, number: int) -> int:
        """The directory of the first dirent that names an inode."""
        for dirent in range(self._count[Section.DIRENTS]):
            if layout.DIRENT.unpack_from(self._data, self._at(Section.DIRENTS, dirent))[1] != number:
                continue
            for directory in range(self.inodes):
                try:
                    inode = self._directory(directory)
                except OSError:
                    continue
                if inode.first <= dirent < inode.first + inode.records:
                    return directory
            break
        _fail(errno.ENOENT)

    def _name_in(self, directory: int, number: int) -> bytes:
        """The name of an inode in a directory."""
        for position in range(self._directory(directory).records):
            entry = self.entry(directory, position)
            if entry.inode == number:
                return entry.name
        _fail(errno.ENOENT)
