"""Writes a bundle: pages of a release's files, in the order in which a boot wants them."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from orioncache import native
from orioncache.atomic import replacing
from orioncache.errors import UserError
from orioncache.native import digests
from orioncache.release import bundle as layout
from orioncache.release.bundle import CHUNK, FRAME, FRAME_MAX, HEADER, HEADER_SIZE, PAGE
from orioncache.release.content import Content
from orioncache.release.manifest import Manifest


@dataclass(frozen=True)
class Piece:
    """A part of a file that a boot wants.

    Attributes:
        inode: the file's number in the manifest.
        offset: bytes; a multiple of ``PAGE``.
        length: bytes, at least 1.
        t_us: when it is wanted, in microseconds after the mount.
    """

    inode: int
    offset: int
    length: int
    t_us: int


@dataclass(frozen=True)
class Written:
    """A bundle that was written.

    Attributes:
        path: its file.
        role: its nodes'.
        size: bytes of the file.
        raw_bytes: of pages in it.
        frames: how many.
        chunks: how many.
        holes: bytes left out because a hole of the file has them, as zeros.
    """

    path: Path
    role: str
    size: int
    raw_bytes: int
    frames: int
    chunks: int
    holes: int


def write(release: Path, manifest: Manifest, role: str, pieces: Iterable[Piece], boots: int) -> Written:
    """Writes the bundle of a role into a release's directory; the same pieces give the same bytes.

    What lies in no file is left out, as are holes, and a page that an earlier piece has.

    Args:
        release: the directory: packs are read, and the bundle appears in it when it is whole.
        manifest: the release's.
        role: which nodes it is for.
        pieces: what they want.
        boots: how many the pieces were learned from.

    Raises:
        UserError: there is nothing to write, or a block of the release is damaged.
    """
    header = manifest.header
    path = layout.place(release, role)
    wanted = sorted(pieces, key=lambda piece: piece.t_us)
    frames: list[bytes] = []
    chunks: list[bytes] = []
    packed: list[bytes] = []
    raw_bytes, size = 0, 0
    with Content(release, manifest) as content:
        chooser = _Chooser(content)
        for frame in _frames(_joined(chooser.new(wanted))):
            raw = bytearray()
            first = len(chunks)
            for piece in frame:
                chunks.append(CHUNK.pack(piece.offset, piece.inode, piece.length, len(raw), 0))
                raw += content.read(piece.inode, piece.offset, piece.length)
            packed.append(native.squeeze(raw))
            digest = digests.digest(header.digest_kind, raw)
            counts = len(packed[-1]), len(raw), first, len(chunks) - first
            frames.append(FRAME.pack(size, *counts, frame[0].t_us, digest))
            size += len(packed[-1])
            raw_bytes += len(raw)
    if not frames:
        raise UserError(
            f"nothing of what role {role} wants is in {release}",
            "record a boot of this release, or a near one",
        )
    if len(frames) > layout.FRAMES_MAX or len(chunks) > layout.CHUNKS_MAX:
        raise UserError(
            f"a bundle of {raw_bytes:,} bytes in {len(chunks):,} pieces is too large",
            "build the profile from boots alone, or give a larger --share",
        )
    index, payload = _index(frames, chunks)
    chunks_at = layout.aligned(HEADER_SIZE + FRAME.size * len(frames))
    head = HEADER.pack(
        layout.MAGIC, layout.VERSION, HEADER_SIZE, payload + size, header.digest_kind, header.digest_size,
        len(frames), len(chunks), HEADER_SIZE, chunks_at, payload,
        raw_bytes, size, header.digest, role.encode(), boots, b"", b"",
    )  # fmt: skip
    digest = digests.digest(header.digest_kind, head[: layout.DIGEST_AT] + index)
    path.parent.mkdir(exist_ok=True)
    # A signature is of the old bytes: better none than one that is wrong.
    layout.signature(path).unlink(missing_ok=True)
    with replacing(path) as file:
        file.write(head[: layout.DIGEST_AT] + digest.ljust(layout.DIGEST_MAX, b"\0") + index)
        for each in packed:
            file.write(each)
    return Written(path, role, payload + size, raw_bytes, len(frames), len(chunks), chooser.holes)


def leftovers(release: Path) -> list[Path]:
    """What killed writers left in a release's directory."""
    try:
        return sorted(path for path in (release / layout.FOLDER).iterdir() if path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _index(frames: list[bytes], chunks: list[bytes]) -> tuple[bytes, int]:
    """Everything from the header's end to the payload, and where that begins."""
    chunks_at = layout.aligned(HEADER_SIZE + FRAME.size * len(frames))
    payload = layout.aligned(chunks_at + CHUNK.size * len(chunks))
    index = bytearray(payload - HEADER_SIZE)
    for number, frame in enumerate(frames):
        offset, *others = FRAME.unpack(frame)
        FRAME.pack_into(index, FRAME.size * number, payload + offset, *others)
    at = chunks_at - HEADER_SIZE
    index[at : at + CHUNK.size * len(chunks)] = b"".join(chunks)
    return bytes(index), payload


class _Chooser:
    """Cuts pieces down to pages that are in a file, in no hole, and in no earlier piece.

    Attributes:
        holes: bytes that were left out for lying in a hole.
    """

    def __init__(self, content: Content) -> None:
        self.holes = 0
        self._content = content
        self._seen: set[tuple[int, int]] = set()

    def new(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """The pieces, page by page."""
        for piece in pieces:
            size = self._content.size(piece.inode)
            if size is None or piece.offset % PAGE:
                continue
            for offset in range(piece.offset, min(piece.offset + piece.length, size), PAGE):
                page = (piece.inode, offset // PAGE)
                if page in self._seen:
                    continue
                self._seen.add(page)
                length = min(PAGE, size - offset)
                if self._is_hole(piece.inode, offset):
                    self.holes += length
                else:
                    yield Piece(piece.inode, offset, length, piece.t_us)

    def _is_hole(self, inode: int, offset: int) -> bool:
        manifest = self._content.manifest
        try:
            return manifest.block(inode, offset // manifest.header.block_size).digest is None
        except OSError as error:
            raise UserError(
                f"{self._content.release}: inode {inode}: {os.strerror(error.errno or 0)}",
                "orioncache release verify names all that is bad",
            ) from None


def _joined(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Pieces that follow each other in a file as one, up to what a frame takes."""
    last: Piece | None = None
    for piece in pieces:
        if last is not None:
            length = last.length + piece.length
            if (last.inode, last.offset + last.length) == (piece.inode, piece.offset) and length <= FRAME_MAX:
                last = Piece(last.inode, last.offset, length, last.t_us)
                continue
            yield last
        last = piece
    if last is not None:
        yield last


def _frames(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """The pieces of each frame; one that does not fit is cut, so that frames are full."""
    frame: list[Piece] = []
    room = FRAME_MAX
    for piece in pieces:
        rest = piece
        while rest.length > room:
            head = room // PAGE * PAGE
            if head:
                frame.append(Piece(rest.inode, rest.offset, head, rest.t_us))
                rest = Piece(rest.inode, rest.offset + head, rest.length - head, rest.t_us)
            yield frame
            frame, room = [], FRAME_MAX
        frame.append(rest)
        room -= rest.length
    if frame:
        yield frame
