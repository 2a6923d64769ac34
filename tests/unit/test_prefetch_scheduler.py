"""The scheduler's promises, under any order of events."""

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from orioncache.prefetch import scheduler
from orioncache.prefetch.interface import HOLE, Candidate
from orioncache.prefetch.scheduler import ABSENT, FLYING, LANDED, QUEUED, Scheduler
from orioncache.prefetch.window import BLOCK, Window

BLOCKS = 40
FLIGHTS = 3
LENGTHS = [BLOCK if number % 3 else 1000 * (number + 1) for number in range(BLOCKS)]
blocks = st.integers(0, BLOCKS - 1)
confidences = st.floats(allow_nan=True, allow_infinity=True) | st.floats(0, 1)


class AnyOrder(RuleBasedStateMachine):
    """Events in any order, with a model of what is on its way."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.cached = set()
        self.flying = {}  # taken by take(), not landed: block to server
        self.taken_over = set()
        self.reads, self.run_of = 0, {}  # of each block the read that brings it
        self.demanded = set()
        self.scheduler = Scheduler(
            lambda block: LENGTHS[block] if 0 <= block < BLOCKS else 0,
            self.cached.__contains__,
            servers=2,
            limits={
                "memory": 10 * BLOCK,
                "budget": 30 * BLOCK,
                "entries": 20,
                "cap": 1 << 20,
                "flights": FLIGHTS,
            },
        )

    @rule(
        block=st.integers(-3, BLOCKS + 3),
        confidence=confidences,
        deadline=confidences,
        name=st.sampled_from("ab"),
    )
    def offer(self, block, confidence, deadline, name):
        self.scheduler.offer(
            self.now, name, [Candidate(block, confidence, deadline), Candidate(HOLE, 1.0, 0.0)]
        )

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds):
        self.now += seconds

    @rule()
    def take(self):
        before = [window.size for window in self.scheduler.windows]
        last = None
        for block, server in self.scheduler.take(self.now):
            if (block, server) != last:
                self.reads += 1
            last = block + 1, server
            self.run_of[block] = server, self.reads
            assert block not in self.flying
            assert block not in self.cached
            self.flying[block] = server
        for server, window in enumerate(self.scheduler.windows):
            assert (
                len({self.run_of[block] for block, where in self.flying.items() if where == server})
                <= FLIGHTS
            )
            flying = sum(
                LENGTHS[block] for block, where in self.flying.items()
                if where == server and block not in self.taken_over
            )  # fmt: skip
            assert window.in_flight == flying
            # What was on its way before may be more than a window that has shrunk since.
            assert flying <= max(before[server], window.size) or window.backed_off

    @rule(block=blocks)
    def demand(self, block):
        before = self.scheduler.state(block)
        assert self.scheduler.demanded(self.now, block) == before
        if before == FLYING:
            self.taken_over.add(block)
            assert self.scheduler.state(block) == FLYING
        else:
            assert self.scheduler.state(block) == ABSENT
        if before in (ABSENT, QUEUED):
            # Demand has it from here on: it fetches it itself.
            self.cached.add(block)

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), how=st.sampled_from(["landed", "failed", "left_out"]))
    def end(self, data, how):
        block = data.draw(st.sampled_from(sorted(self.flying)))
        del self.flying[block]
        was_taken = block in self.taken_over
        self.taken_over.discard(block)
        if how == "landed":
            self.cached.add(block)
            self.scheduler.landed(self.now, block)
            assert self.scheduler.state(block) == (ABSENT if was_taken else LANDED)
        else:
            if how == "failed":
                self.scheduler.failed(self.now, block)
            else:
                self.scheduler.left_out(block)
            assert self.scheduler.state(block) == ABSENT

    @rule(block=blocks)
    def evict(self, block):
        if block not in self.flying:
            self.cached.discard(block)
            self.scheduler.gone(block)
            assert self.scheduler.state(block) == ABSENT

    @rule(seconds=st.floats(0, 1))
    def demand_read(self, seconds):
        self.scheduler.demand_departed(BLOCK)
        self.scheduler.demand_landed(self.now, BLOCK, seconds)

    @rule(name=st.sampled_from("ab"))
    def withdraw(self, name):
        self.scheduler.withdraw(name)

    @invariant()
    def keeps_its_promises(self):
        found = self.scheduler
        assert found.flights == len(self.flying)
        assert 0 <= found.held_bytes <= 10 * BLOCK
        assert found.issued_bytes <= 30 * BLOCK
        assert found.waiting <= 20
        assert all(256 << 10 <= window.size <= 1 << 20 for window in found.windows)
        for counts in found.statistics().values():
            assert all(value >= 0 for value in counts.values()), counts

    def teardown(self):
        for block in list(self.flying):
            self.scheduler.landed(self.now, block)
        assert all(window.in_flight == 0 for window in self.scheduler.windows)
        self.scheduler.finish()
        assert self.scheduler.flights == self.scheduler.held_bytes == self.scheduler.waiting == 0
        for counts in self.scheduler.statistics().values():
            assert counts["issued"] == sum(counts[each] for each in ("useful", "late", "wasted")) + (
                counts["failed"] - failed_late(counts)
            )
            assert counts["overdue_bytes"] == 0


def failed_late(counts):
    """Flights that failed after a demand had taken them over count as late and as failed."""
    return max(0, counts["useful"] + counts["late"] + counts["wasted"] + counts["failed"] - counts["issued"])


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = hypothesis_settings(max_examples=60, stateful_step_count=60, deadline=None)


def make(**limits):
    return Scheduler(lambda block: BLOCK, lambda block: False, limits=limits)


def test_the_earliest_deadline_departs_first_then_the_greatest_confidence():
    it = make(floor=8 * BLOCK)
    it.offer(0.0, "h", [Candidate(1, 0.5, 2.0), Candidate(2, 0.9, 1.0), Candidate(3, 0.4, 1.0)])
    it.offer(0.0, "h", [Candidate(4, 1.0, 0.5), Candidate(1, 0.5, 0.1)])
    assert [block for block, _ in it.take(0.0)] == [1, 4, 2, 3]


def test_nothing_departs_beyond_the_window_and_landings_make_room():
    it = make()
    it.offer(0.0, "h", [Candidate(block, 1.0, block) for block in range(100)])
    first = it.take(0.0)
    assert sum(BLOCK for _ in first) <= it.windows[0].size
    assert it.take(0.0) == []
    it.landed(0.01, first[0][0])
    assert it.take(0.01)


def test_demand_leaves_no_room_for_what_nobody_waits_for():
    it = make()
    it.offer(0.0, "h", [Candidate(1, 1.0, 0.0)])
    it.demand_departed(it.windows[0].size)
    assert it.take(0.0) == []
    it.demand_landed(0.01, it.windows[0].size, 0.01)
    assert it.take(0.01) == [(1, 0)]


def test_a_queued_block_that_is_demanded_is_demands():
    it = make()
    it.offer(0.0, "h", [Candidate(1, 1.0, 0.0)])
    assert it.demanded(0.0, 1) == QUEUED
    assert it.take(0.0) == []
    assert it.counts("h").cancelled == 1


def test_what_became_useless_does_not_depart():
    cached = set()
    it = Scheduler(lambda block: BLOCK, cached.__contains__, limits={"patience": 1.0})
    it.offer(0.0, "h", [Candidate(1, 1.0, 0.0), Candidate(2, 1.0, 0.0), Candidate(3, 1.0, 9.0)])
    cached.add(2)
    it.gone(1)
    assert [block for block, _ in it.take(5.0)] == [3]
    assert it.counts("h").cancelled == 2


def test_spreads_over_servers():
    it = Scheduler(lambda block: BLOCK, lambda block: False, servers=3)
    it.offer(0.0, "h", [Candidate(block, 1.0, block) for block in range(9)])
    assert {server for _, server in it.take(0.0)} == {0, 1, 2}


def test_what_a_trip_is_not_worth_is_declined():
    """On a link without delay a wasted block costs more than a late one."""
    it = make(floor=1 << 20)
    it.offer(0.0, "h", [Candidate(1, 1.0, 0.0)])
    it.take(0.0)
    it.landed(0.001, 1)  # 128 MB/s, 1 ms
    it.offer(0.01, "h", [Candidate(2, 0.2, 0.0), Candidate(3, 0.9, 0.0)])
    assert [block for block, _ in it.take(0.01)] == [3]
    assert it.counts("h").declined == 1


def test_overdue_blocks_are_noticed_and_forgiven():
    it = make(grace=1.0)
    it.offer(0.0, "h", [Candidate(1, 1.0, 0.0)])
    it.take(0.0)
    it.landed(0.1, 1)
    it.review(2.0)
    assert it.counts("h").overdue_bytes == BLOCK
    assert it.demanded(3.0, 1) == LANDED
    assert it.counts("h").overdue_bytes == 0


def test_the_window_follows_bandwidth_times_delay():
    """100 MB/s and 10 ms: 1 MB is on the link, and about twice that on its way."""
    window = Window(256 << 10, 8 << 20)
    now, free, delivered = 0.0, 0.0, 0
    flying = []
    for _ in range(2000):
        while window.room() >= BLOCK:
            window.departed(BLOCK)
            free = max(free, now) + BLOCK / 100e6
            flying.append((free + 0.01, now, delivered))
        lands, departed, mark = flying.pop(0)
        now = max(now, lands)
        delivered += BLOCK
        window.landed(BLOCK, now - departed, delivered - mark)
    assert 0.8e6 < window.size < 4e6


def test_the_window_halves_when_demand_suffers_once_a_trip():
    window = Window(256 << 10, 8 << 20)
    window.departed(BLOCK)
    window.demanded(0.0, BLOCK, 0.010)
    for now in (0.1, 0.11, 0.12):
        window.demanded(now, BLOCK, 0.100)
    assert window.backed_off == 1
    window.demanded(0.5, BLOCK, 0.100)
    assert window.backed_off == 2


def test_limits_have_units_and_help():
    for limit in scheduler.LIMITS:
        assert limit.help and limit.unit and limit.name.isidentifier()
