"""Readahead that grows on streams and stays out of random access.

As the kernel's own (mm/readahead.c), one level down: the window doubles with each request that begins where
the last one ended, up to a limit, and is forgotten with the first that does not.
"""

from __future__ import annotations

from orioncache.options import size
from orioncache.prefetch.interface import READ, Candidate, Heuristic, Tunable, count, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from orioncache.prefetch.interface import Access, View

# Streams that are watched at a time; the oldest is forgotten.
STREAMS = 256


class _Stream:
    __slots__ = ("asked", "expected", "hits", "started", "window")

    def __init__(self, window: int, started: float) -> None:
        self.expected = 0  # where the next request of a stream begins
        self.hits = 0  # requests that did
        self.window = window
        self.asked = 0  # up to where candidates were given
        self.started = started


class Sequential(Heuristic):
    """Watches each file for a stream of reads."""

    name = "sequential"
    tunables = (
        Tunable("initial", size, 256 << 10, "bytes", "the first window of a stream"),
        Tunable("window", size, 2 << 20, "bytes", "the window that a stream grows to"),
        Tunable("trigger", count(1, 64), 1, "requests", "reads in a row that make a stream, after the first"),
        Tunable("skip", size, 32 << 10, "bytes", "a gap as small as this is still a stream"),
        Tunable("confidence", number(0, 1), 0.8, "", "in what lies ahead of a stream"),
    )
    initial: int
    window: int
    trigger: int
    skip: int
    confidence: float

    def __init__(self, settings: dict[str, object]) -> None:
        super().__init__(settings)
        self._streams: dict[int, _Stream] = {}

    def on_access(self, access: Access, view: View) -> Iterable[Candidate]:
        """What lies ahead, if this request continues a stream."""
        if access.kind != READ or not access.length:
            return ()
        end = access.offset + access.length
        stream = self._streams.pop(access.inode, None)
        if stream is None:
            if len(self._streams) >= STREAMS:
                del self._streams[next(iter(self._streams))]
            stream = _Stream(self.initial, access.at)
        # The file that was read last stands last.
        self._streams[access.inode] = stream
        if end <= stream.expected and access.offset >= stream.expected - self.window:
            return ()  # again, or a part of what a larger request had
        if stream.expected and 0 <= access.offset - stream.expected <= self.skip:
            stream.hits += 1
            if stream.hits > self.trigger:
                stream.window = min(2 * stream.window, self.window)
        else:
            stream.hits, stream.window, stream.asked, stream.started = 0, self.initial, 0, access.at
        stream.expected = end
        if stream.hits < self.trigger:
            return ()
        begin, stream.asked = max(end, stream.asked), max(stream.asked, end + stream.window)
        # A stream goes on as fast as it has come so far.
        pace = max(0.0, access.at - stream.started) / max(1, end)
        return [
            Candidate(block, self.confidence, position * view.block_size * pace)
            for position, block in enumerate(view.blocks(access.inode, begin, stream.asked - begin))
        ]
