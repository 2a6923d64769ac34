"""Trace files: read with every check, and written. docs/trace.md specifies the bytes.

Version 1 had no fetches, and is read as well.

Names and paths are bytes of any kind; here they are text with surrogate escapes, as in ``os.fsdecode``.
"""

import dataclasses
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from orioncache.atomic import replacing
from orioncache.errors import UserError

MAGIC = b"ORIONTR\n"
NAMES_MAGIC = b"ORIONTN\n"
VERSION = 2

FIRST_TOUCHES = 1
DEGRADED = 2

READ, LOOKUP, FETCH = range(3)
HIT, MISS, LATE, ERROR = range(4)
KINDS = ("read", "lookup")
DEMAND, AROUND, AHEAD, BUNDLE = range(4)
REASONS = ("demand", "read-around", "heuristics", "bundle")
OUTCOMES = ("hit", "miss", "late", "error")

# Bytes of a digest of each kind, as native/digest.h has them.
DIGEST_SIZES = {1: 16, 2: 32, 3: 32}
# A file's largest size, as a kernel can have it.
SIZE_MAX = (1 << 63) - 1
# Bytes of the largest block, and of the longest request.
BLOCK_MAX = LENGTH_MAX = 1 << 20

_HEADER = struct.Struct("<8sIIIIQQQB7s32s64s64sI36s")
_RECORD = struct.Struct("<QQQIIIBBH16sII")
_FILE = struct.Struct("<IH")
_BLOCK = struct.Struct("<II32s")

WRONG_FILE = "give a file that orioncache trace record or orioncache bench --trace wrote"


class _Header(NamedTuple):
    """The header's fields, in the order of :data:`_HEADER`."""

    magic: bytes
    version: int
    header_size: int
    record_size: int
    flags: int
    record_count: int
    lost: int
    started_ns: int
    digest_kind: int
    reserved: bytes
    digest: bytes
    release: bytes
    label: bytes
    block_size: int
    reserved_2: bytes


class Record(NamedTuple):
    """One request.

    Attributes:
        t_ns: when it arrived, on the clock of :attr:`Trace.started_ns`.
        offset: bytes from the file's beginning.
        wait_ns: from its arrival to its answer.
        length: bytes, none beyond the file's end.
        inode: its number in the manifest.
        pid: of the thread that asked; 0: not known.
        kind: ``READ`` or ``LOOKUP``.
        outcome: ``HIT`` (all was in RAM), ``MISS`` (a block had to come from a server), ``LATE`` (it waited
            for blocks that were on their way speculatively, and for no other), ``ERROR``.
        comm: the thread's name; empty: not known.
        blocks_missed: blocks of it that were not in RAM.
    """

    t_ns: int
    offset: int
    wait_ns: int
    length: int
    inode: int
    pid: int
    kind: int
    outcome: int
    comm: str
    blocks_missed: int


class Fetch(NamedTuple):
    """One of the engine's own reads on a server.

    Attributes:
        t_ns: when it was queued for the server, on the clock of :attr:`Trace.started_ns`.
        offset: bytes from the beginning of the pack, or of the bundle.
        took_ns: from then to its end.
        length: bytes.
        first: number in the manifest of its first block; of a bundle: of its first frame.
        server: the server's number.
        good: all that it brought is what its digest says.
        reason: ``DEMAND`` (somebody waits), ``AROUND`` (around what somebody waits for), ``AHEAD`` (a
            heuristic wants it), ``BUNDLE``.
        blocks: how many follow each other from the first on; of a bundle: frames.
    """

    t_ns: int
    offset: int
    took_ns: int
    length: int
    first: int
    server: int
    good: bool
    reason: int
    blocks: int


class TracedFile(NamedTuple):
    """A file of the release: its path without a leading slash (empty: none is known), and its bytes."""

    path: str
    size: int


class Part(NamedTuple):
    """What a read wants of one block: the block's number in the file, bytes to skip in it, bytes wanted."""

    file_block: int
    skip: int
    length: int


@dataclasses.dataclass(frozen=True)
class Trace:
    """What was asked of a release.

    Attributes:
        records: by their time.
        started_ns: where the engine's time begins, in ns on the clock that the records have.
        first_touches: each page was asked for when it was touched: nothing was read ahead.
        degraded: a server failed, a block was not what its digest says, or records are lost.
        lost: records for which there was no room.
        release, version: the release's.
        manifest_digest: what its manifest has for a digest: which release it is.
        digest_kind: of all digests.
        block_size: the release's, bytes.
        files: those that occur, by inode; empty in a file without that section.
        digests: of the blocks that occur, by inode and number in the file; None: a hole.
        fetches: what was read on servers, by its time.
    """

    records: Sequence[Record]
    started_ns: int
    first_touches: bool
    degraded: bool
    lost: int
    release: str
    version: str
    manifest_digest: bytes
    digest_kind: int
    block_size: int
    files: Mapping[int, TracedFile]
    digests: Mapping[tuple[int, int], bytes | None]
    fetches: Sequence[Fetch] = ()

    @property
    def reads(self) -> list[Record]:
        """The records of reads."""
        return [record for record in self.records if record.kind == READ]

    def path(self, inode: int) -> str:
        """A file's path, or words that stand for it."""
        found = self.files.get(inode)
        return found.path if found is not None and found.path else f"<inode {inode}>"

    def seconds(self, record: Record) -> float:
        """When a request arrived, from the engine's start."""
        return (record.t_ns - self.started_ns) / 1e9

    def parts(self, record: Record) -> Iterator[Part]:
        """The blocks that a read touches."""
        at, end = record.offset, record.offset + record.length
        while at < end:
            file_block, skip = divmod(at, self.block_size)
            length = min(self.block_size - skip, end - at)
            yield Part(file_block, skip, length)
            at += length

    def block_length(self, inode: int, file_block: int) -> int:
        """The bytes of a block, less than a whole one at the file's end."""
        found = self.files.get(inode)
        left = found.size - file_block * self.block_size if found is not None else self.block_size
        return max(0, min(self.block_size, left))


def read(path: Path) -> Trace:
    """Reads a trace file.

    Raises:
        UserError: it is none, broken, or of another version.
        OSError: it cannot be read.
    """
    return decode(path.read_bytes(), str(path))


def write(trace: Trace, path: Path) -> None:
    """Writes a trace file, whole or not at all."""
    with replacing(path) as file:
        file.write(encode(trace))


def decode(data: bytes, name: str) -> Trace:
    """A trace from a file's bytes.

    Args:
        data: any bytes.
        name: what to call them in an error.

    Raises:
        UserError: they are none, broken, or of another version.
    """
    return _Reader(data, name).trace()


class _Reader:
    """Bytes, and how far they are read. Each count in them is held against what is left."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data = memoryview(data)
        self.name = name
        self.at = 0

    def fail(self, problem: str) -> NoReturn:
        raise UserError(f"{self.name} is a broken trace: {problem}", "record it again")

    def take(self, size: int, what: str) -> memoryview:
        """The next bytes."""
        if size > len(self.data) - self.at:
            self.fail(f"it ends in the middle of {what}")
        self.at += size
        return self.data[self.at - size : self.at]

    def count(self, each: int, what: str) -> int:
        """A count of what follows, of which each takes some bytes at least."""
        (count,) = struct.unpack("<I", self.take(4, f"the number of {what}"))
        if count * each > len(self.data) - self.at:
            self.fail(f"it claims {count} {what}, and is too short for them")
        return int(count)

    def trace(self) -> Trace:
        """All of it."""
        if bytes(self.data[: len(MAGIC)]) != MAGIC:
            raise UserError(f"{self.name} is no trace", WRONG_FILE)
        header = self.header()
        digest_size = DIGEST_SIZES[header.digest_kind]
        records, fetches = self.records(header)
        files: dict[int, TracedFile] = {}
        digests: dict[tuple[int, int], bytes | None] = {}
        if self.at < len(self.data):
            files = self.files()
            digests = self.digests(digest_size, files)
            if self.at < len(self.data):
                self.fail(f"{len(self.data) - self.at} bytes too many")
            self.check(records, files)
        return Trace(
            records=records,
            started_ns=header.started_ns,
            first_touches=bool(header.flags & FIRST_TOUCHES),
            degraded=bool(header.flags & DEGRADED),
            lost=header.lost,
            release=_text(header.release),
            version=_text(header.label),
            manifest_digest=header.digest[:digest_size],
            digest_kind=header.digest_kind,
            block_size=header.block_size,
            files=files,
            digests=digests,
            fetches=fetches,
        )

    def header(self) -> "_Header":
        """The header, checked."""
        header = _Header(*_HEADER.unpack(self.take(_HEADER.size, "the header")))
        if not 1 <= header.version <= VERSION:
            raise UserError(
                f"{self.name} is a trace of version {header.version}; this program knows 1 to {VERSION}",
                "use the program that wrote it",
            )
        if (header.header_size, header.record_size) != (_HEADER.size, _RECORD.size):
            self.fail(f"a header of {header.header_size} bytes, records of {header.record_size}")
        if header.flags & ~(FIRST_TOUCHES | DEGRADED):
            self.fail(f"unknown flags {header.flags:#x}")
        if header.digest_kind not in DIGEST_SIZES:
            self.fail(f"digests of the unknown kind {header.digest_kind}")
        if not 4096 <= header.block_size <= BLOCK_MAX or header.block_size & (header.block_size - 1):
            self.fail(f"blocks of {header.block_size} bytes")
        return header

    def records(self, header: "_Header") -> tuple[list[Record], tuple[Fetch, ...]]:
        """Requests and fetches, both sorted."""
        count, kinds = header.record_count, (READ, LOOKUP, FETCH)[: header.version + 1]
        if count * _RECORD.size > len(self.data) - self.at:
            self.fail(f"it claims {count} records, and is too short for them")
        found: list[Record] = []
        fetches: list[Fetch] = []
        area = self.take(count * _RECORD.size, "the records")
        for number, fields in enumerate(_RECORD.iter_unpack(area)):
            t_ns, offset, wait_ns, length, inode, pid, kind, outcome, reason, comm, missed, _ = fields
            if kind not in kinds or outcome >= len(OUTCOMES) or reason >= len(REASONS):
                self.fail(f"record {number} has kind {kind}, outcome {outcome}")
            if length > LENGTH_MAX or offset + length > SIZE_MAX:
                self.fail(f"record {number} has {length} bytes at {offset}")
            if kind == FETCH:
                good = outcome == HIT
                fetches.append(Fetch(t_ns, offset, wait_ns, length, inode, pid, good, reason, missed))
                continue
            found.append(
                Record(t_ns, offset, wait_ns, length, inode, pid, kind, outcome, _text(comm), missed)
            )
        found.sort(key=lambda record: record.t_ns)
        fetches.sort(key=lambda fetch: fetch.t_ns)
        return found, tuple(fetches)

    def files(self) -> dict[int, TracedFile]:
        """The names' section, up to the blocks."""
        if bytes(self.take(len(NAMES_MAGIC), "what follows the records")) != NAMES_MAGIC:
            self.fail("what follows the records is nothing known")
        files: dict[int, TracedFile] = {}
        for _ in range(self.count(_FILE.size + 8, "files")):
            inode, length = _FILE.unpack(self.take(_FILE.size, "a file"))
            path = bytes(self.take(length, "a path")).decode(errors="surrogateescape")
            (size,) = struct.unpack("<Q", self.take(8, "a size"))
            if inode in files:
                self.fail(f"inode {inode} is there twice")
            if size > SIZE_MAX:
                self.fail(f"inode {inode} has {size} bytes")
            files[inode] = TracedFile(path, size)
        return files

    def digests(self, size: int, files: Mapping[int, TracedFile]) -> dict[tuple[int, int], bytes | None]:
        """The digests of the blocks."""
        digests: dict[tuple[int, int], bytes | None] = {}
        area = self.take(self.count(_BLOCK.size, "blocks") * _BLOCK.size, "the blocks")
        for inode, file_block, digest in _BLOCK.iter_unpack(area):
            if (inode, file_block) in digests:
                self.fail(f"block {file_block} of inode {inode} is there twice")
            if inode not in files:
                self.fail(f"a block of inode {inode}, which is not there")
            if any(digest[size:]):
                self.fail(f"block {file_block} of inode {inode} has a digest of another kind")
            digests[inode, file_block] = digest[:size] if any(digest) else None
        return digests

    def check(self, records: Sequence[Record], files: Mapping[int, TracedFile]) -> None:
        """Holds the records against the files."""
        for record in records:
            file = files.get(record.inode)
            if file is None:
                self.fail(f"a record of inode {record.inode}, which is not there")
            if record.length and record.offset + record.length > file.size:
                self.fail(f"a record beyond the end of inode {record.inode}")


def encode(trace: Trace) -> bytes:
    """A trace file's bytes.

    Raises:
        ValueError: something does not fit the format.
    """
    if trace.digest_kind not in DIGEST_SIZES:
        raise ValueError(f"no kind of digest: {trace.digest_kind}")
    flags = (FIRST_TOUCHES if trace.first_touches else 0) | (DEGRADED if trace.degraded else 0)
    try:
        pieces = [
            _HEADER.pack(
                MAGIC,
                VERSION,
                _HEADER.size,
                _RECORD.size,
                flags,
                len(trace.records) + len(trace.fetches),
                trace.lost,
                trace.started_ns,
                trace.digest_kind,
                b"",
                trace.manifest_digest,
                _bytes(trace.release)[:63],
                _bytes(trace.version)[:63],
                trace.block_size,
                b"",
            )
        ]
        for record in trace.records:
            *numbers, comm, missed = record
            pieces.append(_RECORD.pack(*numbers, 0, _bytes(comm)[:15], missed, 0))
        for fetch in trace.fetches:
            *numbers, good, reason, blocks = fetch
            outcome = HIT if good else ERROR
            pieces.append(_RECORD.pack(*numbers, FETCH, outcome, reason, b"", blocks, 0))
        if trace.files or trace.digests or not trace.records:
            pieces += [NAMES_MAGIC, struct.pack("<I", len(trace.files))]
            for inode, file in sorted(trace.files.items()):
                path = _bytes(file.path)
                pieces += [_FILE.pack(inode, len(path)), path, struct.pack("<Q", file.size)]
            pieces.append(struct.pack("<I", len(trace.digests)))
            for (inode, file_block), digest in sorted(trace.digests.items(), key=lambda item: item[0]):
                pieces.append(_BLOCK.pack(inode, file_block, digest or b""))
    except struct.error as error:
        raise ValueError(f"it does not fit a trace file: {error}") from None
    return b"".join(pieces)


def _text(field: bytes) -> str:
    """A field that is padded with NUL."""
    return bytes(field).partition(b"\0")[0].decode(errors="surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
