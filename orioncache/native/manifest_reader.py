"""A manifest as C reads it, in the few words that a node's heuristics need; nothing is slow to import here.

Every method raises OSError with the errno that C gave; a broken record is EIO.
"""

from __future__ import annotations

import os

from orioncache.native._orion import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PATH_MOST = 4096


class Name:
    """An entry of a directory.

    Attributes:
        name: as bytes.
        inode: its number.
        type: as in struct dirent.
    """

    __slots__ = ("inode", "name", "type")

    def __init__(self, name: bytes, inode: int, type: int) -> None:
        self.name = name
        self.inode = inode
        self.type = type


class ManifestReader:
    """A manifest that somebody else has opened, and keeps."""

    def __init__(self, handle: Any) -> None:  # noqa: ANN401  # cffi's pointers have no types
        """Takes a ``struct orion_manifest *``."""
        self._manifest = handle

    def inode(self, number: int) -> Any:  # noqa: ANN401  # cffi's structures have no types
        """An inode's fields, as native/manifest.h explains them; ESTALE if there is none."""
        found = ffi.new("const struct orion_inode **")
        checked(lib.orion_manifest_inode(self._manifest, number, found))
        return found[0]

    def lookup(self, directory: int, name: bytes) -> int:
        """What has this name in a directory; ENOENT, ENOTDIR, ENAMETOOLONG."""
        found = ffi.new("uint32_t *")
        checked(lib.orion_manifest_lookup(self._manifest, directory, name, len(name), found))
        return int(found[0])

    def entry(self, directory: int, position: int) -> Any:  # noqa: ANN401  # a Name, or what is like one
        """The entry at a position; ENOENT after the last."""
        found = ffi.new("struct orion_name *")
        checked(lib.orion_manifest_entry(self._manifest, directory, position, found))
        return Name(bytes(ffi.buffer(found.text, found.length)), found.inode, found.type)

    def target(self, number: int) -> bytes:
        """A symlink's target; EINVAL for what is none."""
        text, length = ffi.new("const char **"), ffi.new("size_t *")
        checked(lib.orion_manifest_target(self._manifest, number, text, length))
        return bytes(ffi.buffer(text[0], length[0]))

    def block(self, number: int, file_block: int) -> Any:  # noqa: ANN401  # cffi's structures have no types
        """Which block holds a part of a file; ENOENT beyond its end, EISDIR or EINVAL for what is no file."""
        found = ffi.new("struct orion_block_of_file *")
        checked(lib.orion_manifest_block(self._manifest, number, file_block, found))
        return found

    def path(self, number: int) -> bytes:
        """A path of an inode, from the root without a leading slash; ENOENT if it has none."""
        found = ffi.new("char[]", PATH_MOST)
        checked(lib.orion_manifest_path(self._manifest, number, found, PATH_MOST))
        return bytes(ffi.string(found))


def checked(result: int) -> None:
    """Raises what C gave as a negative errno."""
    if result:
        raise OSError(-result, os.strerror(-result))
