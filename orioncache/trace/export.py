"""Traces for other programs: CSV, Parquet, and libCacheSim's oracleGeneral.

Each writer takes an open binary file. docs/trace.md names the columns.
"""

import csv
import io
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO

from orioncache.errors import UserError
from orioncache.trace.format import KINDS, OUTCOMES, READ, Record, Trace

COLUMNS = (
    "t_ns",
    "kind",
    "outcome",
    "wait_ns",
    "comm",
    "pid",
    "path",
    "inode",
    "offset",
    "length",
    "blocks",
    "blocks_missed",
    "digest",
)

# libCacheSim's traceReader/customizedReader/oracle/oracleGeneralBin.h: seconds, object, its bytes, and the
# number of the next request for it, counted from 1; -1: none.
_ORACLE = struct.Struct("<IQIq")


def rows(trace: Trace) -> Iterator[tuple[object, ...]]:
    """One row of :data:`COLUMNS` for each record, times from the engine's start."""
    for record in trace.records:
        blocks = list(trace.parts(record)) if record.kind == READ else []
        digest = trace.digests.get((record.inode, blocks[0].file_block)) if blocks else None
        yield (
            record.t_ns - trace.started_ns,
            KINDS[record.kind],
            OUTCOMES[record.outcome],
            record.wait_ns,
            record.comm,
            record.pid,
            trace.path(record.inode),
            record.inode,
            record.offset,
            record.length,
            len(blocks),
            record.blocks_missed,
            digest.hex() if digest else "",
        )


def write_csv(trace: Trace, file: BinaryIO) -> None:
    """Writes CSV as RFC 4180 has it, with a heading; paths and names as the bytes that they are."""
    text = io.TextIOWrapper(file, "utf-8", errors="surrogateescape", newline="", write_through=True)
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows(rows(trace))
    text.detach()


def write_parquet(trace: Trace, file: BinaryIO) -> None:
    """Writes Parquet, with zstd.

    Raises:
        UserError: pyarrow is not installed.
    """
    try:
        import pyarrow  # noqa: PLC0415
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError:
        raise UserError("pyarrow is not installed", "pip install 'orioncache[workbench]'") from None
    words, big, small = pyarrow.dictionary(pyarrow.int32(), pyarrow.string()), "uint64", "uint32"
    types = {"t_ns": "int64", "wait_ns": big, "offset": big, "digest": "string"}
    types |= dict.fromkeys(("pid", "inode", "length", "blocks", "blocks_missed"), small)
    schema = pyarrow.schema(
        [(name, pyarrow.type_for_alias(types[name]) if name in types else words) for name in COLUMNS]
    )
    columns = [list(column) for column in zip(*rows(trace), strict=True)] or [[] for _ in COLUMNS]
    arrays = []
    for field, column in zip(schema, columns, strict=True):
        texts = [_printable(item) if isinstance(item, str) else item for item in column]
        arrays.append(pyarrow.array(texts, type=field.type))
    parquet.write_table(pyarrow.Table.from_arrays(arrays, schema=schema), file, compression="zstd")


def write_oracle(trace: Trace, file: BinaryIO) -> None:
    """Writes libCacheSim's oracleGeneral: one record for each block that a read touches, holes left out.

    An object is a block's content, by the first 8 bytes of its digest.

    Raises:
        UserError: the trace has no digests.
    """
    accesses: list[tuple[int, int, int]] = []
    for record in trace.reads:
        accesses += _accesses(trace, record)
    following: dict[int, int] = {}
    packed = []
    for number in range(len(accesses), 0, -1):
        seconds, name, size = accesses[number - 1]
        packed.append(_ORACLE.pack(seconds, name, size, following.get(name, -1)))
        following[name] = number
    file.write(b"".join(reversed(packed)))


def _accesses(trace: Trace, record: Record) -> Iterator[tuple[int, int, int]]:
    """Seconds, object and bytes of each block of a read."""
    seconds = max(0, record.t_ns - trace.started_ns) // 1_000_000_000
    for part in trace.parts(record):
        where = (record.inode, part.file_block)
        if where not in trace.digests:
            raise UserError(
                "the trace does not say which blocks it speaks of", "take one of orioncache trace record"
            )
        digest = trace.digests[where]
        if digest is not None:
            yield seconds & 0xFFFFFFFF, int.from_bytes(digest[:8], "little"), trace.block_length(*where)


def _printable(text: str) -> str:
    """Text that UTF-8 can hold."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


FORMATS: Mapping[str, Callable[[Trace, BinaryIO], None]] = {
    "csv": write_csv,
    "parquet": write_parquet,
    "oracleGeneral": write_oracle,
}
