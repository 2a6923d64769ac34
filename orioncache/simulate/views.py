"""The release that a trace was recorded of: all of it, or what the trace itself knows."""

import os
from pathlib import Path

from orioncache.errors import UserError
from orioncache.prefetch.manifest_view import ManifestView
from orioncache.release.format import HEADER_SIZE
from orioncache.simulate.boot import SimulatedView
from orioncache.simulate.recording import Recording


class ReleaseView(ManifestView, SimulatedView):
    """A release in a directory, as servers export it: names, content, and where each block lies."""

    def __init__(self, directory: Path) -> None:
        """Opens it.

        Raises:
            UserError: there is no release, or it is broken.
        """
        from orioncache.native.manifest import NativeManifest  # noqa: PLC0415

        self.cached = _nothing
        self._directory = directory
        try:
            data = (directory / "manifest").read_bytes()
            manifest = NativeManifest(data)
        except OSError as error:
            raise UserError(
                f"{directory} holds no release that can be read: {error.strerror}",
                "give STORE/releases/NAME/VERSION",
            ) from None
        super().__init__(data, manifest, is_cached=self._is_cached, read=self._content)
        self.manifest_digest = data[480 : 480 + int.from_bytes(data[28:32], "little")]
        assert len(data) >= HEADER_SIZE
        self._packs: dict[int, int] = {}
        self._contents: dict[int, bytes] = {}

    def _is_cached(self, block: int) -> bool:
        # Not `self.cached` itself, which each boot sets anew.
        return self.cached(block)

    def _content(self, block: int) -> bytes | None:
        """A block's bytes if the simulated node has it."""
        if not self.cached(block):
            return None
        if block not in self._contents:
            offset, pack, length = self.place(block)
            self._contents[block] = os.pread(self._pack(pack), length, offset)
        return self._contents[block]

    def _pack(self, pack: int) -> int:
        if pack not in self._packs:
            from orioncache.release.manifest import Manifest  # noqa: PLC0415

            identity, _ = Manifest(self._data).pack(pack)
            path = self._directory / "packs" / f"{identity.hex()}.pack"
            self._packs[pack] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return self._packs[pack]


class TraceView(SimulatedView):
    """What a trace knows: names and sizes of the files that occur, no content.

    A block's neighbours are those of the inodes that occur.
    """

    def __init__(self, recording: Recording) -> None:
        """Numbers the blocks of all files that occur, in the inodes' order."""
        self.cached = _nothing
        self.block_size = recording.block_size
        self._files = recording.files
        self._numbers: dict[tuple[int, int], int | None] = {}
        self._inodes = {path: inode for inode, (path, _) in recording.files.items() if path}
        self._places: list[tuple[int, int, int]] = []
        self._digests: list[bytes | None] = []
        self._known: dict[bytes, int] = {}
        at = 0
        for inode in sorted(recording.files):
            _, size = recording.files[inode]
            for number in range(-(-size // self.block_size)):
                digest = recording.digests.get((inode, number), b"")
                if digest is None:
                    self._numbers[inode, number] = None
                    continue
                if digest and digest[:16] in self._known:
                    self._numbers[inode, number] = self._known[digest[:16]]
                    continue
                length = min(self.block_size, size - number * self.block_size)
                self._numbers[inode, number] = len(self._places)
                if digest:
                    self._known[digest[:16]] = len(self._places)
                self._places.append((at, 0, length))
                self._digests.append(digest or None)
                at += length
        self.block_count = len(self._places)

    def path(self, inode: int) -> str | None:
        """A path of an inode."""
        return self._files[inode][0] or None if inode in self._files else None

    def inode(self, path: str) -> int | None:
        """The inode of a path that occurs."""
        return self._inodes.get(path)

    def names(self, path: str) -> list[str]:
        """None: directories do not occur."""
        return []

    def size(self, inode: int) -> int:
        """Bytes of a file."""
        return self._files[inode][1] if inode in self._files else 0

    def block(self, inode: int, file_block: int) -> int | None:
        """The block that holds a part of a file."""
        return self._numbers.get((inode, file_block))

    def place(self, block: int) -> tuple[int, int, int]:
        """Where a block would lie."""
        return self._places[block]

    def length(self, block: int) -> int:
        """Bytes of a block."""
        return self._places[block][2] if 0 <= block < self.block_count else 0

    def digest(self, block: int) -> bytes | None:
        """The digest of a block."""
        return self._digests[block] if 0 <= block < self.block_count else None

    def find(self, digest: bytes) -> int | None:
        """The block with this digest."""
        return self._known.get(digest[:16])

    def is_cached(self, block: int) -> bool:
        """Whether a block is in RAM."""
        return self.cached(block)

    def content(self, inode: int, offset: int, length: int) -> bytes | None:
        """None: a trace has no content."""
        return None


def _nothing(block: int) -> bool:
    return False
