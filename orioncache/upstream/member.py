"""One server as the policy sees it: its figures, and a way to ask it."""

import abc
import errno
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

import trio

from orioncache.upstream.health import Health
from orioncache.upstream.latency import Distance, Latency
from orioncache.upstream.pool import Job

T = TypeVar("T")


class Member(abc.ABC):
    """A server in a set. What a test has fail on a virtual clock is one, too.

    Attributes:
        source: what it is called.
        index: its number: the rank in the order that the user gave.
        serial: which mount of it is asked: another one after it was mounted anew, and never another server's.
        clock: the seconds that all its times are in; they never go back.
        health: what is believed about it.
        latency: of reads of file content.
        questions: of all other questions, and of probes.
        distance: what a round trip costs.
        late: the share of its answers that another server gave sooner.
        heard: when it last answered a read of file content, and when another question.
        calls, reads, bytes_read, errors, timeouts: counts since the start.
        mismatches: blocks of a release that were not what its manifest says.
        hedges, hedges_won: questions that another server was asked as well, because this one was slower than
            usual; and those of them that the other one answered first.
        resent: questions that it did not answer in time, and that were sent elsewhere.
        switches: how often it became the current one.
        overdue: the question whose answer was missing when it became suspect; None if it is for another
            reason.
        birth: a number that no other server ever has.
        removed: it is not in the set any more.
    """

    def __init__(self, source: str, index: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.source = source
        self.index = index
        self.serial = self.birth = index
        self.clock = clock
        self.health = Health(clock())
        self.latency = Latency()
        self.questions = Latency()
        self.distance = Distance()
        self.late = 0.0
        self.heard = {True: float("-inf"), False: float("-inf")}
        self.calls = self.reads = self.bytes_read = self.errors = self.timeouts = self.mismatches = 0
        self.hedges = self.hedges_won = self.resent = self.switches = 0
        self.overdue: Job | None = None
        self.removed = False

    @abc.abstractmethod
    def submit(self, job: Job) -> None:
        """Has a job done; ``job.landed`` is called in the event loop once it ended."""

    @abc.abstractmethod
    def drop(self, job: Job) -> None:
        """Nobody wants the answer to a job any more."""

    @abc.abstractmethod
    def probe(self) -> None:
        """Asks for something small that the server itself must answer; blocks."""

    @property
    @abc.abstractmethod
    def pending(self) -> int:
        """Questions that it has not answered yet."""

    @property
    def stuck(self) -> int:
        """Threads that were given up and have not come back."""
        return 0

    @property
    def abandoned(self) -> int:
        """Threads that were given up so far."""
        return 0

    def statistics(self) -> dict[str, object]:
        """What the status says of it. For any thread."""
        return {
            "number": self.index,
            "source": self.source,
            "state": self.health.state.value,
            "reason": self.health.reason,
            "draining": self.health.draining,
            "reads": self.reads,
            "calls": self.calls,
            "bytes": self.bytes_read,
            "errors": self.errors,
            "timeouts": self.timeouts,
            "mismatches": self.mismatches,
            "hedges": self.hedges,
            "hedges_won": self.hedges_won,
            "resent": self.resent,
            "switches": self.switches,
            "stuck": self.stuck,
            "abandoned": self.abandoned,
            "pending": self.pending,
            "latency_ms": self.latency.as_dict(),
        }

    def latency_of(self, *, reading: bool) -> Latency:
        """Of the questions of a kind."""
        return self.latency if reading else self.questions

    @abc.abstractmethod
    def forget_directories(self) -> None:
        """Looks up anew which directory has which name, after one of them turned out to be stale."""

    @abc.abstractmethod
    def replace(self, root: int) -> None:
        """It was mounted anew: from now on this descriptor is its root; it is taken over."""

    @abc.abstractmethod
    def close(self) -> None:
        """Ends what it has running, as far as that can be ended."""

    @abc.abstractmethod
    def give_up(self, before: float) -> None:
        """Gives up threads that have been in a question since before then."""

    async def call(self, work: Callable[[Any], T], *, patience: float, reading: bool = False) -> T:
        """Has this server alone do ``work``, whatever is believed about it.

        Args:
            work: blocks, and is given the server.
            patience: seconds.
            reading: whether it reads file content.

        Raises:
            OSError: from ``work``; ETIMEDOUT after ``patience``.
        """
        ended = trio.Event()
        job = Job(self, work, lambda _: ended.set(), self.clock(), reading=reading)
        job.token = trio.lowlevel.current_trio_token()
        self.calls += 1
        self.submit(job)
        try:
            with trio.move_on_after(patience):
                await ended.wait()
        finally:
            if job.ended is None:
                self.drop(job)
        if job.ended is None:
            self.timeouts += 1
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        if job.error is not None:
            raise job.error
        return job.answer  # type: ignore[return-value]  # It is what `work` returned.
