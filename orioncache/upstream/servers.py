"""Interchangeable servers: which of them are well, and which of them is asked."""

import contextlib
import errno
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import trio

from orioncache.events import Events
from orioncache.upstream.call import Call
from orioncache.upstream.health import UNTIL_DEAD, ServerState
from orioncache.upstream.judging import Verdict, judge
from orioncache.upstream.member import Member
from orioncache.upstream.opened import ReplacedError, ReplicaDiffersError
from orioncache.upstream.policy import (
    LATE_WEIGHT,
    REST,
    STALL,
    Budget,
    Policy,
    is_better,
    is_slow,
    overdue_after,
    rank,
    standing,
)
from orioncache.upstream.pool import Job
from orioncache.upstream.probing import ACTIVE, AWAITED, Probing

T = TypeVar("T")

# Seconds after a call for which files count as being read.
ACTIVITY = 5.0

# Changes of one server's state that are told of within so many seconds.
TOLD_MOST = 10
TOLD_WITHIN = 30.0

# Servers are held against each other at most so often, unless one of them falls out.
COMPARED = 0.05


class UpstreamSet:
    """Servers, one of which is current and asked first.

    Everything runs in the event loop, except for what says otherwise. :meth:`run` is to run as long as the
    set is used: it looks after servers that nobody asks.

    Attributes:
        servers: all of them, in the order of their numbers; never empty.
        current: the one that is asked first.
        policy: what the user chose.
        budget: for questions that are asked twice.
        clock: seconds, which never go back.
        lagged: when the event loop was last found to be late, which is no fault of the servers'.
        waiting: calls that no trusted server has.
        ending: whether those fail instead of waiting.
    """

    def __init__(
        self,
        servers: Sequence[Member],
        policy: Policy,
        events: Events,
        *,
        vet: Callable[[Any], str | None] | None = None,
        add: Callable[[str, int, int], Member] | None = None,
    ) -> None:
        """A set; the first server is current if it can be asked.

        Args:
            servers: at least one.
            policy: what the user chose.
            events: is told of failures and changes.
            vet: says why a server must never be asked, or None if it may; blocks. It is asked before each
                server's first probe.
            add: makes a server of its source, a number, and its directory's descriptor.
        """
        self.servers = list(servers)
        self.current = rank(self.servers, self.servers[0])[0]
        self.policy = policy
        self.budget = Budget(policy.hedge_budget)
        self.clock = self.servers[0].clock
        self.lagged = float("-inf")
        self.waiting = 0
        self.ending = False
        self._events = events
        self._vet = vet
        self._add = add
        self._vetted: set[int] = set()
        self._probings = {server: Probing(self.clock()) for server in self.servers}
        self._calls: set[Call] = set()
        self._orphans: list[Job] = []
        self._poked = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._asked_at = float("-inf")
        self._switched_at = float("-inf")
        self._compared_at = float("-inf")
        self._all = {"calls": 0, "switches": 0, "hedges": 0, "hedges_won": 0, "resent": 0, "stalls": 0}
        self._longest_stall = 0.0
        self._told_none = False
        self._told: dict[Member, list[float]] = {server: [] for server in self.servers}

    async def call(
        self, work: Callable[[Any], T], *, reading: bool = False, small: bool = False, wait: bool = True
    ) -> tuple[Any, T]:
        """Has a server do ``work``: the current one, or others if it fails, is slow, or does not answer.

        Args:
            work: blocks, and is given the server; it may run on several of them at the same time, and go on
                after this returns. May raise ReplicaDiffersError to have the next one asked.
            reading: whether it reads file content.
            small: whether it takes a round trip and no more.
            wait: whether to wait, for as long as the policy says, if no server answers.

        Returns:
            Who answered, and what.

        Raises:
            NoServerError: no server answers, and ``wait`` is false.
            OSError: an answer about the file, such as ENOENT; or, if no server could answer, the first
                failure.
        """

        def ask(server: Member) -> T:
            try:
                return work(server)
            except (ReplicaDiffersError, ReplacedError):
                raise
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise
            # Perhaps only a directory that we hold open was replaced: look it up again, once.
            server.forget_directories()
            return work(server)

        if self._token is None:
            self._token = trio.lowlevel.current_trio_token()
        call = Call(self, ask, reading=reading, small=small, wait=wait)
        began = self.clock()
        if began - self._asked_at > ACTIVE:
            self.poke()
        self._asked_at = began
        self._all["calls"] += 1
        self.budget.asked()
        self._calls.add(call)
        try:
            return await call.run()
        finally:
            self._calls.discard(call)
            self._count_stall(self.clock() - began)

    async def run(self) -> None:
        """Looks after the servers, until it is cancelled."""
        self._token = trio.lowlevel.current_trio_token()
        while True:
            now = self.clock()
            for server in list(self.servers):
                if server.health.passed(now):
                    self._tell_state(server, f"{server.source} is dead: {server.health.reason}")
                server.give_up(now - self.policy.read_timeout)
                self._probe_if_due(server, now)
            self._look_after_orphans(now)
            self._compare(now)
            with trio.move_on_after(max(0.0, self._next_look(now) - self.clock())):
                await self._poked.wait()
            self._poked = trio.Event()

    @property
    def answering(self) -> bool:
        """Whether any server is trusted to answer."""
        return any(self._can_answer(server) for server in self.servers)

    def ranked(self) -> list[Member]:
        """The order in which to ask."""
        return rank(self.servers, self.current, spread=self.policy.spread)

    def statistics(self) -> dict[str, object]:
        """``servers`` and ``failover`` of the status; may be called from any thread."""
        servers = list(self.servers)
        extra = self._all["hedges"] + self._all["resent"]
        return {
            "servers": [{**server.statistics(), "current": server is self.current} for server in servers],
            "failover": {
                "switches": self._all["switches"],
                "hedges": self._all["hedges"],
                "hedges_won": sum(server.hedges_won for server in servers),
                "resent": self._all["resent"],
                "stalls": self._all["stalls"],
                "longest_stall_ms": round(1000 * self._longest_stall, 3),
                "waiting": self.waiting,
                "extra_reads_pct": round(100 * extra / max(1, self._all["calls"]), 2),
            },
        }

    # Changes while it runs. From any thread.

    def add(self, fd: int, source: str) -> int:
        """Adds a server, from a descriptor of its directory (taken over); returns its number."""

        def add() -> int:
            assert self._add is not None, "this set was made without a way to add servers"
            taken = {server.index for server in self.servers}
            number = next(n for n in range(len(taken) + 1) if n not in taken)
            self.admit(self._add(source, number, fd))
            return number

        return self.in_loop(add)

    def admit(self, server: Member) -> None:
        """Adds a server that was made already. In the event loop."""
        self.servers = sorted([*self.servers, server], key=lambda one: one.index)
        self._probings[server] = Probing(self.clock())
        self._events.info(f"{server.source} was added", "server", server=server.source)
        self._wake()

    def remove(self, number: int) -> None:
        """Takes a server out; what it was asked is asked elsewhere.

        Raises:
            OSError: ENOENT if there is none with this number, EBUSY if it is the last one.
        """

        def remove() -> None:
            server = self._numbered(number)
            if len(self.servers) == 1:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            server.removed = True
            self.servers = [one for one in self.servers if one is not server]
            del self._probings[server]
            self._told.pop(server, None)
            if self.current is server:
                self._switch(self.ranked()[0], self.clock(), f"{server.source} was removed")
            server.close()
            self._events.info(f"{server.source} was removed", "server", server=server.source)
            self._wake()

        self.in_loop(remove)

    def drain(self, number: int, on: bool) -> None:
        """Sends nothing new to a server, as long as there is another one; or sends it again.

        Raises:
            OSError: ENOENT if there is none with this number.
        """

        def drain() -> None:
            server = self._numbered(number)
            server.health.draining = on
            how = "gets no new reads" if on else "gets reads again"
            self._events.info(f"{server.source} {how}", "server", server=server.source)
            self._compare(self.clock(), now_or_never=True)
            self._wake()

        self.in_loop(drain)

    def replace(self, number: int, root: int) -> None:
        """A server was mounted anew: this is the descriptor of its root, which is taken over.

        Raises:
            OSError: ENOENT if there is none with this number.
        """

        def replace() -> None:
            server = self._numbered(number)
            server.replace(root)
            server.overdue = None
            server.health.renew(self.clock())
            self._probings[server] = Probing(self.clock())
            self._events.info(f"{server.source} is mounted anew", "mount", server=server.source)
            self._wake()

        self.in_loop(replace)

    def quarantine(self, server: Member, reason: str, **proof: str | int) -> None:
        """A server gave something that is proven to be wrong."""

        def quarantine() -> None:
            if server.removed or not server.health.quarantine(self.clock(), reason):
                return
            self._events.warning(
                f"{server.source} is quarantined: {reason}", "quarantine", server=server.source, **proof
            )
            self._compare(self.clock(), now_or_never=True)
            self._wake()

        if _is_in_loop() or self._token is None:
            quarantine()
            return
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(quarantine)

    # For calls.

    def job_landed(self, job: Job) -> None:
        """A job has ended: what that says about its server."""
        server, now = job.server, self.clock()
        assert job.ended is not None
        assert job.started is not None
        if job in self._orphans:
            self._orphans.remove(job)
        if server.removed or job.serial != server.serial:
            return
        verdict = judge(job.error)
        if verdict is Verdict.OF_SERVER:
            assert isinstance(job.error, OSError)
            server.errors += 1
            if server.overdue is job:
                server.overdue = None
            if not job.resent or job.started >= server.heard[job.reading]:
                # Or else it has answered other questions since: this one is of another time.
                self._trouble(server, f"{job.error.strerror}", now)
            return
        took = job.ended - job.started
        if not (job.resent or (job.dropped and server.health.in_trouble)):
            # A server that hangs now and then shall not be given more time for that.
            server.latency_of(reading=job.reading).add(took, now)
        if not job.probe:
            server.late -= LATE_WEIGHT * server.late
        if job.measures and verdict is Verdict.GOOD:
            server.distance.add(took)
        server.heard[job.reading] = max(server.heard[job.reading], job.ended)
        overdue = server.overdue
        if overdue is None or overdue is job or (overdue.reading == job.reading and not job.probe):
            self._answered(server, now)

    def is_overdue(self, job: Job, now: float) -> bool:
        """Whether a job's server ought to have answered it, or anything of the kind, long ago."""
        return job.started is not None and job.ended is None and now >= self.overdue_at(job, now)

    def overdue_at(self, job: Job, now: float) -> float:
        """When that will be so."""
        server = job.server
        heard = server.heard[job.reading]
        since = now if job.started is None else max(job.progressed, heard, self.lagged)
        return since + overdue_after(server.latency_of(reading=job.reading))

    def overdue(self, job: Job, now: float) -> None:
        """A job's server has not answered in time."""
        if job.server.removed or job.serial != job.server.serial:
            return
        if job.server.health.trusted:
            job.server.overdue = job
        age = now - max(job.progressed, job.server.heard[job.reading])
        self._trouble(job.server, f"no answer for {age:.3g} s", now)

    def came_later(self, server: Member) -> None:
        """Another server has answered a question first."""
        server.late += LATE_WEIGHT * (1 - server.late)

    def count_hedge(self) -> None:
        """A question was asked twice."""
        self._all["hedges"] += 1

    def count_resent(self) -> None:
        """A question was sent elsewhere."""
        self._all["resent"] += 1

    def let_go(self, jobs: list[Job]) -> None:
        """Nobody wants the answers to these jobs any more."""
        for job in jobs:
            job.landed = self.job_landed
            job.server.drop(job)
            if job.started is not None and job.ended is None:
                self._orphans.append(job)
        if self._orphans:
            self.poke()

    def park(self, more: int) -> None:
        """So many calls more, or less, wait for any server to answer."""
        self.waiting += more
        if more > 0:
            soon = self.clock() + AWAITED
            for server, probing in self._probings.items():
                if server.health.in_trouble:
                    probing.hurry(soon)
            self.poke()

    def end(self) -> None:
        """Nothing waits from now on: what no server answers fails."""
        self.ending = True
        self._wake()

    def poke(self) -> None:
        """Has :meth:`run` look again."""
        self._poked.set()

    # Beliefs.

    @staticmethod
    def _can_answer(server: Member) -> bool:
        return not server.health.in_trouble and not server.health.excluded

    def _answered(self, server: Member, now: float) -> None:
        was_away = server.health.in_trouble
        server.overdue = None
        if not server.health.answered(now):
            self._compare(now)
            return
        if was_away:
            self._tell_state(server, f"{server.source} answers again", good=True)
        if self._told_none:
            self._told_none = False
            self._events.info("reads go on", "state")
        self._compare(now, now_or_never=True)
        self._wake()

    def _trouble(self, server: Member, reason: str, now: float) -> None:
        if not server.health.failed(now, reason):
            return
        self._tell_state(server, f"{server.source} failed: {reason}")
        self._probings[server].hurry(now)
        if not self.answering and not self._told_none:
            self._told_none = True
            self._events.warning("no server answers: reads wait, what is cached is shown", "state")
        self._compare(now, now_or_never=True)
        self._wake()

    def _compare(self, now: float, *, now_or_never: bool = False) -> None:
        """Says who is slow, and changes the current server if another one is to be asked first."""
        if len(self.servers) == 1 or (not now_or_never and now - self._compared_at < COMPARED):
            return
        self._compared_at = now
        answering = [s for s in self.servers if s.health.state in (ServerState.GOOD, ServerState.SLOW)]
        least = min((s.distance.seconds for s in answering), default=0.0)
        for server in answering:
            away = server.distance.seconds
            if away == float("inf"):
                continue
            slow = is_slow(away, least)
            reason = f"{1000 * away:.3g} ms away, the nearest {1000 * least:.3g} ms" if slow else ""
            if server.health.compared(now, slow=slow, reason=reason):
                how = f"is slow: {reason}" if slow else "is as quick as others again"
                self._tell_state(server, f"{server.source} {how}", good=not slow)
        first = self.ranked()[0]
        if standing(first) < standing(self.current):
            # That the current one was not asked yet is no reason.
            if not first.health.in_trouble and self.current.health.state is not ServerState.UNKNOWN:
                state = "draining" if self.current.health.draining else self.current.health.state.value
                self._switch(first, now, self.current.health.reason or f"it is {state}")
            return
        if now - self._switched_at < REST:
            return
        better = [
            server
            for server in answering
            if standing(server) == standing(self.current)
            and now >= server.health.proven_at
            and is_better(server, self.current)
        ]
        if better:
            best = min(better, key=lambda server: (server.distance.seconds, server.index))
            here, there = 1000 * self.current.distance.seconds, 1000 * best.distance.seconds
            late = round(100 * self.current.late)
            self._switch(best, now, f"{here:.3g} ms away, {late}% late, instead of {there:.3g} ms")

    def _switch(self, server: Member, now: float, why: str) -> None:
        before, self.current = self.current, server
        self._switched_at = now
        server.switches += 1
        self._all["switches"] += 1
        self._events.warning(
            f"reading from {server.source} instead of {before.source}: {why}",
            "switch",
            server=server.source,
            before=before.source,
            reason=why,
        )

    def _tell_state(self, server: Member, text: str, *, good: bool = False) -> None:
        """Tells what became of a server, unless that changes all the time."""
        now = self.clock()
        told = self._told[server] = [at for at in self._told.get(server, []) if now - at < TOLD_WITHIN]
        if len(told) > TOLD_MOST:
            return
        told.append(now)
        if len(told) > TOLD_MOST:
            text += f" (no more of this for {TOLD_WITHIN:g} s)"
        tell = self._events.info if good else self._events.warning
        tell(text, "state", server=server.source, state=server.health.state.value)

    # Looking after them.

    def _probe_if_due(self, server: Member, now: float) -> None:
        probing = self._probings[server]
        job = probing.job
        if job is not None:
            if self.is_overdue(job, now):
                self.overdue(job, now)
            if now - job.queued < self.policy.read_timeout:
                return
            # Its thread is given up; so is the hope that this very question is ever answered.
            probing.job = None
        if now < probing.at or server.health.excluded:
            return
        overdue = server.overdue
        probing.trial = probing.trial and overdue is not None
        look = overdue.work if probing.trial and overdue is not None else self._look
        probing.job = job = Job(server, look, self._probe_landed, now, probe=True, measures=not probing.trial)
        job.reading = probing.trial and overdue is not None and overdue.reading
        job.token = self._token
        server.submit(job)

    def _look(self, server: Member) -> str | None:
        """A probe; says why the server must not be asked, if that is so. Blocks."""
        if self._vet is not None and server.serial not in self._vetted:
            reason = self._vet(server)
            if reason is not None:
                return reason
            self._vetted.add(server.serial)
        server.probe()
        return None

    def _probe_landed(self, job: Job) -> None:
        server = job.server
        probing = self._probings.get(server)
        self.job_landed(job)
        if probing is None or probing.job is not job:
            return
        now = self.clock()
        probing.job = None
        good = judge(job.error) is not Verdict.OF_SERVER
        if good and isinstance(job.answer, str) and not probing.trial:
            self._exclude(server, job.answer, now)
        if server.overdue is None or probing.trial:
            if good and not server.removed and job.serial == server.serial:
                self._answered(server, now)
            probing.trial = False
        elif good:
            # It answers us while it does not answer what was asked: only that very question tells more.
            probing.trial = True
            probing.at = now
            self.poke()
            return
        self._schedule(server, probing, now)

    def _exclude(self, server: Member, reason: str, now: float) -> None:
        if server.health.quarantine(now, reason, for_good=True):
            self._events.warning(f"{server.source} is left out: {reason}", "quarantine", server=server.source)
            self._compare(now, now_or_never=True)
            self._wake()

    def _schedule(self, server: Member, probing: Probing, now: float) -> None:
        probing.schedule(
            server.health,
            now,
            active=now - self._asked_at < ACTIVITY,
            awaited=self.waiting > 0,
            alone=len(self.servers) == 1,
        )
        self.poke()

    def _look_after_orphans(self, now: float) -> None:
        """Questions that somebody else has answered still say something about the server that has not."""
        self._orphans = [job for job in self._orphans if job.ended is None and not job.server.removed]
        for job in list(self._orphans):
            if self.is_overdue(job, now):
                self.overdue(job, now)
                self._orphans.remove(job)

    def _next_look(self, now: float) -> float:
        """When :meth:`run` has something to do next."""
        times = [self.overdue_at(job, now) for job in self._orphans]
        for server, probing in self._probings.items():
            if probing.job is not None:
                times.append(self.overdue_at(probing.job, now) if server.health.trusted else now + ACTIVE)
            elif not server.health.excluded:
                times.append(probing.at)
            if server.health.state is ServerState.SUSPECT:
                times.append(server.health.since + UNTIL_DEAD)
        if self._calls or self._orphans:
            times.append(now + ACTIVE)
        # A look that is due cannot be due again at once.
        return max(min(times, default=float("inf")), now + 0.001)

    def _wake(self) -> None:
        """Something changed: calls may have to go elsewhere, or can go on."""
        for call in self._calls:
            call.wake()
        self.poke()

    def _count_stall(self, seconds: float) -> None:
        if seconds <= STALL:
            return
        self._all["stalls"] += 1
        if seconds > 1.25 * self._longest_stall:
            self._events.info(
                f"a read waited {seconds:.3g} s, longer than any before", "stall", seconds=round(seconds, 3)
            )
        self._longest_stall = max(self._longest_stall, seconds)

    def _numbered(self, number: int) -> Member:
        for server in self.servers:
            if server.index == number:
                return server
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))

    def in_loop(self, change: Callable[[], T]) -> T:
        """Makes a change in the event loop, from whichever thread."""
        if _is_in_loop() or self._token is None:
            return change()
        return trio.from_thread.run_sync(change, trio_token=self._token)


def _is_in_loop() -> bool:
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        return False
    return True
