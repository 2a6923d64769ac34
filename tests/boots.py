"""Traces of boots that never were: what they read is told in Python."""

from orioncache.native import digests
from orioncache.trace.format import HIT, READ, Record, Trace, TracedFile

BLOCK = 128 << 10
PAGE = 4096
MANIFEST = bytes(range(16))


def digest(text):
    """A digest that stands for some content."""
    return digests.digest(digests.XXH3_128, text.encode(errors="surrogateescape"))


def boot(reads, files=None, blocks=None, **fields):
    """A trace.

    Args:
        reads: (ms, path, offset, length) or the same with an outcome.
        files: path -> size; what is not there has 16 blocks.
        blocks: (path, number) -> digest or None for a hole; what is not there gets one from path and number.
        fields: of the trace.
    """
    sizes = {path: 16 * BLOCK for _, path, *_ in reads} | (files or {})
    inodes = {path: number for number, path in enumerate(sizes, start=1)}
    records, found = [], {}
    for ms, path, offset, length, *outcome in reads:
        kind = outcome[0] if outcome else HIT
        end = min(offset + length, sizes[path])
        at = 1_000_000_000 + round(ms * 1e6)
        records.append(Record(at, offset, 1000, end - offset, inodes[path], 7, READ, kind, "test", 0))
        for number in range(offset // BLOCK, -(-end // BLOCK)):
            found[inodes[path], number] = (blocks or {}).get((path, number), digest(f"{path} {number}"))
    return Trace(
        **{
            "records": records,
            "started_ns": 1_000_000_000,
            "first_touches": True,
            "degraded": False,
            "lost": 0,
            "release": "t",
            "version": "1",
            "manifest_digest": MANIFEST,
            "digest_kind": digests.XXH3_128,
            "block_size": BLOCK,
            "files": {inodes[path]: TracedFile(path, size) for path, size in sizes.items()},
            "digests": found,
            **fields,
        }
    )
