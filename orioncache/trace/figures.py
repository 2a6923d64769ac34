"""What a trace says in figures."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from orioncache.trace.format import HIT, LATE, MISS, OUTCOMES, REASONS, Record, Trace

PAGE = 4096
# Programs and files that are listed.
TOP = 15

Key = TypeVar("Key")


@dataclasses.dataclass
class Share:
    """What one program, or one file, has of all reads.

    Attributes:
        reads, bytes: how many, and how much they asked for.
        waited: those that were not answered from RAM.
        wait_ns: the sum of all waits.
    """

    reads: int = 0
    bytes: int = 0
    waited: int = 0
    wait_ns: int = 0

    def add(self, record: Record) -> None:
        """Counts a read."""
        self.reads += 1
        self.bytes += record.length
        self.waited += record.outcome != HIT
        self.wait_ns += record.wait_ns

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "reads": self.reads,
            "bytes": self.bytes,
            "waited": self.waited,
            "wait_ms": round(self.wait_ns / 1e6, 3),
        }


def figures(trace: Trace, top: int = TOP) -> dict[str, Any]:
    """All figures of a trace, as ``orioncache trace stats --json`` prints them.

    Args:
        trace: what was recorded.
        top: how many programs and files, those first that asked for most bytes.
    """
    reads = trace.reads
    outcomes = [0] * len(OUTCOMES)
    programs: defaultdict[str, Share] = defaultdict(Share)
    files: defaultdict[int, Share] = defaultdict(Share)
    for record in reads:
        outcomes[record.outcome] += 1
        programs[record.comm].add(record)
        files[record.inode].add(record)
    blocks = _blocks(trace, reads)
    return {
        "release": trace.release,
        "version": trace.version,
        "manifest_digest": trace.manifest_digest.hex(),
        "first_touches": trace.first_touches,
        "degraded": trace.degraded,
        "lost": trace.lost,
        "records": len(trace.records),
        "reads": len(reads),
        "lookups": len(trace.records) - len(reads),
        "seconds": round(trace.seconds(trace.records[-1]), 6) if trace.records else 0.0,
        "bytes": sum(record.length for record in reads),
        "files": len(files),
        "pages": _pages(reads),
        "blocks": len(blocks),
        "block_bytes": sum(blocks.values()),
        **{name: outcomes[outcome] for outcome, name in enumerate(OUTCOMES)},
        "hit_ratio": round(outcomes[HIT] / len(reads), 4) if reads else None,
        "wait_ms": waits(reads),
        "wait_ms_of_waiting": waits([record for record in reads if record.outcome in (MISS, LATE)]),
        "fetched": _fetched(trace),
        "programs": [{"program": comm, **share.as_dict()} for comm, share in _largest(programs, top)],
        "paths": [{"path": trace.path(inode), **share.as_dict()} for inode, share in _largest(files, top)],
    }


def _fetched(trace: Trace) -> dict[str, dict[str, int]]:
    """Reads on servers, and their bytes, by what they were for."""
    found = {reason: {"reads": 0, "bytes": 0} for reason in REASONS}
    for fetch in trace.fetches:
        share = found[REASONS[fetch.reason]]
        share["reads"] += 1
        share["bytes"] += fetch.length
    return found


def waits(records: Iterable[Record]) -> dict[str, float]:
    """Waits in ms: median, 95th percentile (nearest rank), the longest, and all together."""
    found = sorted(record.wait_ns for record in records)
    if not found:
        return {"p50": 0.0, "p95": 0.0, "max": 0.0, "sum": 0.0}
    ranks = {"p50": 50, "p95": 95, "max": 100}
    result = {name: found[-(-len(found) * rank // 100) - 1] / 1e6 for name, rank in ranks.items()}
    return {name: round(value, 6) for name, value in {**result, "sum": sum(found) / 1e6}.items()}


def _largest(shares: Mapping[Key, Share], top: int) -> Sequence[tuple[Key, Share]]:
    return sorted(shares.items(), key=lambda item: -item[1].bytes)[:top]


def _pages(reads: Iterable[Record]) -> int:
    """Different pages that were asked for."""
    pages: defaultdict[int, set[int]] = defaultdict(set)
    for record in reads:
        if record.length:
            first, last = record.offset // PAGE, (record.offset + record.length - 1) // PAGE
            pages[record.inode].update(range(first, last + 1))
    return sum(map(len, pages.values()))


def _blocks(trace: Trace, reads: Iterable[Record]) -> dict[object, int]:
    """Different blocks that were asked for, and their bytes; the same content counts once, holes do not."""
    blocks: dict[object, int] = {}
    for record in reads:
        for part in trace.parts(record):
            where = (record.inode, part.file_block)
            digest = trace.digests.get(where)
            if digest is not None or where not in trace.digests:
                blocks[digest or where] = trace.block_length(*where)
    return blocks
