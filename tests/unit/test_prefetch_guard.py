"""A heuristic of a user's that raises, loops or predicts everything."""

import itertools
import time

import pytest

from orioncache.prefetch import guard as guards
from orioncache.prefetch.guard import Guard, OverrunError, Watchdog
from orioncache.prefetch.interface import Access, Candidate, Heuristic
from orioncache.prefetch.prefetcher import Prefetcher
from orioncache.prefetch.scheduler import Counts
from tests.unit.prefetch_views import TreeView

VIEW = TreeView({"a": bytes(1 << 20)})
ACCESS = Access(0.0, 0, 0, 4096)


@pytest.fixture
def watchdog():
    found = Watchdog(0.01)
    yield found
    found.close()


def heuristic(call, begin=lambda view: ()):
    class Users(Heuristic):
        name = "users"

        def begin(self, view):
            return begin(view)

        def on_access(self, access, view):
            return call(access, view)

    return Users({})


def guarded(watchdog, call, **limits):
    events = []
    return Guard(heuristic(call), events.append, watchdog, **limits), events


def test_one_that_is_good_is_let_alone(watchdog):
    guard, events = guarded(
        watchdog, lambda access, view: (Candidate(number, 1.0, 0.0) for number in range(5))
    )
    for _ in range(100):
        assert len(guard.on_access(ACCESS, VIEW)) == 5
    assert not guard.cut and not events and guard.calls == 100


def raises(access, view):
    raise KeyError("what\nnow \x1b[31m")


def raises_while_it_gives(access, view):
    yield Candidate(1, 1.0, 0.0)
    raise ValueError("no")


def exits(access, view):
    raise SystemExit(3)


def gives_nonsense(access, view):
    return [Candidate("1", 1.0, 0.0)]


def gives_words(access, view):
    return [Candidate(1, "very", 0.0)]


def gives_none_of_it(access, view):
    return [17]


def gives_a_number(access, view):
    return 17


@pytest.mark.parametrize(
    "call",
    [raises, raises_while_it_gives, exits, gives_nonsense, gives_words, gives_none_of_it, gives_a_number],
)
def test_one_that_fails_is_cut_off_and_named(watchdog, call):
    guard, events = guarded(watchdog, call)
    assert guard.on_access(ACCESS, VIEW) == []
    assert guard.on_access(ACCESS, VIEW) == []
    assert guard.calls == 1
    assert len(events) == 1
    assert events[0].startswith("heuristic users was cut off: it raised ")
    assert events[0].isprintable()


def loops(access, view):
    while True:
        pass


def loops_and_catches(access, view):
    while True:
        try:
            while True:
                pass
        except Exception:
            pass


def gives_slowly_without_end(access, view):
    for number in itertools.count():
        if number % 100_000 == 99_999:
            yield Candidate(1, 1.0, 0.0)


@pytest.mark.parametrize("call", [loops, loops_and_catches, gives_slowly_without_end])
def test_one_that_loops_is_ended(watchdog, call):
    guard, events = guarded(watchdog, call, call_seconds=0.05)
    began = time.thread_time()
    assert guard.on_access(ACCESS, VIEW) == []
    assert time.thread_time() - began < 2
    assert events == ["heuristic users was cut off: one call took more than 0.05 s of processor time"]
    # Nothing is left that could hit the next one.
    good, _ = guarded(watchdog, lambda access, view: [Candidate(1, 1.0, 0.0)])
    for _ in range(1000):
        assert len(good.on_access(ACCESS, VIEW)) == 1


def test_the_watchdog_leaves_what_is_in_time_alone(watchdog):
    guard, events = guarded(watchdog, lambda access, view: [], call_seconds=0.005)
    deadline = time.monotonic() + 0.3
    try:
        while time.monotonic() < deadline:
            guard.on_access(ACCESS, VIEW)
    except OverrunError:
        pytest.fail("an overrun came after its call")
    assert not events


def test_sleeping_is_no_processor_time(watchdog):
    guard, events = guarded(watchdog, lambda access, view: time.sleep(0.1), call_seconds=0.05)
    guard.on_access(ACCESS, VIEW)
    assert not events


def test_one_that_gives_without_end_is_cut_short_and_then_off(watchdog):
    guard, events = guarded(
        watchdog, lambda access, view: (Candidate(number, 1.0, 0.0) for number in itertools.count())
    )
    assert len(guard.on_access(ACCESS, VIEW)) == guards.CALL_CANDIDATES
    assert len(guard.on_access(ACCESS, VIEW)) == guards.CALL_CANDIDATES
    assert guard.on_access(ACCESS, VIEW) == []
    assert "more than 1024 blocks for one access" in events[0]


def test_one_whose_blocks_nobody_wants_is_cut_off(watchdog):
    guard, events = guarded(watchdog, lambda access, view: [])
    counts = Counts()
    counts.useful_bytes = 1 << 20
    counts.overdue_bytes = 8 << 20
    assert not guard.judge(counts)
    counts.overdue_bytes = 64 << 20
    assert guard.judge(counts)
    assert not guard.judge(counts)
    assert events == ["heuristic users was cut off: of 65 MiB that it wanted only 2% were asked for"]


def test_the_others_go_on():
    """One raises, one loops at once, one is good: the boot has the good one's blocks."""
    events = []
    good = heuristic(lambda access, view: [Candidate(9, 1.0, 0.0)])
    good.name = "good"
    bad = heuristic(raises)
    prefetcher = Prefetcher([bad, good], VIEW, tell=events.append)
    prefetcher.begin(0.0)
    prefetcher.accessed(0.0, ACCESS)
    assert [block for block, _ in prefetcher.scheduler.take(0.0)] == [9]
    prefetcher.close()
    assert len(events) == 1 and "users" in events[0]


def test_what_waits_is_withdrawn_with_its_heuristic():
    calls = iter([[Candidate(number, 1.0, 0.0) for number in range(200)]])
    view = TreeView({"a": bytes(1 << 20)})
    prefetcher = Prefetcher([heuristic(lambda access, view: next(calls))], view, tell=lambda text: None)
    prefetcher.accessed(0.0, ACCESS)
    assert prefetcher.scheduler.waiting == 200
    prefetcher.accessed(0.0, ACCESS)  # StopIteration
    assert prefetcher.scheduler.waiting == 0
    prefetcher.close()
