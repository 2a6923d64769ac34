"""Failover on a virtual clock: servers that hang, crawl, fail, flap and come back, in exact seconds."""

import errno
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from orioncache.events import Events
from orioncache.upstream import NoServerError, Policy, ReplicaDiffersError, ServerState, UpstreamSet
from orioncache.upstream.policy import BURST, Budget
from tests.unit.fake_servers import QUICK, FakeServer


class Stage:
    """A set of servers, and what happened to it."""

    def __init__(self, servers: list[FakeServer], upstreams: UpstreamSet, events: Events) -> None:
        self.servers = servers
        self.set = upstreams
        self.events = events

    async def read(self, *, wait: bool = True) -> tuple[FakeServer, float]:
        """Reads once; who answered, and the seconds that it took."""
        began = trio.current_time()
        server, _ = await self.set.call(lambda s: s.index, reading=True, small=True, wait=wait)
        return server, trio.current_time() - began

    async def reads(self, count: int, pause: float = 0.01) -> list[float]:
        """Reads one after the other; the seconds that each took."""
        taken = []
        for _ in range(count):
            taken.append((await self.read())[1])
            await trio.sleep(pause)
        return taken

    def figures(self) -> dict[str, float]:
        found = self.set.statistics()["failover"]
        assert isinstance(found, dict)
        return found

    def said(self, kind: str) -> list[str]:
        return [event["text"] for event in self.events.last() if event["kind"] == kind]


@asynccontextmanager
async def stage(count: int, policy: Policy | None = None, **how: object) -> AsyncIterator[Stage]:
    events = Events()
    async with trio.open_nursery() as nursery:
        servers = [FakeServer(index, nursery) for index in range(count)]
        upstreams = UpstreamSet(servers, policy or Policy(), events, **how)  # type: ignore[arg-type]
        nursery.start_soon(upstreams.run)
        yield Stage(servers, upstreams, events)
        nursery.cancel_scope.cancel()


async def test_a_hung_server_costs_its_reads_a_tenth_of_a_second(autojump_clock: MockClock) -> None:
    async with stage(2) as it:
        await it.reads(20)
        first, second = it.servers
        first.hang()
        answers: list[tuple[FakeServer, float]] = []

        async def read() -> None:
            answers.append(await it.read())

        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(read)
        assert [server for server, _ in answers] == [second] * 30
        # Some by hedges; the others when the server is suspect, all at once.
        assert max(seconds for _, seconds in answers) < 0.11
        assert first.health.state is ServerState.SUSPECT
        assert it.set.current is second
        assert first.resent + first.hedges == 30
        assert max(await it.reads(10)) < 0.01
        await trio.sleep(2.1)
        assert first.health.state is ServerState.DEAD
        assert "no answer for" in first.health.reason


@pytest.mark.parametrize("number", [errno.EIO, errno.ECONNRESET, errno.ETIMEDOUT, errno.ENOTCONN])
async def test_a_failing_server_costs_no_time_and_no_error(autojump_clock: MockClock, number: int) -> None:
    async with stage(2) as it:
        await it.reads(5)
        it.servers[0].error = number
        assert max(await it.reads(20)) < 3 * QUICK
        assert it.set.current is it.servers[1]
        assert it.servers[0].health.reason == os.strerror(number)
        assert it.figures()["switches"] == 1


async def test_questions_for_names_do_not_hang_either(autojump_clock: MockClock) -> None:
    async with stage(2) as it:
        it.servers[0].hang()
        began = trio.current_time()
        server, _ = await it.set.call(lambda server: server.index)
        assert server is it.servers[1]
        # Nothing is known about the first one: connections may have to be opened.
        assert trio.current_time() - began < 0.26


async def test_fifteen_of_sixteen_dead_from_the_start(autojump_clock: MockClock) -> None:
    async with stage(16) as it:
        for server in it.servers[:15]:
            server.hang()
        server, seconds = await it.read()
        assert server is it.servers[15]
        assert seconds < 0.3
        assert max(await it.reads(50)) < 0.01
        await trio.sleep(3)
        assert [server.health.state for server in it.servers[:15]] == [ServerState.DEAD] * 15
        # Each has the one probe that it does not answer.
        assert {len(server.probed) for server in it.servers[:15]} <= {1, 2}


async def test_dead_server_that_fails_at_once_is_probed_less_and_less(autojump_clock: MockClock) -> None:
    async with stage(2) as it:
        await it.reads(3)
        it.servers[0].error = errno.ENOTCONN
        await it.read()
        await trio.sleep(1)
        before = len(it.servers[0].probed)
        await trio.sleep(600)
        pauses = [b - a for a, b in zip(it.servers[0].probed, it.servers[0].probed[1:], strict=False)]
        assert before < 8
        assert pauses[-1] == pytest.approx(30, abs=0.1)
        assert [round(pause) for pause in pauses if pause > 0.9][:5] == [1, 2, 4, 8, 16]


async def test_one_that_comes_back_is_not_current_at_once_nor_for_nothing(autojump_clock: MockClock) -> None:
    async with stage(2) as it:
        first, second = it.servers
        await it.reads(20)
        first.hang()
        await it.reads(20)
        await trio.sleep(10)
        first.heal()
        back = trio.current_time()
        await it.reads(300, pause=0.05)
        # As near as the other one: that is no reason to go back.
        assert first.health.state is ServerState.GOOD
        assert it.set.current is second
        second.delay = lambda _: 0.05
        while it.set.current is second:
            await it.reads(1)
        assert trio.current_time() - back > 2
        assert it.figures()["switches"] == 2


async def test_flapping_server_does_not_take_the_reads_with_it(autojump_clock: MockClock) -> None:
    async with stage(2) as it:
        flapping, steady = it.servers
        steady.delay = lambda _: 0.01
        await it.reads(20)

        async def flap() -> None:
            for _ in range(40):
                flapping.hang()
                await trio.sleep(0.7)
                flapping.heal()
                await trio.sleep(0.7)

        slowest = 0.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flap)
            while nursery.child_tasks:
                slowest = max(slowest, *(await it.reads(10)))
        assert slowest < 0.15
        # Who looks at the events finds more than these.
        assert len([text for text in it.said("state") if "server0" in text]) < 40
        # It is ten times as near, but is not believed more than now and then.
        assert it.figures()["switches"] <= 56 / 5 * 2 + 1


async def test_slow_server_is_left_and_called_slow(autojump_clock: MockClock) -> None:
    async with stage(2) as it:
        first, second = it.servers
        await it.reads(100)
        first.delay = lambda job: 0.03
        await it.reads(200)
        assert it.set.current is second
        await it.reads(1000)
        assert first.health.state is ServerState.SLOW
        assert "ms away" in first.health.reason
        assert sum(await it.reads(50)) / 50 < 0.005


async def test_one_in_twenty_late_is_hedged_within_the_budget(autojump_clock: MockClock) -> None:
    chance = random.Random(1)
    for budget in (5.0, 0.0):
        async with stage(2, Policy(hedge_budget=budget)) as it:
            for server in it.servers:
                server.delay = lambda job: 0.5 if not job.probe and chance.random() < 0.03 else QUICK
            await it.reads(50)
            taken = sorted(await it.reads(2000))
            late = taken[int(0.99 * len(taken))]
            figures = it.figures()
        if budget:
            assert late < 0.05
            assert 20 < figures["hedges"] <= 0.05 * 2050 + BURST
            assert figures["hedges_won"] > 0.9 * figures["hedges"]
        else:
            assert figures["hedges"] == 0
            # Nobody is asked twice before it is overdue.
            assert late > 0.1


async def test_healthy_servers_are_not_asked_twice(autojump_clock: MockClock) -> None:
    chance = random.Random(2)
    async with stage(3) as it:
        for server in it.servers:
            server.delay = lambda _: QUICK * chance.lognormvariate(0, 1)
        await it.reads(5000, pause=0.001)
        assert it.figures()["extra_reads_pct"] <= 5
        assert it.figures()["resent"] == 0


def test_budget_is_never_exceeded() -> None:
    budget = Budget(5)
    taken = 0
    for asked in range(1, 100_000):
        budget.asked()
        while asked % 3 and budget.take():
            taken += 1
        assert taken <= BURST + 0.05 * asked
    nothing = Budget(0)
    nothing.asked()
    assert not nothing.take()


async def test_server_that_answers_after_29_seconds(autojump_clock: MockClock) -> None:
    # With another one it costs nothing but the first moment; alone it is waited for.
    async with stage(2) as it:
        it.servers[0].delay = lambda _: 29.0
        taken = await it.reads(100)
        assert taken[0] < 0.3
        assert max(taken[1:]) < 0.01
        await trio.sleep(60)
        assert max(await it.reads(100)) < 0.01
        assert it.set.current is it.servers[1]
    async with stage(1) as it:
        it.servers[0].delay = lambda _: 29.0
        taken = await it.reads(4)
        assert max(taken) < 60
        assert it.servers[0].health.state is ServerState.GOOD


async def test_probe_that_answers_while_reads_do_not_proves_nothing(autojump_clock: MockClock) -> None:
    async with stage(2) as it:
        first = it.servers[0]
        await it.reads(20)
        first.hangs = lambda job: job.reading
        assert max(await it.reads(2000, pause=0.05)) < 0.11
        assert first.health.state is ServerState.DEAD
        assert it.set.current is it.servers[1]
        assert len(first.asked) < 60
        # What it is probed with is the very question that it owes.
        first.heal()
        await trio.sleep(31)
        assert first.health.state is ServerState.GOOD


async def test_names_answered_while_reads_hang(autojump_clock: MockClock) -> None:
    async with stage(2) as it:
        first = it.servers[0]
        await it.reads(20)
        first.hangs = lambda job: job.reading
        done = False

        async def ask_names() -> None:
            while not done:
                await it.set.call(lambda server: server.index)
                await trio.sleep(0.005)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_names)
            taken = await it.reads(100)
            done = True
        assert max(taken) < 0.11


async def test_one_question_that_hangs_costs_its_server_no_trust_for_long(autojump_clock: MockClock) -> None:
    async with stage(2) as it:
        await it.reads(50)
        first = it.servers[0]
        first.hangs = lambda job: len(first.asked) == 51
        answers: list[float] = []

        async def read() -> None:
            answers.append((await it.read())[1])

        async with trio.open_nursery() as nursery:
            it.set.budget.tokens = 0
            nursery.start_soon(read)
            await trio.sleep(0.001)
            first.hangs = lambda job: False
            for _ in range(200):
                await trio.sleep(0.01)
                await it.set.servers[0].call(lambda _: 0, patience=1, reading=True)
        assert len(answers) == 1
        assert answers[0] < 1


async def test_all_gone_for_hours_and_back(autojump_clock: MockClock) -> None:
    async with stage(3) as it:
        await it.reads(10)
        for server in it.servers:
            server.hang()
        back = [0.0]
        answered: list[float] = []

        async def read() -> None:
            await it.read()
            answered.append(trio.current_time() - back[0])

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(read)
            await trio.sleep(4 * 3600)
            assert answered == []
            assert it.figures()["waiting"] == 50
            assert not it.set.answering
            back[0] = trio.current_time()
            it.servers[1].heal()
        assert max(answered) < 0.1
        assert it.figures()["waiting"] == 0
        assert it.set.current is it.servers[1]
        assert any("no server answers" in text for text in it.said("state"))


async def test_return_of_one_that_failed_at_once_is_noticed_at_once(autojump_clock: MockClock) -> None:
    async with stage(2) as it:
        await it.reads(10)
        for server in it.servers:
            server.error = errno.ENOTCONN

        async with trio.open_nursery() as nursery:
            nursery.start_soon(it.read)
            await trio.sleep(200)
            it.servers[0].error = 0
            began = trio.current_time()
        assert trio.current_time() - began < 0.1


async def test_give_up_fails_with_eio_after_its_time(autojump_clock: MockClock) -> None:
    async with stage(2, Policy(give_up=5.0)) as it:
        await it.reads(10)
        for server in it.servers:
            server.error = errno.ETIMEDOUT
        began = trio.current_time()
        with pytest.raises(OSError) as caught:
            await it.read()
        assert caught.value.errno == errno.EIO
        assert trio.current_time() - began == pytest.approx(5, abs=0.1)


async def test_who_does_not_want_to_wait_is_told(autojump_clock: MockClock) -> None:
    async with stage(2) as it:
        await it.reads(10)
        for server in it.servers:
            server.hang()
        with pytest.raises(NoServerError):
            await it.read(wait=False)
        began = trio.current_time()
        with pytest.raises(NoServerError):
            await it.read(wait=False)
        assert trio.current_time() == began
        it.servers[0].heal()
        await trio.sleep(0.1)
        assert (await it.read(wait=False))[1] < 0.01


async def test_error_of_one_file_on_servers_that_live_is_its_answer(autojump_clock: MockClock) -> None:
    async with stage(2) as it:
        await it.reads(10)

        def work(server: FakeServer) -> int:
            raise OSError(errno.EIO, "bad sector")

        began = trio.current_time()
        with pytest.raises(OSError, match="bad sector") as caught:
            await it.set.call(work, reading=True)
        assert caught.value.errno == errno.EIO
        assert trio.current_time() - began < 3
        await it.reads(3)


async def test_missing_file_is_an_answer_but_not_that_of_a_hedge(autojump_clock: MockClock) -> None:
    async with stage(2) as it:
        await it.reads(20)
        first, second = it.servers

        def work(server: FakeServer) -> str:
            if server is second:
                raise FileNotFoundError(errno.ENOENT, "it has no such file")
            return "found"

        first.delay = lambda _: 0.05
        assert await it.set.call(work, reading=True) == (first, "found")
        assert (first.hedges, first.hedges_won, second.hedges) == (1, 0, 0)
        it.set.drain(0, True)
        with pytest.raises(FileNotFoundError):
            await it.set.call(work, reading=True)


async def test_copy_that_differs_is_not_taken_while_its_first_server_may_come_back(
    autojump_clock: MockClock,
) -> None:
    async with stage(2) as it:
        first, second = it.servers
        await it.reads(20)

        def work(server: FakeServer) -> str:
            if server is second:
                raise ReplicaDiffersError
            return "as it was"

        first.hang()
        got: list[object] = []

        async def read() -> None:
            got.append(await it.set.call(work, reading=True))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(100)
            assert got == []
            with pytest.raises(ReplicaDiffersError):
                # Who asks for a name is told that it is another file now.
                await it.set.call(work)
            first.heal()
        assert got == [(first, "as it was")]
        assert second.health.state is ServerState.GOOD


async def test_draining_adding_removing_and_replacing_while_reading(autojump_clock: MockClock) -> None:
    async with stage(2) as it:
        first, second = it.servers
        await it.reads(5)
        it.set.drain(0, True)
        assert it.set.current is second
        count = len(first.asked)
        await it.reads(20)
        assert len(first.asked) == count
        second.hang()
        # Better than none.
        assert (await it.read())[0] is first
        it.set.drain(0, False)
        third = FakeServer(2, it.servers[0]._nursery)
        it.set.admit(third)
        answers: list[FakeServer] = []

        async def read() -> None:
            answers.append((await it.read())[0])

        await it.reads(3)
        first.delay = lambda _: 0.015
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(0.001)
            it.set.remove(0)
        assert answers == [third]
        with pytest.raises(FileNotFoundError):
            it.set.remove(0)
        it.set.remove(1)
        with pytest.raises(OSError) as caught:
            it.set.remove(2)
        assert caught.value.errno == errno.EBUSY
        third.hang()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(20)
            assert third.health.state is ServerState.DEAD
            third.hangs = lambda _: False
            it.set.replace(2, os.open("/", os.O_PATH))
            began = trio.current_time()
        assert trio.current_time() - began < 0.1
        assert answers == [third, third]


async def test_server_with_something_else_is_never_asked(autojump_clock: MockClock) -> None:
    async with stage(2, vet=lambda server: server.foreign) as it:
        it.servers[1].foreign = "it has another release"
        await it.reads(50)
        assert it.servers[1].health.state is ServerState.QUARANTINED
        assert it.servers[1].health.reason == "it has another release"
        it.servers[0].hang()
        with pytest.raises(NoServerError):
            await it.read(wait=False)
        assert it.servers[1].asked == []


async def test_liar_is_asked_only_when_nobody_else_can_be(autojump_clock: MockClock) -> None:
    async with stage(2) as it:
        await it.reads(5)
        it.set.quarantine(it.servers[0], "block 3 is damaged", block=3)
        assert it.set.current is it.servers[1]
        assert (await it.read())[0] is it.servers[1]
        it.servers[1].error = errno.EIO
        assert (await it.read())[0] is it.servers[0]
        assert any("block 3" in text for text in it.said("quarantine"))


async def test_spread_uses_all_that_are_good(autojump_clock: MockClock) -> None:
    async with stage(3, Policy(spread=True)) as it:
        await it.reads(10)

        async def read() -> None:
            await it.read()

        async with trio.open_nursery() as nursery:
            for _ in range(90):
                nursery.start_soon(read)
        assert min(len(server.asked) for server in it.servers) >= 29


async def test_wall_clock_may_jump(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with stage(2) as it:
        await it.reads(20)
        for leap in (-1e8, 1e8):
            monkeypatch.setattr(time, "time", lambda leap=leap: 1e9 + leap)
            assert max(await it.reads(20)) < 0.01
        assert it.figures()["switches"] == 0


async def test_event_loop_that_stood_still_accuses_nobody(autojump_clock: MockClock) -> None:
    async with stage(2) as it:
        await it.reads(20)
        first = it.servers[0]
        first.delay = lambda _: 0.01
        slept = trio.Event()

        async def read() -> None:
            assert (await it.read())[0] is first
            slept.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(0.005)
            # As after SIGSTOP and SIGCONT: ten minutes in which nothing could be noticed.
            autojump_clock.jump(600)
        assert slept.is_set()
        assert first.health.state is ServerState.GOOD


async def test_caller_that_goes_away_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    async with stage(2) as it:
        await it.reads(20)
        it.servers[0].hang()
        with trio.move_on_after(0.01):
            await it.read()
        await trio.sleep(0.2)
        # Nobody waits, and still it is noticed.
        assert it.servers[0].health.state is ServerState.SUSPECT
        assert it.set._calls == set()
        await trio.sleep(5)
        assert it.set._orphans == []


async def test_nothing_waits_at_the_end(autojump_clock: MockClock) -> None:
    async with stage(2) as it:
        for server in it.servers:
            server.hang()

        async def end() -> None:
            await trio.sleep(100)
            it.set.end()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(end)
            with pytest.raises(NoServerError):
                await it.read()
        assert trio.current_time() == pytest.approx(100, abs=0.1)


async def test_stalls_are_counted(autojump_clock: MockClock) -> None:
    async with stage(1) as it:
        await it.reads(20)
        it.servers[0].hang()

        async def heal() -> None:
            await trio.sleep(1)
            it.servers[0].heal()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(heal)
            await it.read()
        assert it.figures()["stalls"] == 1
        assert it.figures()["longest_stall_ms"] == pytest.approx(1000, abs=50)
        assert len(it.said("stall")) == 1
