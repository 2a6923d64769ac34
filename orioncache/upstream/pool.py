"""Threads for questions that may never be answered.

A question to a dead NFS mount blocks in the kernel and cannot be cancelled. Each server has pools of its own,
so that a dead one cannot take the others' threads. A thread that is stuck for too long is given up: another
one takes its place, and it ends by itself should the kernel ever let it go.
"""

import collections
import contextlib
import errno
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from orioncache.upstream.member import Member

# Threads that may be given up for each that a pool may have; after that a pool only waits for them.
GIVEN_UP_MOST = 4


_working = threading.local()


def progress() -> None:
    """To be called by work that asks several things in turn, after each answer: it is not hanging."""
    job: Job | None = getattr(_working, "job", None)
    if job is not None:
        job.progressed = job.server.clock()


class Job:
    """One question to one server, asked once.

    Attributes:
        server: who is asked.
        work: what the thread does; it is given the server.
        reading: whether it reads file content.
        probe: whether nobody but us wants to know.
        measures: whether it is so small that it takes a round trip and no more.
        hedged: the server that was slower than usual, if it was sent for that.
        resent: whether it has been sent elsewhere because its server is in trouble.
        queued, started, ended: when; None until then. ``ended`` is set by the thread, last of all.
        progressed: when a part of it was answered last; at first, when it started.
        serial: of the server's mount that is asked.
        answer, error: what came of it.
        given_up: its thread is not counted on any more.
        dropped: nobody wants the answer; its thread, if it has one, goes on.
        landed: called in the event loop once it ended.
    """

    __slots__ = (
        "answer",
        "dropped",
        "ended",
        "error",
        "given_up",
        "hedged",
        "landed",
        "measures",
        "probe",
        "progressed",
        "queued",
        "reading",
        "resent",
        "serial",
        "server",
        "started",
        "token",
        "work",
    )

    def __init__(
        self,
        server: "Member",
        work: Callable[[Any], object],
        landed: "Callable[[Job], None]",
        now: float,
        *,
        reading: bool = False,
        probe: bool = False,
        measures: bool = False,
    ) -> None:
        self.server = server
        self.work = work
        self.reading = reading
        self.probe = probe
        self.measures = measures
        self.hedged: Member | None = None
        self.resent = False
        self.queued = now
        self.started: float | None = None
        self.progressed = now
        self.ended: float | None = None
        self.serial = server.serial
        self.answer: object = None
        self.error: BaseException | None = None
        self.given_up = False
        self.dropped = False
        self.landed = landed
        self.token: trio.lowlevel.TrioToken | None = None

    def run(self, clock: Callable[[], float]) -> None:
        """Asks, in a thread."""
        self.started = self.progressed = clock()
        _working.job = self
        try:
            self.answer = self.work(self.server)
        except BaseException as error:  # It is raised where the answer is wanted.
            self.error = error
        _working.job = None
        self.ended = clock()
        if self.token is not None:
            # Nobody is left to be told, if the event loop has ended.
            with contextlib.suppress(trio.RunFinishedError):
                self.token.run_sync_soon(self.landed, self)


class Pool:
    """Threads that ask one server; they are started when there is work for them.

    Attributes:
        abandoned: threads that were given up, so far.
        stuck: of those, the ones that have not come back.
    """

    def __init__(self, name: str, size: int, clock: Callable[[], float]) -> None:
        """A pool without threads yet.

        Args:
            name: of the threads, for debuggers.
            size: how many may work at the same time.
            clock: seconds.
        """
        self.abandoned = self.stuck = 0
        self._name = name
        self._size = size
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: collections.deque[Job] = collections.deque()
        self._running: set[Job] = set()
        self._threads = self._idle = 0
        self._closed = False

    @property
    def busy(self) -> int:
        """Questions that are being asked or wait for a thread."""
        return len(self._waiting) + len(self._running)

    def submit(self, job: Job) -> None:
        """Asks as soon as a thread is free."""
        with self._changed:
            self._waiting.append(job)
            if self._idle >= len(self._waiting):
                self._changed.notify()
            else:
                self._start_thread()

    def drop(self, job: Job) -> bool:
        """Nobody wants the answer any more; whether it will not even be asked."""
        job.dropped = True
        with self._changed:
            if job.started is None:
                with contextlib.suppress(ValueError):
                    self._waiting.remove(job)
                    return True
        return False

    def oldest(self) -> float | None:
        """When the oldest question that is being asked was begun."""
        with self._changed:
            return min((job.started for job in self._running if job.started is not None), default=None)

    def give_up(self, before: float) -> int:
        """Gives up the threads that have been stuck since before then; returns how many that were."""
        count = 0
        with self._changed:
            for job in list(self._running):
                if job.started is None or job.started >= before or job.ended is not None:
                    continue
                if self.stuck >= GIVEN_UP_MOST * self._size:
                    break
                job.given_up = True
                self._running.discard(job)
                self._threads -= 1
                self.stuck += 1
                self.abandoned += 1
                count += 1
            for _ in range(min(count, len(self._waiting))):
                self._start_thread()
        return count

    def close(self) -> None:
        """Ends the threads, each when what it asks is answered; what waits for one fails."""
        with self._changed:
            self._closed = True
            waiting, self._waiting = self._waiting, collections.deque()
            self._changed.notify_all()
        for job in waiting:
            job.error = OSError(errno.ENODEV, os.strerror(errno.ENODEV))
            job.started = job.ended = self._clock()
            if job.token is not None:
                job.token.run_sync_soon(job.landed, job)

    def _start_thread(self) -> None:
        if self._threads < self._size and not self._closed:
            self._threads += 1
            threading.Thread(target=self._serve, name=self._name, daemon=True).start()

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if self._closed:
                        self._threads -= 1
                        return
                    self._idle += 1
                    self._changed.wait()
                    self._idle -= 1
                job = self._waiting.popleft()
                self._running.add(job)
            job.run(self._clock)
            with self._changed:
                if job.given_up:
                    # Another thread has taken this one's place.
                    self.stuck -= 1
                    return
                self._running.discard(job)
