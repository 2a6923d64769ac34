"""File content by blocks: from the store, or from a server with one flight for each block."""

import errno
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import trio

from orioncache.store import BlockStore, LiveIndex

# Bytes that are asked of a server at once, when blocks that follow each other are missing.
RUN_BYTES = 1 << 20


class Fetched(NamedTuple):
    """What a server gave for a run of blocks.

    Attributes:
        blocks: content and digest of each block, in order; fewer than asked for if the file ended before.
        keep: whether this is the content that was asked for; if the file was changed meanwhile, it is not.
    """

    blocks: Sequence[tuple[bytes, bytes]]
    keep: bool


# Reads from the source: (offset, length) in bytes, both multiples of the block size.
Fetch = Callable[[int, int], Awaitable[Fetched]]


class _Flight:
    """A block on its way: ``done`` is set once ``block`` or ``error`` is."""

    __slots__ = ("block", "done", "error")

    def __init__(self) -> None:
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

    Invariant: for each block of each file version at most one read is under way; whoever else wants it,
    waits.

    Attributes:
        block_size: bytes in a block; the last one of a file is shorter.
        store: the blocks.
    """

    def __init__(self, store: BlockStore, index: LiveIndex, block_size: int) -> None:
        self.block_size = block_size
        self.store = store
        self._index = index
        self._flights: dict[tuple[bytes, int], _Flight] = {}

    @property
    def in_flight(self) -> int:
        """Blocks on their way at this moment."""
        return len(self._flights)

    async def read(self, version: bytes, offset: int, end: int, fetch: Fetch) -> bytes | memoryview:
        """Bytes ``offset`` to ``end`` of a file; fewer if the source turns out to be shorter.

        Args:
            version: which content of which file (:func:`orioncache.store.file_version`).
            offset: the first byte.
            end: the byte after the last one; not beyond the file's end.
            fetch: reads from the source.

        Raises:
            OSError: as ``fetch`` did.
        """
        if offset >= end:
            return b""
        size = self.block_size
        first, last = offset // size, (end - 1) // size
        parts: list[bytes | _Flight] = []
        missing: list[tuple[int, _Flight]] = []
        for number in range(first, last + 1):
            block = self._stored(version, number)
            if block is not None:
                parts.append(block)
                continue
            flight = self._flights.get((version, number))
            if flight is None:
                flight = self._flights[version, number] = _Flight()
                missing.append((number, flight))
            parts.append(flight)
        if missing:
            await self._fly(version, missing, fetch)
        blocks = [part if isinstance(part, bytes) else await part.landed() for part in parts]
        if len(blocks) == 1:
            return memoryview(blocks[0])[offset - first * size : end - first * size]
        return _join(blocks, size, offset - first * size, end - offset)

    def _stored(self, version: bytes, number: int) -> bytes | None:
        digest = self._index.get(version, number)
        return None if digest is None else self.store.get(digest)

    async def _fly(self, version: bytes, missing: list[tuple[int, _Flight]], fetch: Fetch) -> None:
        """Fetches the missing blocks; each flight has landed, with a block or an error, when this ends."""
        runs = _runs(missing, max(1, RUN_BYTES // self.block_size))
        if len(runs) == 1:
            await self._fly_run(version, runs[0], fetch)
            return
        async with trio.open_nursery() as nursery:
            for run in runs:
                nursery.start_soon(self._fly_run, version, run, fetch)

    async def _fly_run(self, version: bytes, run: list[tuple[int, _Flight]], fetch: Fetch) -> None:
        """One read for blocks that follow each other. Errors go to the flights, for all who wait for them."""
        error = errno.EIO
        try:
            fetched = await fetch(run[0][0] * self.block_size, len(run) * self.block_size)
            for (number, flight), (block, digest) in zip(run, fetched.blocks, strict=False):
                flight.block = block
                if fetched.keep:
                    self._index.put(version, number, self.store.put(block, digest))
            error = 0
        except OSError as caught:
            error = caught.errno or errno.EIO
        finally:
            for number, flight in run:
                flight.error = error
                del self._flights[version, number]
                flight.done.set()


def _runs(missing: list[tuple[int, _Flight]], longest: int) -> list[list[tuple[int, _Flight]]]:
    """Cuts ascending block numbers into runs without gaps, each at most ``longest`` blocks."""
    runs: list[list[tuple[int, _Flight]]] = []
    for number, flight in missing:
        if runs and runs[-1][-1][0] + 1 == number and len(runs[-1]) < longest:
            runs[-1].append((number, flight))
        else:
            runs.append([(number, flight)])
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
