"""Servers for tests of the policy: each answers, hangs or fails as it is told, on the event loop's clock."""

import os
from collections.abc import Callable

import trio

from orioncache.upstream.member import Member
from orioncache.upstream.pool import Job

# Seconds that a healthy one takes.
QUICK = 0.001


class FakeServer(Member):
    """A server whose answers come after a delay.

    Attributes:
        delay: seconds until it answers a job.
        hangs: which jobs are not answered until :meth:`heal`.
        error: what it fails with; 0: it does not.
        asked: when it was asked what was no probe.
        probed: when it was probed.
    """

    def __init__(self, index: int, nursery: trio.Nursery) -> None:
        super().__init__(f"server{index}", index, trio.current_time)
        self.delay: Callable[[Job], float] = lambda _: QUICK
        self.hangs: Callable[[Job], bool] = lambda _: False
        self.error = 0
        self.asked: list[float] = []
        self.probed: list[float] = []
        self.foreign: str | None = None
        self._nursery = nursery
        self._healed = trio.Event()
        self._pending = 0

    def heal(self) -> None:
        """It answers again, also what it was asked before."""
        self.hangs = lambda _: False
        self.delay = lambda _: QUICK
        self.error = 0
        self._healed.set()
        self._healed = trio.Event()

    def hang(self) -> None:
        """It answers nothing."""
        self.hangs = lambda _: True

    def submit(self, job: Job) -> None:
        (self.probed if job.probe else self.asked).append(trio.current_time())
        self._pending += 1
        self._nursery.start_soon(self._answer, job)

    def drop(self, job: Job) -> None:
        job.dropped = True

    def probe(self) -> None:
        pass

    @property
    def pending(self) -> int:
        return self._pending

    def forget_directories(self) -> None:
        pass

    def replace(self, root: int) -> None:
        os.close(root)
        self.serial += 1000

    def close(self) -> None:
        pass

    def give_up(self, before: float) -> None:
        pass

    async def _answer(self, job: Job) -> None:
        job.started = job.progressed = trio.current_time()
        if self.hangs(job):
            await self._healed.wait()
        await trio.sleep(self.delay(job))
        if self.hangs(job):
            await self._healed.wait()
        try:
            job.answer = job.work(self)
        except OSError as error:
            job.error = error
        if self.error:
            job.error = OSError(self.error, os.strerror(self.error))
        self._pending -= 1
        job.ended = trio.current_time()
        job.landed(job)
