"""The simulator: closed forms, causes, determinism, speed."""

import dataclasses
import itertools
import random
import time

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from orioncache.errors import UserError
from orioncache.prefetch.interface import Candidate, Heuristic
from orioncache.prefetch.settings import Choice
from orioncache.simulate import eviction
from orioncache.simulate.boot import Boot
from orioncache.simulate.bounds import bounds
from orioncache.simulate.experiment import Point, simulate, sweep, vary
from orioncache.simulate.model import SLICE_S, Costs, Scene
from orioncache.simulate.pages import PageCache, Readahead
from orioncache.simulate.recording import Recording, Touch, causes, settle
from orioncache.simulate.stream import Frame
from orioncache.simulate.views import TraceView

BLOCK = 128 << 10
FREE = Costs(
    answer_s=0, request_s=0, fetch_s=0, trip_s=0, upcall_s=0, copy_s=0, touch_s=0, unpack_s=0, lookup_s=0
)
FAR = Scene(rtt_ms=10, read_around=0, open_trips=0, costs=FREE)


def recording(touches, sizes=None, **fields):
    inodes = {touch.inode for touch in touches}
    files = {inode: (f"f{inode}", (sizes or {}).get(inode, BLOCK)) for inode in inodes}
    return Recording("test", causes(touches), 0.0, fields.pop("first_touches", False), files, {}, **fields)


def chain(count, work=0.001, size=BLOCK, pid=1):
    """One process that reads one file after the other."""
    return [Touch(work * (number + 1), 0.0, number, 0, size, pid=pid) for number in range(count)]


def run(found, scene, heuristics=(), **more):
    return Boot(found, TraceView(found), list(heuristics), scene, **more).run()


@pytest.mark.parametrize("count", [1, 7, 40])
@pytest.mark.parametrize("rtt", [0, 1, 10])
def test_dependent_reads_take_a_round_trip_each(count, rtt):
    result = run(recording(chain(count)), dataclasses.replace(FAR, rtt_ms=rtt))
    assert result.seconds == pytest.approx(count * rtt / 1000 + (count - 1) * 0.001)
    assert (result.upcalls, result.hits, result.blocks_demanded) == (count, 0, count)


def test_the_first_read_of_a_pack_opens_it():
    result = run(recording(chain(5)), dataclasses.replace(FAR, open_trips=3))
    assert result.seconds == pytest.approx(8 * 0.010 + 4 * 0.001)


def test_the_rate_adds_what_the_bytes_take():
    result = run(recording(chain(10)), dataclasses.replace(FAR, rate_mbit=100))
    assert result.seconds == pytest.approx(10 * (0.010 + BLOCK * 8 / 100e6) + 9 * 0.001)
    assert result.bytes_read == 10 * BLOCK
    assert result.link_busy_s == pytest.approx(10 * BLOCK * 8 / 100e6)


def test_the_link_carries_one_answer_after_the_other():
    """Two processes at the same time share the rate, and wait for one round trip together."""
    touches = [Touch(0.0, 0.01, number, 0, BLOCK, pid=number + 1) for number in range(2)]
    result = run(recording(touches), dataclasses.replace(FAR, rate_mbit=100))
    assert result.seconds == pytest.approx(0.010 + 2 * BLOCK * 8 / 100e6)


def test_a_server_reads_no_more_at_a_time_than_it_has_readers():
    touches = [Touch(0.0, 0.01, number, 0, BLOCK, pid=number + 1) for number in range(12)]
    result = run(recording(touches), dataclasses.replace(FAR, readers=4))
    assert result.seconds == pytest.approx(3 * 0.010)


def test_one_processor_computes_for_one_process_at_a_time():
    """Two processes that compute for 10 ms each between reads take 20 ms for both, whatever the link."""
    touches = [Touch(0.0, 0.0, 0, 0, BLOCK, pid=1), Touch(0.0, 0.0, 1, 0, BLOCK, pid=2)]
    touches += [Touch(0.010, 0.0, 2, 0, BLOCK, pid=1), Touch(0.020, 0.0, 3, 0, BLOCK, pid=2)]
    result = run(recording(touches), dataclasses.replace(FAR, rtt_ms=0))
    assert result.seconds == pytest.approx(0.020)


def test_what_was_read_is_there():
    touches = [*chain(5), *(Touch(1 + number / 100, 0.0, number, 0, BLOCK, pid=1) for number in range(5))]
    result = run(recording(touches), FAR)
    assert result.upcalls == 5 and result.server_reads == 5


class Knows(Heuristic):
    """Says at the beginning what a test knows."""

    name = "knows"

    def __init__(self, blocks, confidence=1.0):
        super().__init__({})
        self.blocks, self.confidence = blocks, confidence

    def begin(self, view):
        return [Candidate(block, self.confidence, number * 1e-3) for number, block in enumerate(self.blocks)]

    def on_access(self, access, view):
        return ()


def test_perfect_prefetch_waits_once():
    found = recording(chain(8, work=0.02))
    without, ahead = run(found, FAR), run(found, FAR, [Knows(range(8))])
    assert without.seconds == pytest.approx(8 * 0.010 + 7 * 0.02)
    # Departed at time 0, the first is late, the others are there.
    assert ahead.seconds <= 0.010 + 7 * 0.02 + 1e-9
    counted = ahead.heuristics["knows"]
    assert counted.useful + counted.late == counted.issued == 8
    assert counted.precision == counted.recall(ahead.blocks_demanded) == 1.0
    assert ahead.lates == 1 and ahead.hits == 7


def test_wasted_blocks_are_counted():
    found = recording(chain(4, work=0.02), sizes={3: 20 * BLOCK})
    result = run(found, FAR, [Knows([0, 1, 2, 10, 11, 12])])
    counted = result.heuristics["knows"]
    assert (counted.issued, counted.wasted, counted.wasted_bytes) == (6, 3, 3 * BLOCK)
    assert counted.precision == 0.5
    assert result.as_dict()["wasted_bytes"] == 3 * BLOCK


def test_a_small_cache_loses_what_came_too_early():
    found = recording(chain(40, work=0.02))
    result = run(found, dataclasses.replace(FAR, cache_size=4 * BLOCK), [Knows(range(40))])
    assert result.heuristics["knows"].wasted > 0
    assert result.seconds > run(found, FAR, [Knows(range(40))]).seconds


def bundle_of(inodes, packed=BLOCK // 2):
    return [Frame(packed, BLOCK, [(inode, 0, BLOCK)]) for inode in inodes]


class TestStream:
    def run(self, frames, scene=FAR, count=8, lead=0.0, work=0.02):
        found = recording(chain(count, work=work), first_touches=True)
        found.lead = lead
        return run(found, scene, bundle=(frames, 4096))

    def test_what_is_stored_in_time_asks_for_nothing(self):
        result = self.run(bundle_of(range(8)), dataclasses.replace(FAR, rtt_ms=5), lead=0.1)
        assert result.seconds == pytest.approx(7 * 0.02)
        assert result.upcalls == result.blocks_fetched_late == 0
        assert result.bytes_read == 4096 + 8 * BLOCK // 2

    def test_what_is_on_its_way_is_waited_for(self):
        """The index takes a round trip, and the frames another; the initramfs goes on for one and a half.

        The index is looked at when the slice ends that the initramfs has then, the third.
        """
        result = self.run(bundle_of(range(8)), lead=0.015)
        assert (result.lates, result.hits, result.blocks_fetched_late) == (1, 0, 0)
        assert result.seconds == pytest.approx(3 * SLICE_S + 0.010 - 0.015 + 7 * 0.02)

    def test_before_the_index_is_there_nothing_is_known(self):
        result = self.run(bundle_of(range(8)))
        assert (result.lates, result.blocks_fetched_late) == (0, 1)

    def test_what_it_has_not_is_read_as_ever(self):
        result = self.run(bundle_of(range(0, 8, 2)), dataclasses.replace(FAR, rtt_ms=5), lead=1.0)
        assert result.upcalls == result.blocks_fetched_late == 4
        assert result.seconds == pytest.approx(4 * 0.005 + 7 * 0.02)

    def test_the_rate_is_what_it_takes(self):
        """A stream of 64 frames at 100 Mbit/s, and everything is wanted at once."""
        result = self.run(
            bundle_of(range(64)), dataclasses.replace(FAR, rate_mbit=100), count=64, work=0.0, lead=0.01
        )
        assert result.seconds == pytest.approx(64 * BLOCK / 2 * 8 / 100e6, rel=0.2)

    def test_a_trace_of_reads_is_refused(self):
        with pytest.raises(UserError, match="pages that are touched"):
            run(recording(chain(3)), FAR, bundle=(bundle_of(range(3)), 4096))


def test_a_heuristic_that_raises_does_not_end_the_boot():
    class Raises(Heuristic):
        name = "raises"

        def on_access(self, access, view):
            raise RuntimeError("no")

    found = recording(chain(5))
    result = run(found, FAR, [Raises({})])
    assert result.seconds == run(found, FAR).seconds
    assert result.events == ["heuristic raises was cut off: it raised RuntimeError: no"]


def test_read_around_fetches_neighbours_of_a_miss():
    found = recording(chain(8))
    result = run(found, dataclasses.replace(FAR, read_around=4 * BLOCK))
    assert result.seconds < run(found, FAR).seconds
    assert result.heuristics["read-around"].useful > 0


class TestBounds:
    def test_they_are_what_they_say(self):
        found = recording(chain(10, work=0.02))
        limits = bounds(found, TraceView(found), FAR)
        assert limits.infinite_link == pytest.approx(9 * 0.02)
        assert limits.infinite_link < limits.clairvoyant <= 0.010 + 9 * 0.02 + 1e-9

    @hypothesis_settings(max_examples=30, deadline=None)
    @given(st.integers(0, 1000), st.sampled_from([0.0, 1.0, 10.0]), st.sampled_from([None, 100.0]))
    def test_nothing_is_faster_than_everything_in_ram(self, seed, rtt, rate):
        found = some_boot(seed)
        scene = Scene(rtt_ms=rtt, rate_mbit=rate)
        view = TraceView(found)
        limits = bounds(found, view, scene)
        assert limits.infinite_link <= limits.clairvoyant + 1e-9
        assert limits.clairvoyant <= Boot(found, view, [], scene).run().seconds + 1e-9


def some_boot(seed, steps=60, files=20, **fields):
    """Processes that fork each other, read files and wait, at random."""
    dice = random.Random(seed)
    at, touches = 0.0, []
    for _ in range(steps):
        at += dice.expovariate(1000)
        inode = dice.randrange(files)
        offset = 4096 * dice.randrange(64)
        touches.append(
            Touch(at, dice.random() / 2000, inode, offset, 4096 * dice.randint(1, 8), pid=dice.randint(1, 5))
        )
    return recording(touches, dict.fromkeys(range(files), 1 << 20), **fields)


@hypothesis_settings(max_examples=40, deadline=None)
@example(6298, "none", False, 1 << 19)
@given(
    st.integers(0, 10_000),
    st.sampled_from(["none", "sequential", "sequential:trigger=1:initial=1M"]),
    st.booleans(),
    st.sampled_from([1 << 19, 1 << 27]),
)
def test_every_boot_ends_and_is_the_same_each_time(seed, heuristics, first_touches, cache_size):
    from orioncache.prefetch import settings

    found = some_boot(seed, first_touches=first_touches)
    point = Point(Scene(rtt_ms=5, rate_mbit=200, cache_size=cache_size), settings.parse(heuristics))
    first, second = (simulate(found, TraceView(found), point) for _ in range(2))
    assert first == second
    assert first.requests == 60
    assert first.seconds > 0
    for counted in first.heuristics.values():
        assert counted.issued == counted.useful + counted.late + counted.wasted


class TestCauses:
    def test_a_process_goes_on_after_its_own_answer(self):
        steps = causes([Touch(0.0, 0.5, 0, 0, 1, pid=1), Touch(1.0, 0.5, 0, 0, 1, pid=1)])
        assert [step.after for step in steps] == [(), (0,)]
        assert [step.work for step in steps] == [0.0, 0.5]

    def test_a_new_one_goes_on_after_whoever_was_answered_last(self):
        steps = causes([Touch(0.0, 0.1, 0, 0, 1, pid=1), Touch(1.0, 0.1, 0, 0, 1, pid=2)])
        assert steps[1].after == (0,)

    def test_a_parent_has_waited_for_a_child_that_lived_meanwhile(self):
        touches = [Touch(0.0, 0.1, 0, 0, 1, pid=1)]
        touches += [Touch(at, 0.1, 0, 0, 1, pid=2) for at in (1.0, 2.0)]
        touches += [Touch(3.0, 0.1, 0, 0, 1, pid=1)]
        assert causes(touches)[3].after == (0, 2)

    def test_two_at_the_same_time_do_not_wait_for_each_other(self):
        touches = [
            Touch(at, 0.1, number % 2, 0, 1, pid=1 + number % 2)
            for number, at in enumerate((0.0, 0.05, 0.3, 0.5, 0.7))
        ]
        steps = causes(touches)
        assert [step.after for step in steps] == [(), (), (0,), (1,), (2,)]

    def test_those_that_read_the_same_file_side_by_side_keep_their_order(self):
        """Nobody asked twice for what the other one's READ brought: it was waited for."""
        touches = [
            Touch(at, 0.1, 0, 0, 1, pid=1 + number % 2)
            for number, at in enumerate((0.0, 0.05, 0.3, 0.5, 0.7))
        ]
        assert [step.after for step in causes(touches)] == [(), (), (0, 1), (1, 2), (2,)]

    def test_a_request_that_does_not_wait_for_the_one_before(self):
        """Readahead: the second is asked for while the first is under way."""
        steps = causes([Touch(0.0, 0.5, 0, 0, 1, pid=1), Touch(0.1, 0.1, 0, 9, 1, pid=1)])
        assert steps[1].after == () and steps[1].beside == (0,)

    def test_failed_ones_and_hints_are_left_out(self):
        touches = [
            Touch(0.0, 0.1, 0, 0, 1, outcome=3),
            Touch(0.0, 0.1, 0, 0, 1, kind=1),
            Touch(0.0, 0.1, 0, 0, 0),
        ]
        assert causes(touches) == []

    @given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.2), st.integers(0, 4)), max_size=40))
    def test_causes_come_before_their_effects(self, records):
        steps = causes([Touch(at, waited, 0, 0, 1, pid=pid) for at, waited, pid in records])
        for number, step in enumerate(steps):
            assert step.work >= 0
            assert all(other < number for other in (*step.after, *step.beside))
            for other in step.after:
                touch = steps[other].touch
                assert touch.at + touch.waited <= step.touch.at

    @given(
        st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.2), st.integers(1, 4)), min_size=1, max_size=40)
    )
    def test_settled_work_and_costs_add_up(self, records):
        steps = causes([Touch(at, waited, 0, 0, 1, pid=pid) for at, waited, pid in records])
        settle(steps, lambda touch: touch.waited / 2)
        assert all(step.work >= 0 for step in steps)
        end = max(step.touch.at + step.touch.waited for step in steps)
        total = sum(step.work for step in steps) + sum(step.touch.waited / 2 for step in steps)
        last = steps[-1]
        if last.touch.at + last.touch.waited == end:
            return  # what the last span hides is nobody's
        assert total >= 0


class TestPages:
    @given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60), st.integers(1, 20)), max_size=30))
    def test_it_is_a_set_of_pages(self, ranges):
        cache, model = PageCache(), set()
        for inode, first, count in ranges:
            pages = {(inode, page) for page in range(first, first + count)}
            assert cache.has(inode, first * 4096, count * 4096) == (pages <= model)
            offset, length = cache.trim(inode, first * 4096, count * 4096)
            missing = sorted(page for _, page in pages - model)
            wanted = (
                (missing[0] * 4096, (missing[-1] + 1 - missing[0]) * 4096) if missing else (first * 4096, 0)
            )
            assert (offset, length) == wanted
            cache.add(inode, first * 4096, count * 4096)
            model |= pages

    def test_a_fault_reads_around_and_a_stream_reads_ahead(self):
        it = Readahead()
        size = 8 << 20
        assert it.range(1, 0, 4096, size) == (0, 16384)
        assert it.range(1, 16384, 4096, size) == (16384, 32768)
        assert it.range(1, 4 << 20, 4096, size) == ((4 << 20) - (512 << 10), 1 << 20)
        assert it.range(2, 8192, 4096, 9000) == (0, 9000)
        assert it.range(3, 65536, 65536, size) == (65536, 65536)

    @given(st.integers(0, 1 << 22), st.integers(1, 1 << 17))
    def test_what_was_touched_is_always_read(self, offset, length):
        size = 4 << 20
        length = min(length, size - offset)
        if length > 0:
            begin, count = Readahead().range(1, offset, length, size)
            assert begin <= offset and offset + length <= begin + count <= size + offset


class TestSweep:
    point = Point(Scene(), [Choice("sequential", {})])

    def test_all_combinations(self):
        found = sweep(self.point, [("rtt", ["0", "10"]), ("sequential.window", ["1M", "2M", "4M"])])
        assert [(each.scene.rtt_ms, str(each.choices[0])) for each in found] == [
            (rtt, f"sequential:window={window}")
            for rtt, window in itertools.product((0, 10), ("1M", "2M", "4M"))
        ]

    @pytest.mark.parametrize(
        ("name", "value"),
        [("rtt", "x"), ("size", "1"), ("elf.depth", "3"), ("sequential.width", "3"),
         ("sequential.window", "x"), ("scheduler.width", "3"), ("scheduler.cap", "x"), ("servers", "0"),
         ("heuristic", "psychic")],
    )  # fmt: skip
    def test_a_wrong_one_is_said(self, name, value):
        with pytest.raises(UserError) as caught:
            sweep(self.point, [(name, [value])])
        assert caught.value.mend and "\n" not in caught.value.message

    def test_heuristics_and_limits(self):
        assert vary(self.point, "heuristic", "elf+script").heuristics == "elf,script"
        assert vary(self.point, "scheduler.cap", "1M").limits == {"cap": "1M"}


def test_eviction_policies_are_compared():
    pytest.importorskip("libcachesim")
    found = some_boot(7, steps=400)
    policies = eviction.compare(found, TraceView(found), 16 * BLOCK)
    by_name = {each.name: each for each in policies}
    assert by_name["belady"].misses == min(each.misses for each in policies)
    # Two implementations of the same algorithm, ours and libCacheSim's.
    assert by_name[eviction.OURS].misses == pytest.approx(by_name["sieve"].misses, abs=2)
    assert all(each.requests == policies[0].requests for each in policies)
    with pytest.raises(UserError, match="holds no block"):
        eviction.compare(found, TraceView(found), 1000)


def test_a_boot_is_simulated_quickly(capsys):
    """Of the size of the default boot; 0.3 s on a quiet machine, with room for a busy one."""
    found = some_boot(1, steps=4000, files=400, first_touches=True)
    point = Point(Scene(rtt_ms=10), [Choice("sequential", {})])
    seconds = []
    for _ in range(3):
        view = TraceView(found)
        began = time.process_time()
        simulate(found, view, point)
        seconds.append(time.process_time() - began)
    with capsys.disabled():
        print(f"\n4,000 requests simulated in {min(seconds):.2f} s of processor time")
    assert min(seconds) < 1.0
