"""One boot replayed: processes compute and ask, blocks come, heuristics and scheduler are those of a node."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orioncache.errors import UserError
from orioncache.prefetch.interface import HIT, LATE, MISS, Access, Heuristic, View
from orioncache.prefetch.prefetcher import Prefetcher
from orioncache.simulate.machine import Clock, Network, Processor, Request
from orioncache.simulate.model import AHEAD_MOST, RUN_BLOCKS, RUN_BYTES, Scene
from orioncache.simulate.pages import PageCache, Readahead
from orioncache.simulate.recording import Recording, Step
from orioncache.simulate.result import Counted, Result
from orioncache.simulate.stream import HEAD_START, Frame, Piece, Stream
from orioncache.store.sieve import Sieve

DEMAND, AROUND, AHEAD = range(3)


class SimulatedView(View):
    """What a release must tell the simulator besides what it tells heuristics.

    Attributes:
        cached: set by the boot that runs: whether a block is in RAM.
        block_count: different blocks.
    """

    cached: Callable[[int], bool]
    block_count: int

    def place(self, block: int) -> tuple[int, int, int]:
        """Where a block lies: offset in its pack, pack, bytes."""
        raise NotImplementedError


class _Flight:
    """A block that is on its way.

    Attributes:
        kind: DEMAND (somebody waits), AROUND (read around a miss) or AHEAD (the scheduler's).
        ahead: the scheduler began it.
        waiting: numbers of the steps that wait.
    """

    __slots__ = ("ahead", "kind", "request", "waiting")

    def __init__(self, kind: int, request: Request) -> None:
        self.kind = kind
        self.ahead = kind == AHEAD
        self.request = request
        self.waiting: list[int] = []


class Boot:
    """The state of one simulated boot; :meth:`run` goes through it once."""

    def __init__(
        self,
        recording: Recording,
        view: SimulatedView,
        heuristics: Sequence[Heuristic],
        scene: Scene,
        *,
        limits: Mapping[str, Any] | None = None,
        warm: bool = False,
        bundle: tuple[list[Frame], int] | None = None,
    ) -> None:
        """Prepares a boot.

        Args:
            recording: what is replayed.
            view: its release.
            heuristics: made for this boot.
            scene: link, servers, memory.
            limits: of the scheduler.
            warm: all is in the page cache from the beginning; else nothing is in RAM.
            bundle: from :func:`orioncache.simulate.stream.read_frames`; streamed from the mount on.

        Raises:
            UserError: a bundle, and no trace of first touches.
        """
        if bundle is not None and not recording.first_touches:
            raise UserError(
                "a bundle holds pages that are touched, and this trace has READs",
                "record one with orioncache bench --trace FILE --trace-touch",
            )
        self._warm = warm
        self.recording = recording
        self.scene = scene
        self.view = view
        self.clock = Clock()
        self.processor = Processor(self.clock)
        self.network = Network(self.clock, self.processor, scene, self._landed)
        self.events: list[str] = []
        view.cached = self._has
        self.prefetcher = Prefetcher(
            heuristics, view, tell=self.events.append, servers=scene.servers, limits=limits
        )
        self._costs = scene.costs
        self._pages = PageCache()
        self._readahead = Readahead() if recording.first_touches else None
        self._stream = None
        if bundle is not None:
            self._stream = Stream(
                *bundle,
                clock=self.clock,
                processor=self.processor,
                network=self.network,
                pages=self._pages,
                costs=scene.costs,
            )
        self._store: Sieve[int] = Sieve(scene.cache_size)
        # Bytes of each block that the kernel has; a block that it has whole is not kept in the store.
        self._given: dict[int, int] = {}
        self._flights: dict[int, _Flight] = {}
        self._around_bytes = 0
        self._around = Counted()
        self._around_unused: dict[int, int] = {}
        self._demanded: set[int] = set()
        self._bytes_demanded = 0
        self._hits = self._lates = self._upcalls = self._demand_blocks = 0
        self._waited = 0.0
        # Work that was recorded and is not done, as a READ did not happen: to be taken off what comes next.
        self._saved = 0.0
        steps = recording.steps
        self._left = [len(step.after) + len(step.beside) for step in steps]
        self._after: list[list[int]] = [[] for _ in steps]
        self._beside: list[list[int]] = [[] for _ in steps]
        for number, step in enumerate(steps):
            for other in step.after:
                self._after[other].append(number)
            for other in step.beside:
                self._beside[other].append(number)
        self._asked_at = [0.0] * len(steps)
        self._ranges: list[tuple[int, int]] = [(0, 0)] * len(steps)
        self._missing = [0] * len(steps)
        self._late = [False] * len(steps)
        self._began = self._last_answer = 0.0
        # Blocks in the order in which READs asked for them first.
        self.order: dict[int, float] = {}

    def run(self) -> Result:
        """Goes through the boot."""
        self.prefetcher.begin(0.0)
        self._depart_ahead()
        if self._stream is None:
            self.clock.at(self.recording.lead, self._begin)
        else:
            self.clock.at(max(0.0, self.recording.lead - HEAD_START), self._begin_stream)
        self.clock.run()
        heuristics = {guard.name: guard for guard in self.prefetcher.guards}
        self.prefetcher.close()
        for block in list(self._around_unused):
            self._waste_around(block)
        counted = {
            name: Counted.of(self.prefetcher.scheduler.counts(name).as_dict(), guard.cut)
            for name, guard in heuristics.items()
        }
        if self.scene.around:
            counted["read-around"] = self._around
        return Result(
            seconds=max(0.0, self._last_answer - self._began),
            held_s=self._began - self.recording.lead,
            requests=len(self.recording.steps),
            upcalls=self._upcalls,
            hits=self._hits,
            lates=self._lates,
            waited_s=self._waited,
            blocks_demanded=len(self._demanded),
            bytes_demanded=self._bytes_demanded,
            blocks_fetched_late=self._demand_blocks,
            server_reads=self.network.requests,
            bytes_read=self.network.bytes,
            processor_s=self.processor.busy,
            processor_io_s=self.processor.busy_io,
            link_busy_s=self.network.busy,
            heuristics=counted,
            events=list(self.events),
        )

    def _begin_stream(self) -> None:
        """The stream begins, and the rest of the initramfs shares the processor with it."""
        assert self._stream is not None
        self._stream.begin()
        self.processor.compute(min(HEAD_START, self.recording.lead), self._begin)

    def _begin(self) -> None:
        """The first requests' processes begin: userland."""
        self._began = self.clock.now
        for number, left in enumerate(self._left):
            if not left:
                self._compute(number)

    # A step's life: compute, ask, wait, be answered.

    def _compute(self, number: int) -> None:
        work = self.recording.steps[number].work
        saved = min(work, self._saved)
        self._saved -= saved
        work -= saved
        self.processor.compute(work, lambda: self._ask(number))

    def _ask(self, number: int) -> None:
        step = self.recording.steps[number]
        touch = step.touch
        self._asked_at[number] = self.clock.now
        for other in self._beside[number]:
            self._released(other)
        if self._readahead is not None:
            # Whatever follows, it is not what was recorded: one READ for each touch.
            self._saved += self._costs.touch_s
        if self._warm or self._pages.has(touch.inode, touch.offset, touch.length):
            if self._readahead is None:
                self._saved += self._costs.upcall_s + touch.length * self._costs.copy_s
            self._note_touch(step)
            self._complete(number)
            return
        self._upcalls += 1
        offset, length = touch.offset, touch.length
        if self._readahead is not None and not self._streams:
            offset, length = self._readahead.range(touch.inode, offset, length, self.view.size(touch.inode))
            offset, length = self._pages.trim(touch.inode, offset, length)
        self._ranges[number] = offset, length
        self.processor.work(self._costs.answer_s, lambda: self._read(number))

    def _read(self, number: int) -> None:
        """The engine has the request: native/fetch.c's orion_fetch_read()."""
        touch = self.recording.steps[number].touch
        offset, length = self._ranges[number]
        now = self.clock.now
        if self._stream is not None and self._from_stream(number):
            return
        absent: list[int] = []
        for block in dict.fromkeys(self.view.blocks(touch.inode, offset, length)):
            self._demand(block)
            self.order.setdefault(block, now)
            self.prefetcher.scheduler.demanded(now, block)
            if self._has(block):
                continue
            flight = self._flights.get(block)
            self._missing[number] += 1
            if flight is None:
                absent.append(block)
                continue
            flight.waiting.append(number)
            if flight.kind == AROUND:
                self._around.late += 1
                self._around_bytes -= self._around_unused.pop(block, 0)
            if flight.kind != DEMAND:
                self._late[number] = True
            flight.kind = DEMAND
            self.network.promote(flight.request)
        if absent:
            absent.sort()
            self._demand_blocks += len(absent)
            self._late[number] = False
            for request in self._send(absent, DEMAND, 0):
                self.prefetcher.scheduler.demand_departed(request.size)
            for block in absent:
                self._flights[block].waiting.append(number)
            if not self._streams:
                self._read_around(absent[0], absent[-1])
        if not self._missing[number]:
            self._hits += 1
            self._answer(number)
        elif self._late[number]:
            self._lates += 1

    def _from_stream(self, number: int) -> bool:
        """Whether a bundle has what a request asks for, or brings it: orion_bundle_ask()."""
        assert self._stream is not None
        touch = self.recording.steps[number].touch
        found = self._stream.ask(touch.inode, *self._ranges[number])
        if found is True:
            self._hits += not self._late[number]
            self._note_touch(self.recording.steps[number])
            self._answer(number)
        elif found is not False:
            self._lates += not self._late[number]
            self._late[number] = True
            found.waiting.append(lambda: self._read(number))
        return found is not False

    def _answer(self, number: int) -> None:
        if self._readahead is None:
            self._given_to_kernel(number)
            return
        _, length = self._ranges[number]
        cost = self._costs.upcall_s + length * self._costs.copy_s
        self.processor.work(cost, lambda: self._given_to_kernel(number))

    def _given_to_kernel(self, number: int) -> None:
        touch = self.recording.steps[number].touch
        offset, length = self._ranges[number]
        self._pages.add(touch.inode, offset, length)
        size = self.view.block_size
        for position in range(offset // size, (offset + length - 1) // size + 1):
            block = self.view.block(touch.inode, position)
            if block is None:
                continue
            begin = max(offset, position * size)
            end = min(offset + length, (position + 1) * size)
            given = self._given.get(block, 0)
            whole = self.view.length(block)
            if given and given < whole:
                # Its second part: the rest follows into the page cache (native/push.c).
                self._pages.add(touch.inode, position * size, whole)
                given = whole
            else:
                given += end - begin
            self._given[block] = given
            if given >= whole:
                self._store.pop(_key(block))
        outcome = MISS if self._missing[number] else HIT
        self._complete(number)
        access = Access(
            self._asked_at[number],
            touch.inode,
            offset,
            length,
            waited=self.clock.now - self._asked_at[number],
            pid=touch.pid,
            comm=touch.comm,
            outcome=LATE if self._late[number] else outcome,
        )
        if self.prefetcher.guards:
            self._tell(access)

    def _tell(self, access: Access) -> None:
        cost = self._costs.heuristic_s * len(self.prefetcher.guards)
        if cost:
            self.processor.work(cost, lambda: self._heuristics(access))
        else:
            self._heuristics(access)

    def _heuristics(self, access: Access) -> None:
        self.prefetcher.accessed(self.clock.now, access)
        self._depart_ahead()

    def _complete(self, number: int) -> None:
        self._last_answer = max(self._last_answer, self.clock.now)
        self._waited += self.clock.now - self._asked_at[number]
        for other in self._after[number]:
            self._released(other)

    def _released(self, number: int) -> None:
        self._left[number] -= 1
        if not self._left[number]:
            self._compute(number)

    def _note_touch(self, step: Step) -> None:
        """A page that is there was touched: no upcall, and nobody knows but the simulator."""
        for block in self.view.blocks(step.touch.inode, step.touch.offset, step.touch.length):
            self._demand(block)

    def _demand(self, block: int) -> None:
        if block not in self._demanded:
            self._demanded.add(block)
            self._bytes_demanded += self.view.length(block)
        length = self._around_unused.get(block)
        if length and block not in self._flights:
            del self._around_unused[block]
            self._around.useful += 1
            self._around.useful_bytes += length

    # Blocks: in RAM, on their way, landed.

    def _evicted(self, block: int) -> None:
        self.prefetcher.scheduler.gone(block)
        self._waste_around(block)

    def _waste_around(self, block: int) -> None:
        """It was read around a miss, and is gone before anybody demanded it."""
        length = self._around_unused.pop(block, 0)
        if length:
            self._around.wasted += 1
            self._around.wasted_bytes += length

    def _has(self, block: int) -> bool:
        return self._given.get(block, 0) >= self.view.length(block) or _key(block) in self._store

    def _send(self, blocks: Sequence[int], kind: int, server: int) -> list[Request]:
        """Asks for blocks, ascending; neighbours together: native/fetch.c's depart()."""
        requests = []
        position = 0
        while position < len(blocks):
            first = position
            run = [blocks[first]]
            offset, pack, size = self.view.place(blocks[first])
            position += 1
            while position < len(blocks) and len(run) < RUN_BLOCKS and blocks[position] == run[-1] + 1:
                next_offset, next_pack, length = self.view.place(blocks[position])
                if next_pack != pack or next_offset != offset + size or size + length > RUN_BYTES:
                    break
                size += length
                run.append(blocks[position])
                position += 1
            request = Request(run, size, server, pack=pack, demand=kind == DEMAND, departed=self.clock.now)
            for block in run:
                self._flights[block] = _Flight(kind, request)
            requests.append(request)
            self.network.ask(request)
        return requests

    def _read_around(self, first: int, last: int) -> None:
        """native/fetch.c's read_around()."""
        around = self.scene.around
        if not around:
            return
        place, count = self.view.place, self.view.block_count
        _, pack, _ = place(first)
        begin, left = first, around // 4
        while begin > 0 and (before := place(begin - 1))[1] == pack and before[2] <= left:
            left -= before[2]
            begin -= 1
        numbers = [number for number in range(begin, first) if self._take_around(number)]
        left = around - around // 4
        number = last + 1
        while number < count and (behind := place(number))[1] == pack and behind[2] <= left:
            if len(numbers) >= RUN_BLOCKS or self._around_bytes >= AHEAD_MOST:
                break
            left -= behind[2]
            if self._take_around(number):
                numbers.append(number)
            number += 1
        self._send(numbers, AROUND, 0)

    def _take_around(self, block: int) -> bool:
        if self._around_bytes >= AHEAD_MOST or block in self._flights or self._has(block):
            return False
        length = self.view.length(block)
        if not length:
            return False
        # The store may have had no room for it the last time.
        self._waste_around(block)
        self._around_bytes += length
        self._around_unused[block] = length
        self._around.issued += 1
        self._around.issued_bytes += length
        return True

    def _depart_ahead(self) -> None:
        scheduler = self.prefetcher.scheduler
        by_server: dict[int, list[int]] = {}
        for block, server in scheduler.take(self.clock.now):
            if block in self._flights:
                # On its way for another reason, as native/fetch.c finds out as well.
                scheduler.left_out(block)
                continue
            by_server.setdefault(server, []).append(block)
        for server, blocks in by_server.items():
            # In the scheduler's order; neighbours that depart together travel together.
            for run in _runs(blocks):
                self._send(run, AHEAD, server)

    @property
    def _streams(self) -> bool:
        return self._stream is not None and self._stream.running

    def _landed(self, request: Request) -> None:
        now = self.clock.now
        if isinstance(request, Piece):
            assert self._stream is not None
            self._stream.landed(request)
            return
        landed: list[int] = []
        for block in request.blocks:
            flight = self._flights.pop(block)
            if flight.kind != DEMAND or self._given.get(block, 0) < self.view.length(block):
                for key, evicted in self._store.put(_key(block), block, self.view.length(block)):
                    del key
                    self._evicted(evicted)
            if flight.kind == AROUND:
                self._around_bytes -= self.view.length(block)
            if flight.ahead:
                landed.append(block)
            for number in flight.waiting:
                self._missing[number] -= 1
                if not self._missing[number]:
                    self._missing[number] = 1  # it was a miss: for its outcome
                    self._answer(number)
        if request.demand:
            self.prefetcher.scheduler.demand_landed(now, request.size, now - request.departed)
        for block in landed:
            self.prefetcher.landed(now, block)
        if self.prefetcher.guards:
            self._depart_ahead()


def _runs(blocks: Sequence[int]) -> list[list[int]]:
    """Blocks in their order, with neighbours that follow each other together."""
    runs: list[list[int]] = []
    for block in blocks:
        if runs and runs[-1][-1] + 1 == block:
            runs[-1].append(block)
        else:
            runs.append([block])
    return runs


def _key(block: int) -> bytes:
    return block.to_bytes(4, "little")
