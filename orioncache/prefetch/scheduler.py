"""Which block departs next: one entry for each, by deadline, within window and budget, if it is worth it.

Pure: no clock (every call is told the time, in seconds), no thread, no I/O. Whoever drives it tells what was
demanded and landed, and when, and asks :meth:`Scheduler.take` what shall depart.

An entry's life:

    offered ─► QUEUED ─► FLYING ─► LANDED ─► (useful: demanded)
                 │          │         └────► (wasted: evicted, or never demanded)
                 │          ├─► (late: demanded on its way; the flight is the demand's from then on)
                 │          └─► (failed)
                 └─► (cancelled: demanded before it departed, gone, stale, no budget; declined: not worth it)
"""

from __future__ import annotations

import heapq

from orioncache.options import size as _size
from orioncache.prefetch.interface import HOLE, Tunable, count, number
from orioncache.prefetch.window import Window

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from orioncache.prefetch.interface import Candidate

ABSENT, QUEUED, FLYING, LANDED = 0, 1, 2, 3

# From this round trip on native/fetch.c reads around a miss, too.
WORTH = 0.0005

LIMITS: Sequence[Tunable] = (
    Tunable("trip", number(0, 10), WORTH, "seconds", "a shorter round trip is worth no speculation"),
    Tunable("floor", _size, 256 << 10, "bytes", "the smallest window of a server"),
    Tunable("cap", _size, 8 << 20, "bytes", "the largest window of a server"),
    Tunable(
        "flights", count(1, 256), 4, "reads", "at a time on one server; its other readers are for demand"
    ),
    Tunable("budget", _size, 0, "bytes", "speculative reads of one boot together; 0: no limit"),
    Tunable("memory", _size, 48 << 20, "bytes", "on their way, or here and not demanded yet"),
    Tunable("entries", count(1, 1 << 20), 1 << 16, "blocks", "candidates that wait"),
    Tunable(
        "patience", number(0, 3600), 10.0, "seconds", "a candidate is dropped so long after its deadline"
    ),
    Tunable("grace", number(0, 3600), 5.0, "seconds", "a block is overdue so long after its deadline"),
)


class Counts:
    """What became of one heuristic's candidates. Blocks, but for ``…_bytes``.

    Attributes:
        offered: candidates, repeated ones as well.
        issued, issued_bytes: departed.
        useful, useful_bytes: demanded after they had landed.
        late, late_bytes: demanded while on their way.
        wasted, wasted_bytes: landed, and not demanded until they were evicted or the boot was over.
        failed: no server had a good copy.
        cancelled: did not depart: demanded first, gone, stale, no budget.
        declined: did not depart, because the wait that it might save was less than the work it might waste.
        overdue_bytes: landed, deadline and grace have passed, not demanded so far.
    """

    __slots__ = (
        "cancelled",
        "declined",
        "failed",
        "issued",
        "issued_bytes",
        "late",
        "late_bytes",
        "offered",
        "overdue_bytes",
        "useful",
        "useful_bytes",
        "wasted",
        "wasted_bytes",
    )
    cancelled: int
    declined: int
    failed: int
    issued: int
    issued_bytes: int
    late: int
    late_bytes: int
    offered: int
    overdue_bytes: int
    useful: int
    useful_bytes: int
    wasted: int
    wasted_bytes: int

    def __init__(self) -> None:
        for name in self.__slots__:
            setattr(self, name, 0)

    def as_dict(self) -> dict[str, int]:
        """All figures by name."""
        return {name: getattr(self, name) for name in self.__slots__}


class _Entry:
    __slots__ = (
        "block",
        "confidence",
        "deadline",
        "departed",
        "length",
        "mark",
        "overdue",
        "owner",
        "run",
        "server",
        "state",
        "taken",
    )

    def __init__(self, block: int, length: int, owner: Counts, confidence: float, deadline: float) -> None:
        self.block = block
        self.length = length
        self.owner = owner
        self.confidence = confidence
        self.deadline = deadline
        self.state = QUEUED
        self.server = 0
        self.departed = 0.0
        self.run = 0  # which read brings it
        self.mark = 0  # of the server's delivered bytes when it departed
        self.taken = False  # a demand waits for this flight
        self.overdue = False


class Scheduler:
    """All candidates of a boot.

    Invariants: a block has at most one entry; speculative bytes on their way to a server never exceed its
    window at the moment something departs; ``held_bytes`` is at most ``memory``, ``issued_bytes`` at most
    ``budget``.

    Attributes:
        windows: one for each server.
        held_bytes: speculative bytes on their way, or here and not demanded.
        issued_bytes: speculative bytes that ever departed.
    """

    def __init__(
        self,
        length: Callable[[int], int],
        is_cached: Callable[[int], bool],
        *,
        servers: int = 1,
        limits: Mapping[str, Any] | None = None,
    ) -> None:
        """Makes one.

        Args:
            length: bytes of a block; 0 if there is none.
            is_cached: whether a block is in RAM.
            servers: how many may be read from; the first is the one that demand asks, until :meth:`prefer`.
            limits: values of some of ``LIMITS``, by name.
        """
        limits = limits or {}
        self._limits = {each.name: limits.get(each.name, each.default) for each in LIMITS}
        self._length = length
        self._is_cached = is_cached
        cap = max(self._limits["cap"], 1 << 20)
        self.windows = [Window(min(max(self._limits["floor"], 128 << 10), cap), cap) for _ in range(servers)]
        self._order = list(range(servers))
        self._delivered = [0] * servers
        self._demand_in_flight = [0] * servers
        self._entries: dict[int, _Entry] = {}
        self._queue: list[tuple[float, float, int]] = []
        self._reviews: list[tuple[float, int]] = []
        self._queued = 0
        # For each server the reads that are on their way speculatively: how many blocks each has to bring.
        self._runs: list[dict[int, int]] = [{} for _ in range(servers)]
        self._run = 0
        self.held_bytes = 0
        self.issued_bytes = 0
        self._counts: dict[str, Counts] = {}

    # What heuristics say.

    def offer(self, now: float, name: str, candidates: Iterable[Candidate]) -> None:
        """Takes candidates of a heuristic; those that are here, on their way or nonsense are left out."""
        owner = self.counts(name)
        for candidate in candidates:
            owner.offered += 1
            block, confidence = candidate.block, candidate.confidence
            deadline = now + max(0.0, candidate.deadline)
            entry = self._entries.get(block)
            if entry is not None:
                if entry.state == QUEUED and (deadline < entry.deadline or confidence > entry.confidence):
                    entry.deadline = min(entry.deadline, deadline)
                    entry.confidence = max(entry.confidence, min(1.0, confidence))
                    self._push(entry)
                continue
            # `not …` as well for what is no number.
            if (
                block < 0
                or block == HOLE
                or not confidence > 0
                or not deadline < float("inf")
                or self._is_cached(block)
            ):
                continue
            length = self._length(block)
            if not length:
                continue
            if self._queued >= self._limits["entries"]:
                owner.cancelled += 1
                continue
            entry = _Entry(block, length, owner, min(1.0, confidence), deadline)
            self._entries[block] = entry
            self._queued += 1
            self._push(entry)

    def withdraw(self, name: str) -> None:
        """Cancels all that waits for a heuristic's sake: it was cut off."""
        owner = self.counts(name)
        for entry in [
            each for each in self._entries.values() if each.owner is owner and each.state == QUEUED
        ]:
            self._cancel(entry)

    # What shall happen.

    def take(self, now: float) -> list[tuple[int, int]]:
        """What departs now: pairs of block and server. They count as on their way from here on.

        Blocks that follow each other, here and in number, are meant to be read together.
        """
        taken: list[tuple[int, int]] = []
        neighbour: tuple[int, int] | None = None  # what would go on the last read: a block, and its server
        self.review(now)
        while self._queue:
            deadline, confidence, block = self._queue[0]
            entry = self._entries.get(block)
            stale = (
                entry is None
                or entry.state != QUEUED
                or (entry.deadline, -entry.confidence) != (deadline, confidence)
            )
            if stale:
                heapq.heappop(self._queue)
                continue
            assert entry is not None
            if self._is_useless(entry, now):
                heapq.heappop(self._queue)
                self._cancel(entry)
                continue
            if self.held_bytes + entry.length > self._limits["memory"]:
                break
            server = self._choose(entry.length, neighbour if neighbour and neighbour[0] == block else None)
            if server is None:
                break
            heapq.heappop(self._queue)
            if not self.windows[server].is_worth(entry.length, entry.confidence):
                entry.owner.declined += 1
                self._drop(entry)
                continue
            if (block, server) != neighbour:
                self._run += 1
            self._depart(entry, server, now)
            taken.append((block, server))
            neighbour = block + 1, server
        return taken

    def prefer(self, server: int) -> None:
        """From now on demand asks this server, so others are asked after it."""
        if self._order[0] != server and server in self._order:
            self._order.remove(server)
            self._order.insert(0, server)

    # What has happened.

    def demanded(self, now: float, block: int) -> int:
        """Somebody asks for a block: what it was until now.

        ABSENT or QUEUED: it has to be fetched as demand, and is the scheduler's no more. FLYING: it comes as
        soon as that flight lands. LANDED: it is here thanks to its heuristic.
        """
        entry = self._entries.get(block)
        if entry is None:
            return ABSENT
        state = entry.state
        if state == QUEUED:
            self._cancel(entry)
        elif state == FLYING:
            if not entry.taken:
                entry.taken = True
                entry.owner.late += 1
                entry.owner.late_bytes += entry.length
                self.windows[entry.server].in_flight -= entry.length
                self.held_bytes -= entry.length
        else:
            entry.owner.useful += 1
            entry.owner.useful_bytes += entry.length
            if entry.overdue:
                entry.owner.overdue_bytes -= entry.length
            self.held_bytes -= entry.length
            self._drop(entry)
        return state

    def landed(self, now: float, block: int) -> None:
        """A flight that :meth:`take` began has brought its block."""
        entry = self._entries.get(block)
        if entry is None or entry.state != FLYING:
            return
        self._delivered[entry.server] += entry.length
        delivered = self._delivered[entry.server] - entry.mark
        window = self.windows[entry.server]
        window.landed(0 if entry.taken else entry.length, now - entry.departed, delivered)
        if entry.taken:
            self._drop(entry)
        else:
            self._end(entry)
            entry.state = LANDED
            heapq.heappush(self._reviews, (max(now, entry.deadline) + self._limits["grace"], block))

    def failed(self, now: float, block: int) -> None:
        """A flight that :meth:`take` began has ended without its block."""
        entry = self._entries.get(block)
        if entry is None or entry.state != FLYING:
            return
        self.windows[entry.server].failed(0 if entry.taken else entry.length)
        if not entry.taken:
            self.held_bytes -= entry.length
        entry.owner.failed += 1
        self._drop(entry)

    def left_out(self, block: int) -> None:
        """What :meth:`take` gave did not depart: the block is here, or on its way for another reason."""
        entry = self._entries.get(block)
        if entry is None or entry.state != FLYING:
            return
        owner = entry.owner
        owner.issued -= 1
        owner.issued_bytes -= entry.length
        owner.cancelled += 1
        self.issued_bytes -= entry.length
        if not entry.taken:
            self.windows[entry.server].in_flight -= entry.length
            self.held_bytes -= entry.length
        self._drop(entry)

    def gone(self, block: int) -> None:
        """A block is not wanted by anybody any more (its file is gone, or it was evicted)."""
        entry = self._entries.get(block)
        if entry is None:
            return
        if entry.state == QUEUED:
            self._cancel(entry)
        elif entry.state == LANDED:
            self._waste(entry)
        # A flight ends as flights do; then it is told again.

    def demand_departed(self, size: int, server: int = 0) -> None:
        """A demand read of so many bytes is on its way: nothing speculative may take its place."""
        self._demand_in_flight[server] += size

    def demand_landed(self, now: float, size: int, seconds: float, server: int = 0) -> None:
        """It has come, or failed, after so many seconds."""
        self._demand_in_flight[server] -= size
        self.windows[server].demanded(now, size, seconds)

    def review(self, now: float) -> None:
        """Notes what is overdue by now."""
        while self._reviews and self._reviews[0][0] <= now:
            _, block = heapq.heappop(self._reviews)
            entry = self._entries.get(block)
            if entry is not None and entry.state == LANDED and not entry.overdue:
                entry.overdue = True
                entry.owner.overdue_bytes += entry.length

    def finish(self) -> None:
        """The boot is over: what nobody has demanded is wasted, what has not departed is cancelled."""
        for entry in list(self._entries.values()):
            if entry.state == QUEUED:
                self._cancel(entry)
            elif entry.state == LANDED:
                self._waste(entry)
            elif not entry.taken:
                self.windows[entry.server].in_flight -= entry.length
                self._waste(entry)
            else:
                self._drop(entry)
        self._queue.clear()
        self._reviews.clear()

    # What can be seen.

    def counts(self, name: str) -> Counts:
        """The figures of a heuristic, as they are now and will be."""
        found = self._counts.get(name)
        if found is None:
            found = self._counts[name] = Counts()
        return found

    def statistics(self) -> dict[str, dict[str, int]]:
        """The figures of all heuristics."""
        return {name: found.as_dict() for name, found in self._counts.items()}

    def state(self, block: int) -> int:
        """ABSENT, QUEUED, FLYING or LANDED."""
        entry = self._entries.get(block)
        return ABSENT if entry is None else entry.state

    def flying(self) -> list[int]:
        """Blocks on their way speculatively, taken over or not."""
        return [block for block, entry in self._entries.items() if entry.state == FLYING]

    @property
    def flights(self) -> int:
        """How many these are."""
        return len(self.flying())

    @property
    def waiting(self) -> int:
        """Candidates that wait."""
        return self._queued

    # The parts of it.

    def _push(self, entry: _Entry) -> None:
        heapq.heappush(self._queue, (entry.deadline, -entry.confidence, entry.block))

    def _is_useless(self, entry: _Entry, now: float) -> bool:
        budget = self._limits["budget"]
        return (
            self._is_cached(entry.block)
            or entry.deadline + self._limits["patience"] < now
            or bool(budget and self.issued_bytes + entry.length > budget)
        )

    def _choose(self, length: int, neighbour: tuple[int, int] | None) -> int | None:
        """The first server with room, the one that demand asks first; None if none has enough.

        A server that was not asked before has yet to open its files, which takes round trips: others are
        asked when those before them have enough to do.
        """
        for server in self._order:
            window = self.windows[server]
            is_new = neighbour is None or neighbour[1] != server
            if is_new and len(self._runs[server]) >= self._limits["flights"]:
                continue
            if window.room() - self._demand_in_flight[server] >= length:
                return server
        return None

    def _end(self, entry: _Entry) -> None:
        """A block's flight has ended; with the last of a read's, the read."""
        runs = self._runs[entry.server]
        runs[entry.run] -= 1
        if not runs[entry.run]:
            del runs[entry.run]

    def _depart(self, entry: _Entry, server: int, now: float) -> None:
        entry.state = FLYING
        entry.server = server
        entry.departed = now
        entry.mark = self._delivered[server]
        entry.run = self._run
        self._runs[server][self._run] = self._runs[server].get(self._run, 0) + 1
        entry.owner.issued += 1
        entry.owner.issued_bytes += entry.length
        self._queued -= 1
        self.windows[server].departed(entry.length)
        self.held_bytes += entry.length
        self.issued_bytes += entry.length

    def _cancel(self, entry: _Entry) -> None:
        entry.owner.cancelled += 1
        self._drop(entry)

    def _waste(self, entry: _Entry) -> None:
        entry.owner.wasted += 1
        entry.owner.wasted_bytes += entry.length
        if entry.overdue:
            entry.owner.overdue_bytes -= entry.length
        self.held_bytes -= entry.length
        self._drop(entry)

    def _drop(self, entry: _Entry) -> None:
        if entry.state == QUEUED:
            self._queued -= 1
        elif entry.state == FLYING:
            self._end(entry)
        del self._entries[entry.block]
