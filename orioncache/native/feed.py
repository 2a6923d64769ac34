"""What the native engine tells those who predict, and does for them.

A node imports this while it boots, so nothing that takes time to import is used here.
"""

from __future__ import annotations

import os

from orioncache.native._orion import ffi, lib
from orioncache.native.manifest_reader import ManifestReader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from orioncache.native.engine import Engine

# In place of a record's wait_ns: not answered yet (native/trace.h).
WAITING = (1 << 64) - 1
# Bytes of a record, and how many one call gives: 64 KiB.
RECORD_SIZE = 64
RECORDS_AT_ONCE = 1024

ABSENT: int = lib.ORION_ABSENT
COMING: int = lib.ORION_COMING
PRESENT: int = lib.ORION_PRESENT


class Feed:
    """An engine that has loaded a release, as those see it who predict. For one thread; not after its end.

    Attributes:
        manifest: the release's.
        data: the manifest's bytes.
    """

    def __init__(self, engine: Engine) -> None:
        """Looks at an engine; it records requests, if it was told to (``trace_records``)."""
        self._engine = engine.handle
        self._fetch = lib.orion_engine_fetch(self._engine)
        self._trace = lib.orion_engine_trace(self._engine)
        handle = lib.orion_engine_manifest(self._engine)
        self.manifest = ManifestReader(handle)
        self.data = ffi.buffer(handle.bytes, handle.length)
        self._records = ffi.new("struct orion_trace_record[]", RECORDS_AT_ONCE)
        self._buffer = ffi.buffer(self._records)
        self._following = ffi.new("uint64_t *")

    def watch_fd(self) -> int:
        """Readable when something has begun or ended since :meth:`rest`; -1 if nothing is recorded."""
        return int(lib.orion_trace_watch_fd(self._trace)) if self._trace else -1

    def rest(self) -> None:
        """Called before looking at records."""
        lib.orion_trace_rest(self._trace)

    def records(self, since: int, most: int = RECORDS_AT_ONCE) -> tuple[bytes, int]:
        """Records from a number on, and the number to go on with.

        A record is there from its request's arrival; while it waits, its wait is ``WAITING`` and its outcome
        means nothing. Those that are lost are left out: the first one's number is the second value less how
        many there are. Without a trace there is none.
        """
        if not self._trace:
            return b"", since
        most = min(most, RECORDS_AT_ONCE)
        count = lib.orion_trace_since(self._trace, since, self._records, most, self._following)
        return self._buffer[: count * RECORD_SIZE], int(self._following[0])

    def record(self, number: int) -> bytes | None:
        """One record; None if it is lost."""
        data, following = self.records(number, 1)
        return data if data and following == number + 1 else None

    def find(self, block: int) -> int:
        """ABSENT, COMING or PRESENT."""
        return int(lib.orion_fetch_find(self._fetch, block))

    def content(self, block: int) -> bytes | None:
        """A block's bytes if it is in RAM as it is."""
        found = lib.orion_fetch_peek(self._fetch, block)
        if not found:
            return None
        try:
            return bytes(ffi.buffer(found.bytes, found.length))
        finally:
            lib.orion_block_release(found)

    def prefetch(self, server: int, blocks: Sequence[int]) -> list[bool]:
        """Has blocks fetched that nobody waits for, from a server if it is up; which of them departed."""
        departed = ffi.new("bool[]", len(blocks))
        lib.orion_fetch_prefetch(self._fetch, server, blocks, len(blocks), departed)
        return list(departed)

    def remember(self, remember: bool) -> None:
        """Keeps the blocks that were read last, so that they can be looked into."""
        lib.orion_fetch_remember(self._fetch, remember)

    def round_trip(self) -> float:
        """Seconds of a small read on the server that is asked; 0: not known yet."""
        return float(lib.orion_engine_round_trip(self._engine)) / 1e9

    def streams(self) -> bool:
        """Whether a bundle is still to come."""
        return bool(lib.orion_engine_streams(self._engine))

    def current(self) -> int:
        """The server that demand asks."""
        return int(lib.orion_engine_current(self._engine))

    def tell(self, text: str) -> None:
        """A warning among the engine's events."""
        lib.orion_engine_warn(self._engine, os.fsencode(text))
