"""File content by blocks: from the store, or from a server with one flight for each block."""

import errno
import os
from collections.abc import Hashable, Iterable, Sequence
from typing import Protocol

import trio

from orioncache.store import BlockStore

# Bytes that are asked of a server at once, when blocks that follow each other are missing.
RUN_BYTES = 1 << 20


class Content(Protocol):
    """What a file holds, block by block."""

    def key(self, number: int) -> Hashable:
        """A name for the content of a block: reads of the same name are one."""
        ...

    def stored(self, number: int) -> bytes | None:
        """The block, if it is here."""
        ...

    def follows(self, one: int, other: int) -> bool:
        """Whether a block lies right behind another one in the source, so that one read brings both."""
        ...

    async def fetch(self, numbers: Sequence[int]) -> Sequence[bytes | OSError]:
        """Reads blocks that follow each other, and stores them; fewer if the file turns out to be shorter.

        Raises:
            OSError: none of them could be read.
        """
        ...


class _Flight:
    """A block on its way: ``done`` is set once ``block`` or ``error`` is."""

    __slots__ = ("block", "done", "error", "key", "number")

    def __init__(self, number: int, key: Hashable) -> None:
        self.number = number
        self.key = key
        self.done = trio.Event()
        self.block = b""
        self.error: int = 0

    async def landed(self) -> bytes:
        """The block, as soon as it is there."""
        await self.done.wait()
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        return self.block


class BlockReader:
    """Reads byte ranges of files through the store.

    Invariant: for each block's key at most one read is under way; whoever else wants it, waits.

    Attributes:
        block_size: bytes in a block; the last one of a file is shorter.
        store: the blocks.
    """

    def __init__(self, store: BlockStore, block_size: int) -> None:
        self.block_size = block_size
        self.store = store
        self._flights: dict[Hashable, _Flight] = {}

    @property
    def in_flight(self) -> int:
        """Blocks on their way at this moment."""
        return len(self._flights)

    async def read(self, content: Content, offset: int, end: int) -> bytes | memoryview:
        """Bytes ``offset`` to ``end`` of a file; fewer if the source turns out to be shorter.

        Args:
            content: the file's.
            offset: the first byte.
            end: the byte after the last one; not beyond the file's end.

        Raises:
            OSError: as ``content.fetch`` did.
        """
        if offset >= end:
            return b""
        size = self.block_size
        first, last = offset // size, (end - 1) // size
        parts: list[bytes | _Flight] = []
        missing: list[_Flight] = []
        try:
            for number in range(first, last + 1):
                block = content.stored(number)
                if block is not None:
                    parts.append(block)
                    continue
                key = content.key(number)
                flight = self._flights.get(key)
                if flight is None:
                    flight = self._flights[key] = _Flight(number, key)
                    missing.append(flight)
                parts.append(flight)
            runs = _runs(content, missing, max(1, RUN_BYTES // size))
        except OSError as error:
            # A part of the file that nobody can find: others may wait for its other parts already.
            self._land(missing, error.errno or errno.EIO)
            raise
        if runs:
            await self._fly(content, runs)
        blocks = [part if isinstance(part, bytes) else await part.landed() for part in parts]
        if len(blocks) == 1:
            return memoryview(blocks[0])[offset - first * size : end - first * size]
        return _join(blocks, size, offset - first * size, end - offset)

    async def _fly(self, content: Content, runs: list[list[_Flight]]) -> None:
        """Fetches missing blocks; each flight has landed, with a block or an error, when this ends."""
        if len(runs) == 1:
            await self._fly_run(content, runs[0])
            return
        async with trio.open_nursery() as nursery:
            for run in runs:
                nursery.start_soon(self._fly_run, content, run)

    async def _fly_run(self, content: Content, run: list[_Flight]) -> None:
        """One read for blocks that follow each other. Errors go to the flights, for all who wait for them."""
        error = errno.EIO
        try:
            found = await content.fetch([flight.number for flight in run])
            for flight, block in zip(run, found, strict=False):
                if isinstance(block, OSError):
                    flight.error = block.errno or errno.EIO
                else:
                    flight.block = block
            error = 0
        except OSError as caught:
            error = caught.errno or errno.EIO
        finally:
            self._land(run, error)

    def _land(self, flights: Iterable[_Flight], error: int) -> None:
        """Ends flights, with an error if it is not 0."""
        for flight in flights:
            flight.error = flight.error or error
            del self._flights[flight.key]
            flight.done.set()


def _runs(content: Content, missing: list[_Flight], longest: int) -> list[list[_Flight]]:
    """Cuts ascending block numbers into runs that one read brings, each at most ``longest`` blocks."""
    runs: list[list[_Flight]] = []
    for flight in missing:
        if runs and len(runs[-1]) < longest and content.follows(flight.number, runs[-1][-1].number):
            runs[-1].append(flight)
        else:
            runs.append([flight])
    return runs


def _join(blocks: Sequence[bytes], size: int, skip: int, length: int) -> bytes:
    """``length`` bytes from ``skip`` on; they end where a block is shorter than ``size``."""
    views = []
    left = length
    for block in blocks:
        view = memoryview(block)[skip : skip + left]
        views.append(view)
        left -= len(view)
        skip = 0
        if len(block) < size:
            break
    return b"".join(views)
