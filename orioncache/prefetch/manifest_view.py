"""A release as heuristics see it: its manifest, and what of its blocks is in RAM."""

from __future__ import annotations

import struct

from orioncache.prefetch.interface import HOLE, View

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

_DIRECTORY, _FILE, _SYMLINK = 0o040000, 0o100000, 0o120000
_KIND = 0o170000
_ROOT = 0
# As the kernel has it.
_SYMLINKS = 40
# The manifest's sections of blocks and of their digests (docs/manifest.md), and a block's record.
_BLOCKS, _DIGESTS = 3, 4
_SECTIONS_AT = 56
_PLACE = struct.Struct("<QII")
# Of a digest; no kind of digest is shorter, and none of its users needs more to tell blocks apart.
_PREFIX = 16


class ManifestView(View):
    """A view of a release whose manifest is at hand.

    Attributes:
        block_count: different blocks of the release.
    """

    def __init__(
        self,
        data: bytes,
        manifest: Any,  # noqa: ANN401  # NativeManifest or release.manifest.Manifest: the same methods
        *,
        is_cached: Callable[[int], bool],
        read: Callable[[int], bytes | None],
    ) -> None:
        """Makes one.

        Args:
            data: the manifest's bytes; the caller has verified them.
            manifest: the same, opened.
            is_cached: whether a block is in RAM.
            read: a block's bytes if it is in RAM, else None; never waits.
        """
        self._data = data
        self._manifest = manifest
        self._cached = is_cached
        self._read = read
        self.block_size = int.from_bytes(data[32:36], "little")
        self._digest_size = int.from_bytes(data[28:32], "little")
        self._places_at = int.from_bytes(data[_SECTIONS_AT + 16 * _BLOCKS :][:8], "little")
        self.block_count = int.from_bytes(data[_SECTIONS_AT + 16 * _BLOCKS + 8 :][:8], "little")
        self._digests_at = int.from_bytes(data[_SECTIONS_AT + 16 * _DIGESTS :][:8], "little")
        self._numbers: dict[bytes, int] | None = None
        self._sizes: dict[int, int] = {}
        self._paths: dict[int, str | None] = {}
        self._inodes: dict[str, int | None] = {}
        self._file_blocks: dict[tuple[int, int], int | None] = {}

    def path(self, inode: int) -> str | None:
        """A path of an inode."""
        if inode not in self._paths:
            try:
                self._paths[inode] = self._manifest.path(inode).decode(errors="surrogateescape")
            except OSError:
                self._paths[inode] = None
        return self._paths[inode]

    def inode(self, path: str) -> int | None:
        """The inode that a path leads to."""
        if path not in self._inodes:
            try:
                self._inodes[path] = self._walk(path)
            except (OSError, UnicodeEncodeError):
                self._inodes[path] = None
        return self._inodes[path]

    def names(self, path: str) -> Sequence[str]:
        """The names in a directory."""
        inode = self.inode(path)
        found = []
        try:
            if inode is not None and self._manifest.inode(inode).mode & _KIND == _DIRECTORY:
                position = 0
                while True:
                    found.append(self._manifest.entry(inode, position).name.decode(errors="surrogateescape"))
                    position += 1
        except OSError:  # after the last
            pass
        return found

    def size(self, inode: int) -> int:
        """Bytes of a regular file."""
        if inode not in self._sizes:
            try:
                found = self._manifest.inode(inode)
                self._sizes[inode] = found.size if found.mode & _KIND == _FILE else 0
            except (OSError, OverflowError):
                self._sizes[inode] = 0
        return self._sizes[inode]

    def block(self, inode: int, file_block: int) -> int | None:
        """The block that holds a part of a file."""
        key = (inode, file_block)
        if key not in self._file_blocks:
            try:
                number = self._manifest.block(inode, file_block).number
            except (OSError, OverflowError):
                number = HOLE
            self._file_blocks[key] = None if number == HOLE else number
        return self._file_blocks[key]

    def place(self, block: int) -> tuple[int, int, int]:
        """Where a block lies: offset in its pack, pack, bytes."""
        found: tuple[int, int, int] = _PLACE.unpack_from(self._data, self._places_at + block * _PLACE.size)
        return found

    def length(self, block: int) -> int:
        """Bytes of a block."""
        return self.place(block)[2] if 0 <= block < self.block_count else 0

    def digest(self, block: int) -> bytes | None:
        """The digest of a block."""
        if not 0 <= block < self.block_count:
            return None
        at = self._digests_at + block * self._digest_size
        return self._data[at : at + self._digest_size]

    def find(self, digest: bytes) -> int | None:
        """The block with this digest; the first call takes time with the size of the release."""
        if self._numbers is None:
            at, size, data = self._digests_at, self._digest_size, self._data
            self._numbers = {
                data[at + number * size : at + number * size + _PREFIX]: number
                for number in range(self.block_count)
            }
        return self._numbers.get(digest[:_PREFIX])

    def is_cached(self, block: int) -> bool:
        """Whether a block is in RAM."""
        return self._cached(block)

    def content(self, inode: int, offset: int, length: int) -> bytes | None:
        """Bytes of a file if they are in RAM."""
        end = min(self.size(inode), offset + length)
        if offset < 0 or offset >= end:
            return b""
        parts = []
        size = self.block_size
        for number in range(offset // size, (end - 1) // size + 1):
            begin = number * size
            block = self.block(inode, number)
            data = bytes(min(size, end - begin)) if block is None else self._read(block)
            if data is None:
                return None
            parts.append(data[max(0, offset - begin) : end - begin])
        return b"".join(parts)

    def _walk(self, path: str) -> int:
        """As the kernel does, with the release's root as ``/``; OSError if it leads nowhere."""
        parents = [_ROOT]
        todo = path.encode(errors="surrogateescape").split(b"/")[::-1]
        links = 0
        while todo:
            name = todo.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                del parents[1 if len(parents) == 1 else -1 :]
                continue
            number = self._manifest.lookup(parents[-1], name)
            kind = self._manifest.inode(number).mode & _KIND
            if kind == _SYMLINK:
                links += 1
                if links > _SYMLINKS:
                    raise OSError(40, "too many symlinks")
                target = self._manifest.target(number)
                if target.startswith(b"/"):
                    parents = [_ROOT]
                todo += target.split(b"/")[::-1]
                continue
            parents.append(number)
        return parents[-1]
