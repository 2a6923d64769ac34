"""The machine of a simulated boot: a clock with events, a processor, a link, servers with their readers."""

import heapq
from collections import deque
from collections.abc import Callable

from orioncache.simulate.model import SLICE_S, Scene


class Clock:
    """Simulated time, in seconds.

    Attributes:
        now: the time.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, when: float, event: Callable[[], None]) -> None:
        """Does something at a time; in the order of these calls if several fall together."""
        self._count += 1
        heapq.heappush(self._events, (max(when, self.now), self._count, event))

    def run(self) -> None:
        """Until nothing is left to happen."""
        events = self._events
        while events:
            self.now, _, event = heapq.heappop(events)
            event()


class Processor:
    """One processor: whoever computes has it in turn, a slice each, and work for I/O comes before them.

    Attributes:
        busy: seconds that it has worked for processes and other threads.
        busy_io: seconds that it has worked for I/O.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._free_io = 0.0
        self._queue: deque[tuple[float, Callable[[], None]]] = deque()
        self._running: tuple[float, Callable[[], None]] | None = None
        self._ends = 0.0
        self.busy = 0.0
        self.busy_io = 0.0

    def compute(self, seconds: float, done: Callable[[], None]) -> None:
        """A thread computes, in turn with all others."""
        self.busy += seconds
        self._queue.append((seconds, done))
        if self._running is None:
            self._next()

    def work(self, seconds: float, done: Callable[[], None]) -> None:
        """Work for I/O, which interrupts whoever computes."""
        now = self._clock.now
        begin = max(now, self._free_io)
        self._free_io = begin + seconds
        self.busy_io += seconds
        if self._running is not None:
            self._ends += seconds
        self._clock.at(self._free_io, done)

    def _next(self) -> None:
        if not self._queue:
            self._running = None
            return
        seconds, done = self._queue.popleft()
        part = min(seconds, SLICE_S)
        self._running = seconds - part, done
        self._ends = max(self._clock.now, self._free_io) + part
        self._clock.at(self._ends, self._look)

    def _look(self) -> None:
        if self._ends > self._clock.now:
            self._clock.at(self._ends, self._look)
            return
        assert self._running is not None
        left, done = self._running
        if left > 0:
            self._queue.append((left, done))
            self._next()
            return
        self._next()
        done()


class Request:
    """One read on a server.

    Attributes:
        blocks: neighbours, ascending.
        size: their bytes.
        demand: it was begun because somebody waits.
        urgent: somebody waits for it now.
        server: which.
        pack: the file on it.
        departed: when it was asked for, before any queue.
        begun: a reader has it.
    """

    __slots__ = ("begun", "blocks", "demand", "departed", "pack", "server", "size", "urgent")

    def __init__(
        self, blocks: list[int], size: int, server: int, *, pack: int, demand: bool, departed: float
    ) -> None:
        self.blocks = blocks
        self.size = size
        self.server = server
        self.pack = pack
        self.demand = self.urgent = demand
        self.departed = departed
        self.begun = False


class Network:
    """Servers, each with its readers, behind one link to the node.

    Attributes:
        requests: reads that were sent.
        bytes: that came.
        busy: seconds in which the link carried bytes.
    """

    def __init__(
        self, clock: Clock, processor: Processor, scene: Scene, landed: Callable[[Request], None]
    ) -> None:
        self._clock = clock
        self._processor = processor
        self._costs = scene.costs
        self._half = scene.rtt_ms / 2000
        self._rate = scene.rate_mbit * 125_000 if scene.rate_mbit else 0.0
        self._free = 0.0
        self._readers = [scene.readers] * scene.servers
        self._urgent: list[deque[Request]] = [deque() for _ in range(scene.servers)]
        self._others: list[deque[Request]] = [deque() for _ in range(scene.servers)]
        self._landed = landed
        self._opening = scene.open_trips * scene.rtt_ms / 1000
        self._opened: set[tuple[int, int]] = set()
        self.requests = 0
        self.bytes = 0
        self.busy = 0.0

    def ask(self, request: Request) -> None:
        """Sends a read, as soon as a reader is free."""
        (self._urgent if request.urgent else self._others)[request.server].append(request)
        self._begin(request.server)

    def promote(self, request: Request) -> None:
        """Somebody waits for it now."""
        if request.urgent:
            return
        request.urgent = True
        if not request.begun:
            self._others[request.server].remove(request)
            self._urgent[request.server].append(request)

    def _begin(self, server: int) -> None:
        while self._readers[server] and (self._urgent[server] or self._others[server]):
            request = (self._urgent[server] or self._others[server]).popleft()
            request.begun = True
            self._readers[server] -= 1
            self.requests += 1
            # The server's half of the work is done on the same processor, before the answer leaves.
            cost = self._costs.request_s + request.size * self._costs.fetch_s / 2
            self._processor.work(cost, lambda request=request: self._answer(request))  # type: ignore[misc]

    def _answer(self, request: Request) -> None:
        opening = 0.0
        if (request.server, request.pack) not in self._opened:
            self._opened.add((request.server, request.pack))
            opening = self._opening
        leaves = max(self._clock.now + opening + self._half, self._free)
        carried = request.size / self._rate if self._rate else 0.0
        self._free = leaves + carried
        self.busy += carried
        self.bytes += request.size
        self._clock.at(self._free + self._half, lambda: self._arrive(request))

    def _arrive(self, request: Request) -> None:
        self._readers[request.server] += 1
        self._processor.work(request.size * self._costs.fetch_s / 2, lambda: self._landed(request))
        self._begin(request.server)
