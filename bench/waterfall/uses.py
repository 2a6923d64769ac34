"""What became of all that a boot fetched: of each block, and of each page of a bundle.

A read of the kernel's is a demand, whether a program asks or the kernel reads ahead. A bundle's pages go
straight to the page cache, where nobody sees them used: of those a recording of first touches says whether
such a boot wants them.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import NamedTuple, Protocol

from orioncache.release.bundle import PAGE, Bundle, Frame
from orioncache.trace.format import BUNDLE, DEMAND, ERROR, READ, Fetch, Record, Trace

# What can have become of it: somebody waited when it was asked for; wanted after it had landed; wanted while
# it was on its way; wanted never; no server's copy was good; not known.
DEMANDED, USEFUL, LATE, WASTED, FAILED, UNSEEN = "demanded", "useful", "late", "wasted", "failed", "unseen"
USES = (DEMANDED, USEFUL, LATE, WASTED, FAILED, UNSEEN)


class Blocks(Protocol):
    """What must be known of a release (:class:`orioncache.prefetch.manifest_view.ManifestView`)."""

    block_size: int

    def block(self, inode: int, file_block: int) -> int | None:
        """The number of a block of a file; None: a hole."""

    def length(self, block: int) -> int:
        """Bytes of a block."""


class Amount(NamedTuple):
    """So many blocks, or pages of a bundle, and their bytes as they are in files."""

    number: int = 0
    bytes: int = 0

    def plus(self, other: "Amount") -> "Amount":
        """Both together."""
        return Amount(self.number + other.number, self.bytes + other.bytes)


@dataclasses.dataclass(frozen=True)
class Judged:
    """A fetch, and what became of what it brought: amounts by the words of :data:`USES` that occur."""

    fetch: Fetch
    amounts: Mapping[str, Amount]


@dataclasses.dataclass
class _Flight:
    """One part on its way: from the first server that was asked for it until it was here.

    Attributes:
        fetches: their numbers; each but the last one brought nothing good.
        begun: when the first was queued.
        ended: when the last ended.
        landed: whether that one brought it.
    """

    fetches: list[int]
    begun: int
    ended: int
    landed: bool


def judge(
    trace: Trace, release: Blocks, bundle: Bundle | None = None, touched: Set[tuple[int, int]] | None = None
) -> list[Judged]:
    """What became of each fetch of a boot, in their order.

    Args:
        trace: of the boot.
        release: what it was served from.
        bundle: that it streamed; None: its pages are unseen.
        touched: inode and number of the pages that such a boot touches (:func:`touched_pages`); None: not
            known.
    """
    amounts: list[defaultdict[str, Amount]] = [defaultdict(Amount) for _ in trace.fetches]

    def add(number: int, use: str, amount: Amount) -> None:
        amounts[number][use] = amounts[number][use].plus(amount)

    demands = _block_demands(trace, release)
    for block, flights in _flights(trace.fetches, lambda fetch: fetch.reason != BUNDLE).items():
        amount = Amount(1, release.length(block))
        for flight, following in zip(flights, [*flights[1:], None], strict=True):
            for failed in flight.fetches[:-1]:
                add(failed, FAILED, amount)
            until = following.begun if following is not None else None
            is_demand = trace.fetches[flight.fetches[0]].reason == DEMAND
            add(flight.fetches[-1], _of_block(flight, is_demand, demands.get(block, ()), until), amount)
    if bundle is None:
        for number, fetch in enumerate(trace.fetches):
            if fetch.reason == BUNDLE:
                add(number, UNSEEN if fetch.good else FAILED, Amount(-(-fetch.length // PAGE), fetch.length))
    else:
        reads = _reads_by_inode(trace)
        for frame, flights in _flights(trace.fetches, lambda fetch: fetch.reason == BUNDLE).items():
            if frame >= len(bundle.frames):
                continue
            # A frame that has landed is not asked for again: it has one flight.
            (flight,) = flights
            record = bundle.frames[frame]
            *bad, last = flight.fetches
            for number in bad:
                add(number, FAILED, Amount(-(-record.raw // PAGE), record.raw))
            for use, amount in _of_frame(flight, bundle, record, reads, touched):
                add(last, use, amount)
    return [
        Judged(fetch, {use: found[use] for use in USES if use in found})
        for fetch, found in zip(trace.fetches, amounts, strict=True)
    ]


def touched_pages(trace: Trace) -> Set[tuple[int, int]]:
    """Inode and number of all pages that a boot read: touched, if its trace is of first touches."""
    return {
        (record.inode, page)
        for record in trace.reads
        if record.length and record.outcome != ERROR
        for page in range(record.offset // PAGE, (record.offset + record.length - 1) // PAGE + 1)
    }


def _flights(fetches: Sequence[Fetch], wanted: Callable[[Fetch], bool]) -> dict[int, list[_Flight]]:
    """The flights of each block (or frame), by their time.

    Where a server's copy is not good, the next one is asked before that read ends: it is the same flight. Of
    a read that was not good as a whole, what nobody asked for again was good, unless nothing of it was asked
    for again.
    """
    found: defaultdict[int, list[_Flight]] = defaultdict(list)
    retried: set[int] = set()
    for number, fetch in enumerate(fetches):
        if not wanted(fetch):
            continue
        end = fetch.t_ns + fetch.took_ns
        for part in range(fetch.first, fetch.first + fetch.blocks):
            last = found[part][-1] if found[part] else None
            if last is not None and not last.landed and (fetch.reason == BUNDLE or fetch.t_ns <= last.ended):
                retried.add(last.fetches[-1])
                last.fetches.append(number)
                last.ended, last.landed = end, fetch.good
            else:
                found[part].append(_Flight([number], fetch.t_ns, end, fetch.good))
    for flights in found.values():
        for flight in flights:
            flight.landed = flight.landed or flight.fetches[-1] in retried
    return found


def _block_demands(trace: Trace, release: Blocks) -> dict[int, list[int]]:
    """When each block was asked for."""
    found: defaultdict[int, list[int]] = defaultdict(list)
    for record in trace.records:
        if record.kind != READ:
            continue
        for part in trace.parts(record):
            block = release.block(record.inode, part.file_block)
            if block is not None:
                found[block].append(record.t_ns)
    return found


def _of_block(flight: _Flight, is_demand: bool, demands: Iterable[int], until: int | None) -> str:
    """What became of a block of one flight, which the next one of the same block follows."""
    if not flight.landed:
        return FAILED
    if is_demand:
        return DEMANDED
    # Not one that came before and still waits: what it reads around itself it may have had from the store.
    first = next((at for at in demands if at >= flight.begun), None)
    if first is None or (until is not None and first >= until):
        return WASTED
    return LATE if first < flight.ended else USEFUL


def _reads_by_inode(trace: Trace) -> dict[int, list[Record]]:
    found: defaultdict[int, list[Record]] = defaultdict(list)
    for record in trace.reads:
        found[record.inode].append(record)
    return found


def _of_frame(
    flight: _Flight,
    bundle: Bundle,
    frame: Frame,
    reads: Mapping[int, Sequence[Record]],
    touched: Set[tuple[int, int]] | None,
) -> Iterable[tuple[str, Amount]]:
    """What became of each page of a frame."""
    for chunk in bundle.chunks[frame.first : frame.first + frame.chunks]:
        near = [
            record
            for record in reads.get(chunk.inode, ())
            if record.offset < chunk.offset + chunk.length and chunk.offset < record.offset + record.length
        ]
        for at in range(chunk.offset, chunk.offset + chunk.length, PAGE):
            amount = Amount(1, min(PAGE, chunk.offset + chunk.length - at))
            demands = [
                record.t_ns
                for record in near
                if record.offset < at + amount.bytes and at < record.offset + record.length
            ]
            yield _of_page(flight, demands, (chunk.inode, at // PAGE), touched), amount


def _of_page(
    flight: _Flight, demands: Sequence[int], page: tuple[int, int], touched: Set[tuple[int, int]] | None
) -> str:
    if not flight.landed:
        return FAILED
    after = next((at for at in demands if at >= flight.begun), None)
    if after is not None:
        return LATE if after < flight.ended else USEFUL
    if demands:
        # It was read before anybody asked for the frame: it came again, for nobody.
        return WASTED
    if touched is None:
        return UNSEEN
    return USEFUL if page in touched else WASTED
