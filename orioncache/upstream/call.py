"""One question to a set of servers, until one of them has answered it."""

import collections
import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import trio

from orioncache.upstream.health import ServerState
from orioncache.upstream.judging import NoServerError, Verdict, judge, shown
from orioncache.upstream.opened import ReplicaDiffersError
from orioncache.upstream.policy import hedge_after, overdue_after
from orioncache.upstream.pool import Job

if TYPE_CHECKING:
    from orioncache.upstream.member import Member
    from orioncache.upstream.servers import UpstreamSet

# A server that answers others but fails with this question is asked again so often, after a pause that
# doubles, before the failure is an answer.
TRIES = 5
FIRST_PAUSE = 0.05

# A question that is overdue while its server answers others is sent elsewhere after so many times as long.
ALONE = 4

# If the event loop is as late as this, it is not the servers that are slow.
LAG = 0.05


class _Failure(NamedTuple):
    """How often a server has failed with the question, and when it may be asked again."""

    times: int
    retry_at: float


class Call:
    """A question under way.

    Invariant: at each moment at least one server that is trusted has it, or the call is parked until there is
    one; except for hedges never more than one.

    Attributes:
        jobs: the question as it was put to servers that have not answered.
        reading: whether it reads file content.
        parked: since when no server has it that is trusted; None if one does.
    """

    def __init__(
        self,
        upstreams: "UpstreamSet",
        work: Callable[[Any], object],
        *,
        reading: bool,
        small: bool,
        wait: bool,
    ) -> None:
        self.jobs: list[Job] = []
        self.reading = reading
        self.parked: float | None = None
        self._upstreams = upstreams
        self._work = work
        self._small = small
        self._wait = wait
        self._landed: collections.deque[Job] = collections.deque()
        self._woken = trio.Event()
        self._refused: dict[Member, OSError] = {}
        self._failures: dict[Member, _Failure] = {}
        self._failure: OSError | None = None
        self._answer: OSError | None = None
        self._hedged = False
        self._token = trio.lowlevel.current_trio_token()

    def wake(self) -> None:
        """Something changed that may concern it."""
        self._woken.set()

    async def run(self) -> "tuple[Member, Any]":
        """Who answered, and what.

        Raises:
            OSError: an answer about the file; or no server could answer.
        """
        clock = self._upstreams.clock
        try:
            while True:
                while self._landed:
                    job = self._landed.popleft()
                    if self._take(job):
                        return job.server, job.answer
                due = self._act(clock())
                with trio.move_on_after(max(0.0, due - clock())) as scope:
                    await self._woken.wait()
                self._woken = trio.Event()
                if scope.cancelled_caught and clock() - due > LAG:
                    self._upstreams.lagged = clock()
        finally:
            self._unpark()
            self._upstreams.let_go(self.jobs)

    def _job_landed(self, job: Job) -> None:
        """Called in the event loop once a job has ended."""
        self._upstreams.job_landed(job)
        self._landed.append(job)
        self._woken.set()

    def _take(self, job: Job) -> bool:
        """Looks at what a server said; whether it is the answer.

        Raises:
            OSError: it is one.
        """
        self.jobs.remove(job)
        server, error = job.server, job.error
        verdict = judge(error)
        if verdict is Verdict.GOOD:
            self._won(job)
            return True
        if verdict is Verdict.BUG:
            assert error is not None
            raise error
        assert isinstance(error, OSError)
        if verdict is Verdict.OF_SERVER:
            times = self._failures[server].times + 1 if server in self._failures else 1
            pause = FIRST_PAUSE * 2 ** (times - 1)
            self._failures[server] = _Failure(times, self._upstreams.clock() + pause)
            self._failure = self._failure or error
        else:
            self._refused[server] = error
            if verdict is Verdict.OF_FILE:
                # Another one is asked already, and may know better.
                self._answer = self._answer or error
        return False

    def _won(self, winner: Job) -> None:
        others = [job for job in self.jobs if not job.resent]
        if winner.hedged is not None:
            winner.hedged.hedges_won += 1
        for job in others:
            self._upstreams.came_later(job.server)

    def _act(self, now: float) -> float:
        """Sends the question to whom it must go now; returns when to look again.

        Raises:
            OSError: nobody is left to ask, or it has waited for long enough.
        """
        upstreams = self._upstreams
        for job in self.jobs:
            if upstreams.is_overdue(job, now):
                upstreams.overdue(job, now)
        active = [job for job in self.jobs if self._counts(job, now)]
        if not active:
            if self._answer is not None:
                raise self._answer
            server = self._next(now)
            if server is None:
                return self._park(now)
            for job in self.jobs:
                if not job.resent:
                    job.resent = True
                    job.server.resent += 1
                    upstreams.count_resent()
            self._send(server, now)
            self._unpark()
        elif len(active) == 1 and not self._hedged and now >= self._hedge_at(active[0], now):
            self._hedged = True
            server = self._next(now, to_hedge=True)
            if server is not None and upstreams.budget.take():
                self._send(server, now).hedged = late = active[0].server
                late.hedges += 1
                upstreams.count_hedge()
        return self._look_again(now)

    def _send(self, server: "Member", now: float) -> Job:
        job = Job(server, self._work, self._job_landed, now, reading=self.reading, measures=self._small)
        job.token = self._token
        self.jobs.append(job)
        server.calls += 1
        server.submit(job)
        return job

    def _counts(self, job: Job, now: float) -> bool:
        """Whether an answer to a job can be expected."""
        server = job.server
        if server.removed or job.serial != server.serial or server.health.in_trouble:
            return False
        if self._upstreams.is_overdue(job, now):
            return False
        return job.started is None or now < self._alone_at(job)

    def _next(self, now: float, *, to_hedge: bool = False) -> "Member | None":
        """Whom to ask next; None if nobody is left that can be expected to answer."""
        asked = {job.server for job in self.jobs if job.serial == job.server.serial}
        for server in self._upstreams.ranked():
            health = server.health
            if server in asked or server in self._refused or health.in_trouble or health.excluded:
                continue
            if to_hedge and (health.draining or health.state is ServerState.QUARANTINED):
                continue
            failure = self._failures.get(server)
            if failure is None or (failure.times < TRIES and now >= failure.retry_at):
                return server
        return None

    def _park(self, now: float) -> float:
        """Waits until a server answers that may have an answer; returns when to look again."""
        still = [
            server
            for server in self._upstreams.servers
            if not server.health.excluded
            and server not in self._refused
            and (server not in self._failures or self._failures[server].times < TRIES)
        ]
        if not still:
            self._fail()
        if self._refused:
            # Only a server that is away may have the file as it was. Who reads from it waits for that, while
            # those who ask what has its name are told that it is another file now.
            differ = any(isinstance(error, ReplicaDiffersError) for error in self._refused.values())
            waits = [s for s in still if self.reading or s.health.state is not ServerState.DEAD]
            if not differ or not waits:
                self._fail()
        retries = [
            self._failures[server].retry_at
            for server in still
            if server in self._failures
            and not server.health.in_trouble
            and self._failures[server].retry_at > now
        ]
        if retries:
            return min(retries)
        if not self._wait or self._upstreams.ending:
            raise NoServerError
        if self.parked is None:
            self.parked = now
            self._upstreams.park(1)
        give_up = self._upstreams.policy.give_up
        if give_up and now >= self.parked + give_up:
            raise OSError(errno.EIO, f"no server has answered for {give_up:g} s")
        return self.parked + give_up if give_up else float("inf")

    def _unpark(self) -> None:
        if self.parked is not None:
            self.parked = None
            self._upstreams.park(-1)

    def _fail(self) -> NoReturn:
        refusals = iter(self._refused.values())
        raise shown(next(refusals, None) or self._failure or NoServerError())

    def _hedge_at(self, job: Job, now: float) -> float:
        """When another server is asked as well; a job that waits for a thread is no sign of slowness."""
        if len(self._upstreams.servers) == 1:
            return float("inf")
        latency = job.server.latency_of(reading=self.reading)
        return (now if job.started is None else job.started) + hedge_after(self._upstreams.policy, latency)

    def _alone_at(self, job: Job) -> float:
        latency = job.server.latency_of(reading=self.reading)
        return max(job.progressed, self._upstreams.lagged) + ALONE * overdue_after(latency)

    def _look_again(self, now: float) -> float:
        active = [job for job in self.jobs if self._counts(job, now)]
        times = [self._upstreams.overdue_at(job, now) for job in active]
        times += [self._alone_at(job) for job in active if job.started is not None]
        if len(active) == 1 and not self._hedged:
            times.append(self._hedge_at(active[0], now))
        return min(times, default=float("inf"))
