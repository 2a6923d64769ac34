"""Heuristics beside a native engine, in a thread that answers nobody and takes time that nobody else wants.

It follows what the engine records (native/trace.h), asks a :class:`Prefetcher`, and has the engine fetch.
Nothing is imported, and no block is kept for it, until a round trip is known to be worth it: a node next to
its server boots as if this were not here. It ends when the boot is over.
"""

from __future__ import annotations

import _thread
import os
import select
import struct
import time

from orioncache.native.feed import ABSENT, COMING, PRESENT, RECORDS_AT_ONCE, WAITING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from orioncache.native.engine import Engine
    from orioncache.native.feed import Feed
    from orioncache.options import Options
    from orioncache.prefetch.prefetcher import Prefetcher
    from orioncache.prefetch.settings import Choice

# How often the round trip is looked at, and a stream's end; and how long at most.
LOOK = 0.2
LOOK_FOR = 120.0
# The boot is over when so long nothing was asked for, or at the latest after so long.
QUIET = 30.0
LONGEST = 600.0
# What has been on its way for so long is looked for: its record may be lost.
OVERDUE = 1.0

# As native/trace.h has them.
_RECORD = struct.Struct("<QQQIIIBBH16sII")
_READ, _FETCH = 0, 2
_DEMAND, _AHEAD = 0, 2

WAITS, RUNS, ENDED = "waits", "runs", "ended"


class Runner:
    """One boot's speculation.

    Attributes:
        state: ``WAITS`` (for a round trip that is worth it), ``RUNS`` or ``ENDED``.
    """

    def __init__(self, feed: Feed, choices: Sequence[Choice], servers: int) -> None:
        """Prepares it.

        Args:
            feed: of an engine that records requests.
            choices: the heuristics, and the scheduler's limits.
            servers: how many the engine has.
        """
        self.state = WAITS
        self._feed = feed
        self._choices = choices
        self._servers = servers
        self._limits: dict[str, Any] = {}
        self._prefetcher: Prefetcher | None = None
        self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._ended = _thread.allocate_lock()
        self._following = 0
        # Records that are not complete, by number.
        self._pending: dict[int, tuple[Any, ...]] = {}
        self._born = 0
        self._last_asked = 0.0
        self._checked = 0.0

    def start(self) -> None:
        """Begins, in a thread of its own."""
        self._ended.acquire()
        _thread.start_new_thread(self._run, ())

    def close(self) -> None:
        """Ends it, and waits until it uses the engine no more. After :meth:`start`."""
        os.eventfd_write(self._stop, 1)
        with self._ended:
            pass

    def statistics(self) -> dict[str, Any]:
        """What ``orioncache status`` shows; from any thread."""
        found: dict[str, Any] = {"state": self.state, "chosen": ",".join(map(str, self._choices))}
        prefetcher = self._prefetcher
        if prefetcher is not None:
            scheduler = prefetcher.scheduler
            found["heuristics"] = {
                guard.name: {
                    **scheduler.counts(guard.name).as_dict(),
                    "calls": guard.calls,
                    "seconds": round(guard.seconds, 6),
                    "cut_off": guard.cut,
                }
                for guard in prefetcher.guards
            }
            found["servers"] = [
                {
                    "window": window.size,
                    "in_flight": window.in_flight,
                    "round_trip_ms": round(1000 * window.delay, 3),
                    "bandwidth": round(window.bandwidth),
                    "backed_off": window.backed_off,
                }
                for window in scheduler.windows
            ]
        return found

    # The thread.

    def _run(self) -> None:
        try:
            _take_idle_time()
            self._limits = _limits(self._feed, self._choices)
            if self._is_worth_it():
                self._speculate()
        except Exception as error:  # whatever it is, the boot goes on
            self._feed.tell(f"prefetch has ended: {type(error).__name__}: {error}")
        finally:
            self._feed.remember(False)
            self.state = ENDED
            self._ended.release()

    def _is_worth_it(self) -> bool:
        """Waits for a round trip that is worth it, and for the end of a bundle; False: it never is."""
        waiting = select.poll()
        waiting.register(self._stop, select.POLLIN)
        watched = select.poll()
        watched.register(self._stop, select.POLLIN)
        watched.register(self._feed.watch_fd(), select.POLLIN)
        least = self._limits["trip"]
        until = time.monotonic() + LOOK_FOR
        while time.monotonic() < until:
            trip = self._feed.round_trip()
            if trip >= least and not self._feed.streams():
                return True
            if trip:
                found = waiting.poll(1000 * LOOK)
            else:
                # The first read on a server tells.
                self._feed.rest()
                found = watched.poll(1000 * LOOK)
            if any(fd == self._stop for fd, _ in found):
                return False
        return False

    def _speculate(self) -> None:
        from orioncache.errors import UserError  # noqa: PLC0415
        from orioncache.prefetch import prefetcher, settings  # noqa: PLC0415
        from orioncache.prefetch.manifest_view import ManifestView  # noqa: PLC0415

        feed = self._feed
        feed.remember(True)
        chosen, _ = settings.split(self._choices)
        heuristics = []
        for choice in chosen:
            try:
                heuristics += prefetcher.create([choice])
            except UserError as error:
                feed.tell(f"heuristic {choice.name} does not run: {error.message}")
        if not heuristics:
            return
        view = ManifestView(
            feed.data, feed.manifest, is_cached=lambda block: feed.find(block) == PRESENT, read=feed.content
        )
        self._prefetcher = prefetcher.Prefetcher(
            heuristics, view, tell=feed.tell, servers=self._servers, limits=self._limits
        )
        self.state = RUNS
        began = self._last_asked = time.monotonic()
        self._prefetcher.begin(began)
        waiting = select.poll()
        waiting.register(self._stop, select.POLLIN)
        waiting.register(feed.watch_fd(), select.POLLIN)
        while True:
            feed.rest()
            self._look()
            now = time.monotonic()
            if now - self._last_asked > QUIET or now - began > LONGEST:
                break
            if now - self._checked > OVERDUE:
                self._checked = now
                self._look_for_overdue(now)
            self._depart(now)
            if any(fd == self._stop for fd, _ in waiting.poll(1000 * OVERDUE)):
                break
        self._prefetcher.close()

    def _look(self) -> None:
        """Tells the prefetcher what has happened, in its order."""
        events: list[tuple[int, int, bool, tuple[Any, ...]]] = []
        while True:
            data, following = self._feed.records(self._following)
            number = following - len(data) // _RECORD.size
            for fields in _RECORD.iter_unpack(data):
                events.append((fields[0], number, False, fields))
                self._pending[number] = fields
                number += 1
            self._following = following
            if len(data) < RECORDS_AT_ONCE * _RECORD.size:
                break
        # After all that has begun: what ended before something began is seen no later than that.
        for number, fields in list(self._pending.items()):
            if fields[2] == WAITING:
                again = self._feed.record(number)
                if again is None:
                    del self._pending[number]  # found by _look_for_overdue()
                    continue
                fields = _RECORD.unpack(again)  # noqa: PLW2901
            if fields[2] != WAITING:
                del self._pending[number]
                events.append((fields[0] + fields[2], number, True, fields))
        events.sort(key=lambda event: event[:3])
        for at, _, has_ended, fields in events:
            if not self._born:
                self._born = at
            kind = fields[6]
            if kind == _READ:
                (self._answered if has_ended else self._asked)(at / 1e9, fields)
            elif kind == _FETCH:
                (self._fetched if has_ended else self._departed)(at / 1e9, fields)

    def _asked(self, at: float, fields: tuple[Any, ...]) -> None:
        assert self._prefetcher is not None
        self._last_asked = max(self._last_asked, at)
        _, offset, _, length, inode, *_ = fields
        for block in self._prefetcher.view.blocks(inode, offset, length):
            self._prefetcher.scheduler.demanded(at, block)

    def _answered(self, at: float, fields: tuple[Any, ...]) -> None:
        from orioncache.prefetch.interface import Access  # noqa: PLC0415

        assert self._prefetcher is not None
        began, offset, wait, length, inode, pid, kind, outcome, _, comm, _, _ = fields
        access = Access(
            (began - self._born) / 1e9,
            inode,
            offset,
            length,
            waited=wait / 1e9,
            pid=pid,
            comm=comm.rstrip(b"\0").decode(errors="replace"),
            kind=kind,
            outcome=outcome,
        )
        self._prefetcher.accessed(time.monotonic(), access)
        # What it wants departs before the next one is looked at.
        self._depart(time.monotonic())

    def _departed(self, _at: float, fields: tuple[Any, ...]) -> None:
        assert self._prefetcher is not None
        if fields[8] == _DEMAND and fields[5] < self._servers:
            self._prefetcher.scheduler.demand_departed(fields[3], fields[5])

    def _fetched(self, at: float, fields: tuple[Any, ...]) -> None:
        assert self._prefetcher is not None
        _, _, took, length, first, server, _, _, reason, _, blocks, _ = fields
        if reason == _DEMAND and server < self._servers:
            self._prefetcher.scheduler.demand_landed(at, length, took / 1e9, server)
        elif reason == _AHEAD:
            for block in range(first, first + blocks):
                self._landed(at, block)

    def _landed(self, at: float, block: int) -> None:
        """A flight has ended; if it goes on on another server, that one's end tells."""
        assert self._prefetcher is not None
        found = self._feed.find(block)
        if found == PRESENT:
            self._prefetcher.landed(at, block)
        elif found == ABSENT:
            self._prefetcher.scheduler.failed(at, block)

    def _look_for_overdue(self, now: float) -> None:
        """Flights whose records are lost end as well."""
        assert self._prefetcher is not None
        known = {
            block
            for fields in self._pending.values()
            if fields[6] == _FETCH
            for block in range(fields[4], fields[4] + fields[10])
        }
        for block in self._prefetcher.scheduler.flying():
            if block not in known and self._feed.find(block) != COMING:
                self._landed(now, block)

    def _depart(self, now: float) -> None:
        assert self._prefetcher is not None
        scheduler = self._prefetcher.scheduler
        if self._feed.streams():
            return  # a bundle knows better
        scheduler.prefer(self._feed.current())
        by_server: dict[int, list[int]] = {}
        for block, server in scheduler.take(now):
            by_server.setdefault(server, []).append(block)
        for server, blocks in by_server.items():
            for block, departed in zip(blocks, self._feed.prefetch(server, blocks), strict=True):
                if not departed:
                    scheduler.left_out(block)


def _limits(feed: Feed, choices: Sequence[Choice]) -> dict[str, Any]:
    """All limits of the scheduler; those that are wrong are told, and the node boots with the defaults."""
    from orioncache.errors import UserError  # noqa: PLC0415
    from orioncache.prefetch import settings  # noqa: PLC0415
    from orioncache.prefetch.scheduler import LIMITS  # noqa: PLC0415

    found = {limit.name: limit.default for limit in LIMITS}
    try:
        found.update(settings.limits(settings.split(choices)[1]))
    except UserError as error:
        feed.tell(f"the scheduler's defaults are used: {error.message}")
    return found


def _take_idle_time() -> None:
    """Only what nobody else wants: who boots is never in the way of guesses about it."""
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError:
        os.nice(19)  # of this thread alone, as Linux has it


def start_beside(engine: Engine, options: Options, servers: int) -> Runner | None:
    """Starts what the options choose beside an engine that serves; None: nothing is chosen."""
    from orioncache.native.feed import Feed  # noqa: PLC0415
    from orioncache.prefetch import settings  # noqa: PLC0415

    choices = settings.parse(options.heuristics)
    if not settings.split(choices)[0]:
        return None
    runner = Runner(Feed(engine), choices, servers)
    runner.start()
    return runner


def check(options: Options) -> None:
    """Whether what the options choose can run, for those who can still mend it.

    Raises:
        UserError: a heuristic is not known or cannot be loaded, or a value is wrong.
    """
    from orioncache.prefetch import prefetcher, settings  # noqa: PLC0415

    chosen, limits = settings.split(settings.parse(options.heuristics))
    prefetcher.create(chosen)
    settings.limits(limits)
