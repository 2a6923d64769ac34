"""Those who follow a cache's events: a thread for all of them, which nobody can hold up."""

import collections
import contextlib
import json
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable

from orioncache.events import Events

log = logging.getLogger(__name__)

# How many may follow at a time.
MOST = 16
# Seconds after which one that reads nothing of what it was sent is sent away.
PATIENCE = 60.0
# Seconds that the last lines may take when all of it ends.
LAST = 1.0
# Events that are put into lines ahead of a follower's reading; the others wait where they are kept.
BATCH = 64


class _Follower:
    """One connection.

    Attributes:
        socket: non-blocking.
        seq: the number of the last event that it was given or that it has missed.
        pending: bytes that it has not read yet.
        since: when it last read something, on the clock of ``time.monotonic()``, or had nothing to read.
    """

    def __init__(self, client: socket.socket, seq: int, first: bytes) -> None:
        client.setblocking(False)
        self.socket = client
        self.seq = seq
        self.pending = first
        self.since = time.monotonic()


class Followers:
    """Sends events to those who follow them.

    A follower that reads too slowly finds a line ``{"lost": N}`` in place of events that are kept no more:
    all are sent from where they are kept, and no follower has a queue of its own.
    """

    def __init__(self, events: Events) -> None:
        self._events = events
        self._lock = threading.Lock()
        # lock: what follows.
        self._new: collections.deque[_Follower] = collections.deque()
        self._count = 0
        self._wake: int | None = None
        self._ends = False
        self._thread: threading.Thread | None = None
        self._unwatch: Callable[[], None] = lambda: None

    def add(self, client: socket.socket, since: int) -> bool:
        """Takes over a connection, unless there are too many.

        Args:
            client: what it is to be sent to.
            since: the number of the last event that it knows; a larger one than there is means the last.
        """
        # An event may come in between: it is then sent, as the next one is.
        told = self._events.told
        first = json.dumps({"follow": True, "seq": told, "pid": os.getpid()}).encode() + b"\n"
        with self._lock:
            if self._ends or self._count >= MOST:
                return False
            self._count += 1
            self._new.append(_Follower(client, min(since, told), first))
            if self._wake is None:
                self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                self._unwatch = self._events.watch(self._rouse)
                self._thread = threading.Thread(
                    target=self._run, args=[self._wake], name="followers", daemon=True
                )
                self._thread.start()
        self._rouse()
        return True

    def close(self) -> None:
        """Sends them away, with as much of what came before as they take at once."""
        with self._lock:
            self._ends = True
            thread = self._thread
        if thread is not None:
            self._unwatch()
            self._rouse()
            thread.join(LAST)

    def _rouse(self) -> None:
        with self._lock:
            if self._wake is not None:
                os.eventfd_write(self._wake, 1)

    def _run(self, wake: int) -> None:
        followers: dict[int, _Follower] = {}
        try:
            while not self._ends:
                gone = _wait(wake, followers)
                with self._lock:
                    while self._new:
                        follower = self._new.popleft()
                        followers[follower.socket.fileno()] = follower
                for fd, follower in list(followers.items()):
                    if fd in gone or not self._serve(follower):
                        self._dismiss(followers.pop(fd))
        except Exception:
            log.exception("following events failed")
        finally:
            with self._lock:
                self._ends = True
                left = [*followers.values(), *self._new]
                self._wake = None
            for follower in left:
                self._serve(follower)
                self._dismiss(follower)
            os.close(wake)

    def _serve(self, follower: _Follower) -> bool:
        """Sends what it takes without waiting; false when it is gone."""
        try:
            while True:
                if not follower.pending:
                    follower.since = time.monotonic()
                    follower.pending = self._lines(follower)
                if not follower.pending:
                    return True
                sent = follower.socket.send(follower.pending)
                follower.pending = follower.pending[sent:]
                follower.since = time.monotonic()
        except BlockingIOError:
            return time.monotonic() - follower.since < PATIENCE
        except OSError:
            return False

    def _lines(self, follower: _Follower) -> bytes:
        events, lost = self._events.since(follower.seq)
        lines: list[object] = [{"lost": lost}] if lost else []
        lines += events[:BATCH]
        if events:
            follower.seq = events[:BATCH][-1]["seq"]
        return b"".join(json.dumps(line).encode() + b"\n" for line in lines)

    def _dismiss(self, follower: _Follower) -> None:
        follower.socket.close()
        with self._lock:
            self._count -= 1


def _wait(wake: int, followers: dict[int, _Follower]) -> set[int]:
    """Until something happens; returns the connections that are gone."""
    poller = select.poll()
    poller.register(wake, select.POLLIN)
    for fd, follower in followers.items():
        # What they say is nothing to us, nor that they will say no more.
        poller.register(fd, select.POLLOUT if follower.pending else 0)
    busy = any(follower.pending for follower in followers.values())
    found = poller.poll(1000 * PATIENCE if busy else None)
    with contextlib.suppress(BlockingIOError):
        os.eventfd_read(wake)
    return {fd for fd, what in found if what & (select.POLLHUP | select.POLLERR)}
