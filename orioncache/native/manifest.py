"""A manifest as C reads it (native/manifest.h): to check one, and to hold two readers against each other.

Every method raises OSError with the errno that C gave; a broken record is EIO.
"""

import dataclasses
import os
from typing import Any, NamedTuple

from orioncache.native._orion import ffi, lib
from orioncache.native.manifest_reader import ManifestReader, checked

HOLE = (1 << 32) - 1


@dataclasses.dataclass(frozen=True)
class Inode:
    """An inode's fields, as native/manifest.h explains them."""

    size: int
    mtime: int
    mtime_nsec: int
    mode: int
    uid: int
    gid: int
    nlink: int
    rdev: int
    first: int
    count: int
    parent: int
    xattr_count: int


class Entry(NamedTuple):
    """An entry of a directory."""

    name: bytes
    inode: int
    type: int


class Block(NamedTuple):
    """One block of a file; a hole has number ``HOLE`` and no digest."""

    number: int
    length: int
    offset: int
    pack: int
    digest: bytes | None


class NativeManifest(ManifestReader):
    """A manifest with all that can be asked of it."""

    def __init__(self, data: bytes) -> None:
        """Opens it.

        Raises:
            OSError: EINVAL: no manifest; EPROTONOSUPPORT: another version; EBADMSG: broken.
        """
        # Memory of its own, because bytes objects need not be aligned to 8.
        self._bytes = ffi.new("uint64_t[]", len(data) // 8 + 1)
        ffi.memmove(self._bytes, data, len(data))
        super().__init__(ffi.new("struct orion_manifest *"))
        checked(lib.orion_manifest_open(ffi.cast("uint8_t *", self._bytes), len(data), self._manifest))
        self._digest_size = int.from_bytes(data[28:32], "little")

    @property
    def inodes(self) -> int:
        """How many there are."""
        return int(self._manifest.inode_count)

    @property
    def blocks(self) -> int:
        """How many different blocks there are."""
        return int(self._manifest.block_count)

    @property
    def handle(self) -> Any:  # noqa: ANN401  # cffi's pointers have no types
        """For other C functions; good for as long as this object lives."""
        return self._manifest

    def verify(self) -> bool:
        """Whether the manifest has the digest that its header names."""
        return bool(lib.orion_manifest_verify(self._manifest) == 0)

    def check(self) -> str | None:
        """The first record that no builder could have left so; None if all are right."""
        problem = ffi.new("char[]", 200)
        result = lib.orion_manifest_check(self._manifest, problem, 200)
        if result == 0:
            return None
        text = bytes(ffi.string(problem)).decode()
        return text or os.strerror(-result)

    def inode(self, number: int) -> Inode:
        """An inode; ESTALE if there is none."""
        found = super().inode(number)
        return Inode(**{field.name: getattr(found, field.name) for field in dataclasses.fields(Inode)})

    def entry(self, directory: int, position: int) -> Entry:
        """The entry at a position; ENOENT after the last."""
        found = super().entry(directory, position)
        return Entry(found.name, found.inode, found.type)

    def xattr(self, number: int, name: bytes) -> bytes:
        """The value of an extended attribute; ENODATA."""
        value, length = ffi.new("const uint8_t **"), ffi.new("size_t *")
        checked(lib.orion_manifest_xattr(self._manifest, number, name, len(name), value, length))
        return bytes(ffi.buffer(value[0], length[0]))

    def xattrs(self, number: int) -> list[bytes]:
        """The names of the extended attributes."""
        name, length = ffi.new("const char **"), ffi.new("size_t *")
        names = []
        for position in range(super().inode(number).xattr_count):
            checked(lib.orion_manifest_xattr_name(self._manifest, number, position, name, length))
            names.append(bytes(ffi.buffer(name[0], length[0])))
        return names

    def block(self, number: int, file_block: int) -> Block:
        """Which block holds a part of a file; ENOENT beyond its end, EISDIR or EINVAL for what is no file."""
        found = super().block(number, file_block)
        digest = bytes(ffi.buffer(found.digest, self._digest_size)) if found.digest else None
        return Block(found.number, found.length, found.offset, found.pack, digest)

    def allocated(self, number: int) -> int:
        """Bytes of a file that are no hole."""
        return int(lib.orion_manifest_allocated(self._manifest, super().inode(number)))

    def file_digest(self, number: int) -> bytes:
        """The digest of a file's content, as the manifest has it."""
        found = ffi.new("uint8_t[]", lib.ORION_DIGEST_MAX)
        checked(lib.orion_manifest_file_digest(self._manifest, number, found))
        return bytes(ffi.buffer(found, self._digest_size))

    def file_is_good(self, number: int) -> bool:
        """Whether that is what its blocks' digests add up to; takes time with the file's size."""
        return bool(lib.orion_manifest_file_verify(self._manifest, number) == 0)
