"""Keeps a heuristic in bounds: one that raises, loops or predicts everything is cut off; the boot goes on.

Time is the thread's processor time, so that a busy machine cuts nobody off. A call that never returns is
ended by a watchdog thread, which raises :class:`OverrunError` in it. It cannot end one that sleeps in the
kernel: whoever calls heuristics does it in a thread that answers nobody.
"""

from __future__ import annotations

import _thread
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orioncache.prefetch.interface import Access, Candidate, Heuristic, View
    from orioncache.prefetch.scheduler import Counts

# Processor seconds of one call, candidates included; of the first, which may read a profile, more.
CALL_SECONDS = 0.25
BEGIN_SECONDS = 2.0
# Candidates from one call; a call that has more is cut there, and three such calls are the end.
CALL_CANDIDATES = 1024
BEGIN_CANDIDATES = 1 << 16
STRIKES = 3
# When so much that it wanted is overdue, the part of it that was demanded must be above this.
TRIAL_BYTES = 16 << 20
PRECISION = 0.1


class OverrunError(BaseException):
    """Raised in a heuristic whose call has taken too long; no `except Exception` of its own stops it."""


class Watchdog:
    """A thread that ends calls which take too long. One serves all heuristics of a thread.

    Attributes:
        period: seconds between two looks.
    """

    def __init__(self, period: float = 0.1) -> None:
        self.period = period
        self._lock = _thread.allocate_lock()
        self._wake = _thread.allocate_lock()
        self._wake.acquire()
        self._limit: float | None = None  # processor time of the watched thread; under _lock
        self._watched = 0
        self._clock = 0
        self._stopping = False
        self._started = False

    def arm(self, seconds: float) -> None:
        """From now on the calling thread may use so much processor time."""
        thread = _thread.get_ident()
        if thread != self._watched:
            self._watched = thread
            self._clock = time.pthread_getcpuclockid(thread)
        self._limit = time.thread_time() + seconds
        if not self._started:
            self._started = True
            _thread.start_new_thread(self._watch, ())

    def disarm(self) -> None:
        """The call has ended. When this has returned, nothing is raised any more."""
        with self._lock:
            self._limit = None

    def close(self) -> None:
        """Ends the thread."""
        if self._started and not self._stopping:
            self._stopping = True
            self._wake.release()

    def _watch(self) -> None:
        while not self._wake.acquire(timeout=self.period):
            with self._lock:
                limit = self._limit
                try:
                    if limit is not None and time.clock_gettime(self._clock) > limit:
                        self._limit = None
                        _raise_in(self._watched)
                except OSError:  # the watched thread has ended
                    self._limit = None


def _raise_in(thread: int) -> None:
    # For what hardly ever happens: imported here, not while a node boots.
    import ctypes  # noqa: PLC0415

    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(OverrunError))


class Guard:
    """A heuristic behind its bounds.

    Attributes:
        name: the heuristic's.
        cut: why it was cut off; "" while it runs.
        calls: how many were made.
        seconds: of processor time in them.
    """

    def __init__(
        self,
        heuristic: Heuristic,
        tell: Callable[[str], None],
        watchdog: Watchdog,
        *,
        call_seconds: float = CALL_SECONDS,
        begin_seconds: float = BEGIN_SECONDS,
    ) -> None:
        """Takes a heuristic in.

        Args:
            heuristic: it.
            tell: told in one line when it is cut off: the event.
            watchdog: of the thread that calls.
            call_seconds, begin_seconds: processor time for one call.
        """
        self.name = heuristic.name
        self.cut = ""
        self.calls = 0
        self.seconds = 0.0
        self._heuristic = heuristic
        self._tell = tell
        self._watchdog = watchdog
        self._call_seconds = call_seconds
        self._begin_seconds = begin_seconds
        self._strikes = 0

    def begin(self, view: View) -> list[Candidate]:
        """:meth:`Heuristic.begin`, in bounds."""
        return self._call(lambda: self._heuristic.begin(view), self._begin_seconds, BEGIN_CANDIDATES)

    def on_access(self, access: Access, view: View) -> list[Candidate]:
        """:meth:`Heuristic.on_access`, in bounds."""
        return self._call(
            lambda: self._heuristic.on_access(access, view), self._call_seconds, CALL_CANDIDATES
        )

    def on_landed(self, block: int, view: View) -> list[Candidate]:
        """:meth:`Heuristic.on_landed`, in bounds."""
        return self._call(lambda: self._heuristic.on_landed(block, view), self._call_seconds, CALL_CANDIDATES)

    def judge(self, counts: Counts) -> bool:
        """Cuts it off if too much of what it wanted was for nothing; whether it was cut off just now."""
        if self.cut:
            return False
        demanded = counts.useful_bytes + counts.late_bytes
        missed = counts.overdue_bytes + counts.wasted_bytes
        if missed < TRIAL_BYTES or demanded >= PRECISION * (demanded + missed):
            return False
        part = 100 * demanded / (demanded + missed)
        self._cut_off(f"of {(demanded + missed) >> 20} MiB that it wanted only {part:.0f}% were asked for")
        return True

    def _call(self, ask: Callable[[], Iterable[Candidate]], seconds: float, most: int) -> list[Candidate]:
        if self.cut:
            return []
        self.calls += 1
        found: list[Candidate] = []
        began = time.thread_time()
        try:
            try:
                self._watchdog.arm(seconds)
                for candidate in ask() or ():
                    # Attributes that are not there, or no numbers, are found here and not in the scheduler.
                    found.append(_checked(candidate))
                    if len(found) > most:
                        break
            finally:
                # An overrun may come between the call's end and this, and even in here.
                self._watchdog.disarm()
        except OverrunError:
            self._watchdog.disarm()
            self._cut_off(f"one call took more than {seconds:g} s of processor time")
        except (Exception, SystemExit, GeneratorExit) as error:
            self._cut_off(f"it raised {type(error).__name__}: {_line(error)}")
        self.seconds += time.thread_time() - began
        if self.cut:
            return []
        if len(found) > most:
            found.pop()
            self._strikes += 1
            if self._strikes == STRIKES:
                self._cut_off(f"it gave more than {most} blocks for one access, {STRIKES} times")
                return []
        return found

    def _cut_off(self, why: str) -> None:
        self.cut = why
        self._tell(f"heuristic {self.name} was cut off: {why}")


def _checked(candidate: Candidate) -> Candidate:
    if not isinstance(candidate.block, int):
        raise TypeError(f"a block is a number, not {candidate.block!r}")
    float(candidate.confidence)
    float(candidate.deadline)
    return candidate


def _line(error: BaseException) -> str:
    """An exception's text in one line that cannot steer a terminal."""
    text = " ".join(str(error).split())[:120]
    return "".join(character if character.isprintable() else "?" for character in text)
