"""The content of a release's files, read out of its packs."""

import os
import stat
from collections import OrderedDict
from pathlib import Path
from types import TracebackType

from orioncache.errors import UserError
from orioncache.native import digests
from orioncache.release.detect import MANIFEST, PACKS
from orioncache.release.format import HOLE, ManifestError
from orioncache.release.manifest import Block, Manifest
from orioncache.release.packs import pack_file, read_quietly

# Blocks that were read last are kept: what a boot reads comes back to the same ones.
KEPT_BYTES = 32 << 20


def open_manifest(release: Path) -> Manifest:
    """The manifest in a release's directory, verified.

    Raises:
        UserError: it is damaged.
    """
    try:
        manifest = Manifest(read_quietly(release / MANIFEST))
    except ManifestError as error:
        raise UserError(f"{release}: its manifest is damaged: {error}", "orioncache release verify") from None
    if not manifest.verify():
        raise UserError(f"{release}: its manifest is damaged", "orioncache release verify")
    return manifest


class Content:
    """Reads parts of files; each block is verified when it is read.

    Attributes:
        release: the directory.
        manifest: what is in it.
    """

    def __init__(self, release: Path, manifest: Manifest) -> None:
        self.release = release
        self.manifest = manifest
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._packs: dict[int, int] = {}

    def __enter__(self) -> "Content":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for fd in self._packs.values():
            os.close(fd)
        self._packs.clear()

    def size(self, inode: int) -> int | None:
        """Bytes of a regular file; None if there is none of that number."""
        try:
            found = self.manifest.inode(inode)
        except OSError:
            return None
        return found.size if stat.S_ISREG(found.mode) else None

    def read(self, inode: int, offset: int, length: int) -> bytes:
        """A part of a file, which lies in it; holes are zeros.

        Raises:
            UserError: a block of it is missing or damaged.
        """
        step = self.manifest.header.block_size
        pieces = []
        while length:
            try:
                block = self.manifest.block(inode, offset // step)
            except OSError as error:
                raise self._bad(inode, error.strerror or "") from None
            first = offset % step
            piece = self._block(inode, block)[first : first + length]
            if not piece:
                raise self._bad(inode, "the part lies beyond its end")
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
        return b"".join(pieces)

    def _block(self, inode: int, block: Block) -> bytes:
        if block.number == HOLE:
            return bytes(block.length)
        if block.number in self._blocks:
            self._blocks.move_to_end(block.number)
            return self._blocks[block.number]
        try:
            data = os.pread(self._pack(block.pack), block.length, block.offset)
        except OSError as error:
            raise self._bad(inode, error.strerror or "") from None
        if digests.digest(self.manifest.header.digest_kind, data) != block.digest:
            raise self._bad(inode, "a block of it does not have its digest")
        self._blocks[block.number] = data
        while len(self._blocks) * self.manifest.header.block_size > KEPT_BYTES:
            self._blocks.popitem(last=False)
        return data

    def _pack(self, number: int) -> int:
        if number not in self._packs:
            path = self.release / PACKS / pack_file(self.manifest.pack(number)[0])
            self._packs[number] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return self._packs[number]

    def _bad(self, inode: int, why: str) -> UserError:
        try:
            name = os.fsdecode(self.manifest.path(inode))
        except OSError:
            name = f"inode {inode}"
        shown = "".join(c if c.isprintable() else "?" for c in name)
        return UserError(f"{self.release}: {shown}: {why}", "orioncache release verify names all that is bad")
