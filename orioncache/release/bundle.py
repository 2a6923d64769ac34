"""A bundle: what a boot will read, in the order of its reading, in one file beside the release.

docs/profiles.md specifies the format; native/bundle_file.c is the node's reader. Nothing in it is believed.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from orioncache import native
from orioncache.errors import UserError
from orioncache.native import digests
from orioncache.options import is_role

MAGIC = b"ORIONBN\n"
VERSION = 1
HEADER_SIZE = 512
FRAME_MAX = 256 << 10  # raw bytes
PAGE = 4096
# What a boot reads has some hundred frames and some thousand chunks.
FRAMES_MAX = 1 << 16
CHUNKS_MAX = 1 << 20

HEADER = struct.Struct("<8sIIQIIIIQQQQQ32s64sQ296s32s")
FRAME = struct.Struct("<QIIIIQ32s")
CHUNK = struct.Struct("<QIIII")
DIGEST_AT, DIGEST_MAX = 480, 32

FOLDER = "bundles"
SUFFIX = ".bundle"
SIGNATURE_SUFFIX = ".bundle.sig"
DEFAULT_ROLE = "default"

_MEND = "orioncache release bundle writes it anew"


class BundleError(UserError):
    """This file is no bundle that can be used."""


class Frame(NamedTuple):
    """A piece of a bundle that is packed and verified as one.

    Attributes:
        offset: of its packed bytes in the file.
        packed: how many these are; as many as raw: they are stored as they are.
        raw: bytes of its chunks, one after the other; 1 to ``FRAME_MAX``.
        first: its first chunk.
        chunks: how many it has, at least 1.
        t_us: when a boot wanted its first page, microseconds after the mount; a hint.
        digest: of the raw bytes, padded with zeros to 32 bytes.
    """

    offset: int
    packed: int
    raw: int
    first: int
    chunks: int
    t_us: int
    digest: bytes


class Chunk(NamedTuple):
    """Whole pages of a file, or those at its end.

    Attributes:
        offset: in the file, bytes; a multiple of ``PAGE``.
        inode: the file's number in the manifest.
        length: bytes; a multiple of ``PAGE`` but at the file's end.
        at: where its bytes begin in its frame's raw ones.
        reserved: 0.
    """

    offset: int
    inode: int
    length: int
    at: int
    reserved: int


def check_role(text: str) -> str:
    """A node's role, if it is one: it names a bundle's file.

    Raises:
        UserError: it is not.
    """
    if not is_role(text):
        raise UserError(
            f"{text!r} is no role of a node", "use up to 63 of a-z 0-9 . _ -, not a dot at the beginning"
        )
    return text


def place(release: Path, role: str) -> Path:
    """Where the bundle of a role is or would be, in a release's directory."""
    return release / FOLDER / (check_role(role) + SUFFIX)


def signature(bundle: Path) -> Path:
    """Where the signature of a bundle is or would be."""
    return bundle.with_name(bundle.name.removesuffix(SUFFIX) + SIGNATURE_SUFFIX)


def bundles(release: Path) -> list[Path]:
    """The bundles in a release's directory."""
    try:
        found = sorted((release / FOLDER).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [
        path
        for path in found
        if path.name.endswith(SUFFIX)
        and is_role(path.name.removesuffix(SUFFIX))
        # Nothing that would have a reader wait.
        and path.is_file()
    ]


def aligned(length: int) -> int:
    """The first multiple of a page that is not below."""
    return -(-length // PAGE) * PAGE


class Bundle:
    """An opened bundle, whose header and index are good.

    Attributes:
        path: its file.
        size: bytes of the file.
        digest_kind: of the frames' digests and the index's (:mod:`orioncache.native.digests`).
        manifest: the digest of the manifest of the release that it belongs to.
        role: which nodes it is for.
        boots: how many were merged into its profile.
        raw_bytes: of pages.
        packed_bytes: what they take in the file.
        digest: of header and index, and through the frames' digests of everything.
        frames: in the order in which a node wants them.
        chunks: of all frames, in their order.
    """

    def __init__(self, path: Path) -> None:
        """Reads and checks header and index.

        Raises:
            BundleError: it is no bundle, one of another version, or broken.
            OSError: the file cannot be read.
        """
        self.path = path
        with path.open("rb") as file:
            self.size = os.fstat(file.fileno()).st_size
            head = file.read(HEADER_SIZE)
            payload = self._header(head)
            index = file.read(payload - HEADER_SIZE)
        if len(index) != payload - HEADER_SIZE:
            raise self._broken("it is cut short")
        found = digests.digest(self.digest_kind, head[:DIGEST_AT] + index)
        if found != self.digest:
            raise self._broken("it does not have the digest that its header names")
        self.frames = self._frames(index, payload)
        self.chunks = self._chunks(index)
        self._check_pages()

    def raw(self, number: int) -> bytes:
        """The raw bytes of a frame, verified.

        Raises:
            BundleError: they do not have the frame's digest.
        """
        with self.path.open("rb") as file:
            return self._raw(file.fileno(), number)

    def contents(self) -> Iterator[tuple[Chunk, bytes]]:
        """Every chunk with its bytes, verified.

        Raises:
            BundleError: a frame does not have its digest.
        """
        with self.path.open("rb") as file:
            for number, frame in enumerate(self.frames):
                raw = self._raw(file.fileno(), number)
                for chunk in self.chunks[frame.first : frame.first + frame.chunks]:
                    yield chunk, raw[chunk.at : chunk.at + chunk.length]

    def _raw(self, fd: int, number: int) -> bytes:
        frame = self.frames[number]
        packed = os.pread(fd, frame.packed, frame.offset)
        if len(packed) != frame.packed:
            raise self._broken(f"frame {number} is cut short")
        try:
            raw = native.decompress(packed, frame.raw)
        except native.CorruptBlockError:
            raise self._broken(f"frame {number} is damaged") from None
        if digests.digest(self.digest_kind, raw).ljust(DIGEST_MAX, b"\0") != frame.digest:
            raise self._broken(f"frame {number} does not have its digest")
        return raw

    def _broken(self, why: str) -> BundleError:
        return BundleError(f"{self.path}: {why}", _MEND)

    def _header(self, head: bytes) -> int:
        """Takes the header's fields; returns where the payload begins."""
        if head[:8] != MAGIC:
            raise self._broken("this is no bundle")
        if len(head) >= 12 and (version := int.from_bytes(head[8:12], "little")) != VERSION:
            raise self._broken(f"it has version {version} of the format, and this program reads {VERSION}")
        if len(head) < HEADER_SIZE:
            raise self._broken("it is cut short")
        fields = HEADER.unpack(head)
        header_size, file_size, kind, digest_size, frame_count, chunk_count = fields[2:8]
        frames_at, chunks_at, payload, self.raw_bytes, self.packed_bytes = fields[8:13]
        manifest, role, self.boots, reserved, digest = fields[13:]
        if file_size != self.size:
            raise self._broken(f"it has {self.size:,} bytes and should have {file_size:,}")
        if frame_count > FRAMES_MAX or chunk_count > CHUNKS_MAX:
            raise self._broken(f"it is too large: {frame_count:,} frames, {chunk_count:,} chunks")
        name = role.rstrip(b"\0")
        good = (
            header_size == frames_at == HEADER_SIZE
            and digest_size == digests.size(kind) != 0
            and 1 <= frame_count <= chunk_count
            and chunks_at == aligned(HEADER_SIZE + FRAME.size * frame_count)
            and payload == aligned(chunks_at + CHUNK.size * chunk_count)
            and payload + self.packed_bytes == self.size
            and self.boots >= 1
            and is_role(name.decode("latin-1"))
            and not any(reserved)
            and not any(manifest[digest_size:])
            and not any(digest[digest_size:])
        )
        if not good:
            raise self._broken("its header is broken")
        self.digest_kind: int = kind
        self.manifest: bytes = manifest[:digest_size]
        self.role: str = name.decode()
        self.digest: bytes = digest[:digest_size]
        self._counts = frame_count, chunk_count
        return int(payload)

    def _frames(self, index: bytes, payload: int) -> list[Frame]:
        frames = [Frame._make(each) for each in _records(FRAME, index, 0, self._counts[0])]
        offset, chunk, raw, last = payload, 0, 0, 0
        for number, frame in enumerate(frames):
            good = (
                frame.offset == offset
                and 1 <= frame.packed <= frame.raw <= FRAME_MAX
                and frame.first == chunk
                and frame.chunks >= 1
                and frame.t_us >= last
                and not any(frame.digest[len(self.digest) :])
            )
            if not good:
                raise self._broken(f"the record of frame {number} is broken")
            offset += frame.packed
            chunk += frame.chunks
            raw += frame.raw
            last = frame.t_us
        if (offset, chunk, raw) != (self.size, self._counts[1], self.raw_bytes):
            raise self._broken("its frames do not add up to what its header says")
        return frames

    def _chunks(self, index: bytes) -> list[Chunk]:
        frames, count = self._counts
        at = aligned(HEADER_SIZE + FRAME.size * frames) - HEADER_SIZE
        chunks = [Chunk._make(each) for each in _records(CHUNK, index, at, count)]
        if any(index[FRAME.size * frames : at]) or any(index[at + CHUNK.size * count :]):
            raise self._broken("there is something between its parts")
        for number, frame in enumerate(self.frames):
            room = 0
            for chunk in chunks[frame.first : frame.first + frame.chunks]:
                if chunk.at != room or chunk.length == 0 or chunk.offset % PAGE or chunk.reserved:
                    raise self._broken(f"a chunk of frame {number} is broken")
                room += chunk.length
            if room != frame.raw:
                raise self._broken(f"the chunks of frame {number} do not add up to it")
        return chunks

    def _check_pages(self) -> None:
        """No page of a file stands twice, and only the last one of a file is not whole."""
        end: tuple[int, int] = (-1, 0)
        whole = True
        for inode, offset, length in sorted(
            (chunk.inode, chunk.offset, chunk.length) for chunk in self.chunks
        ):
            if inode == end[0] and (offset < end[1] or not whole):
                raise self._broken(f"a page of inode {inode} stands twice, or is not whole")
            end, whole = (inode, offset + length), length % PAGE == 0
            if end[1] >= 1 << 63:
                raise self._broken(f"a chunk of inode {inode} lies beyond the end of any file")


def _records(record: struct.Struct, data: bytes, at: int, count: int) -> Iterator[tuple[int, ...]]:
    return record.iter_unpack(data[at : at + record.size * count])
