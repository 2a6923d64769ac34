"""Mounts the servers of a node that runs: those that its boot did not wait for, and those with a bad mount.

The initramfs leaves a list of the servers (``nfsmount -l``). A thread of its own looks at them and at how the
engine finds them; for each that wants a mount a helper process (``nfsmount -f``) is started, which hands the
mount's descriptor over: nothing is ever mounted in a directory, and no path but the helper's own is used, for
the root that the node has changed to is the one that is served from here. A mount that hangs is killed with
its process.

It never gives up. A node imports this before it serves its root: nothing that is slow to import is used here.
"""

from __future__ import annotations

import _socket
import _thread
import os
import select
import sys
import time

from orioncache.errors import UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    class Servers(Protocol):
        """What is asked of an engine; see orioncache.native.engine."""

        def servers(self) -> Sequence[tuple[int, str, str, str]]:
            """Number, source, state and reason of each."""

        def add(self, fd: int, source: str) -> int:
            """Adds one; its number."""

        def replace(self, number: int, fd: int) -> None:
            """It was mounted anew."""

        def tell_mount(self, severity: str, text: str, source: str) -> None:
            """An event."""


# Both in the initramfs, which stays the root of whoever began there; the list until the root is changed.
HELPER = "/bin/nfsmount"
LIST = "/run/orion/servers"

# Seconds. How often the servers are looked at.
LOOK = 1.0
# Between two attempts: the first is soon, for most servers that the boot did not wait for are well.
SOON, FIRST, LONGEST = 0.3, 1.0, 30.0
# For one attempt, and beyond that until the helper is ended.
ATTEMPT, BEYOND = 10, 2.0
# For somebody who waits for it.
WAITED_FOR = 4
# How long a server is dead before its mount is believed to be the cause: most come back by themselves. And
# how long, at least, a new mount has for doing better.
DEAD_FOR, AGAIN = 5.0, 5.0

# A superblock of its own, with nothing in it that was believed before.
ANEW = "nosharecache"


class Listed:
    """A server of the list.

    Attributes:
        place: the directory where it is, or was to be, mounted.
        state: ``mounted``, ``failed`` or ``same`` (as another one, or it never can be).
        device: of its mount, such as ``0:45``.
        source: ``HOST:/PATH``.
        why: it is not mounted.
    """

    def __init__(self, place: str, state: str, device: str, source: str, why: str) -> None:
        self.place = place
        self.state = state
        self.device = device
        self.source = source
        self.why = why


def read_list(path: str = LIST) -> tuple[str, list[Listed]] | None:
    """Mount options and servers; None if nobody has left a list."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123
            options, *lines = file.read().split("\n")
    except FileNotFoundError:
        return None
    found = [line.split("\t") for line in lines if line]
    return options, [Listed(*fields) for fields in found if len(fields) == 5]


class Attempt:
    """A helper that mounts one server."""

    def __init__(self, helper: str, source: str, options: str, seconds: int) -> None:
        """Starts it.

        Raises:
            OSError: it cannot be started.
        """
        # In this order: neither is 1, and only what is copied last may overwrite another's number.
        self._ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        self.told, told = os.pipe()
        command = [helper, "-o", options, "-t", str(seconds), "-f", "3", source]
        try:
            self._pid = os.posix_spawn(
                helper,
                command,
                {},
                file_actions=[(os.POSIX_SPAWN_DUP2, told, 1), (os.POSIX_SPAWN_DUP2, theirs.fileno(), 3)],
            )
        except OSError:
            self._ours.close()
            os.close(self.told)
            raise
        finally:
            theirs.close()
            os.close(told)
        self.deadline = time.monotonic() + seconds + BEYOND

    def result(self) -> tuple[int, str]:
        """A descriptor and its device, or -1 and why there is none; the helper is ended.

        Once, when ``told`` is readable or it is time: what is readable is one line or the end.
        """
        fd, text = -1, ""
        ready = select.poll()
        ready.register(self._ours.fileno(), select.POLLIN)
        if ready.poll(0):
            data, controls, *_ = self._ours.recvmsg(64, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)
            for _, _, item in controls:
                fd = int.from_bytes(item[:4], sys.byteorder)
            text = data.decode()
        if fd < 0:
            ready = select.poll()
            ready.register(self.told, select.POLLIN)
            said = os.read(self.told, 1024) if ready.poll(0) else b""
            text = (
                said.decode(errors="replace").strip().partition(": ")[2] or "the mount did not come to an end"
            )
        os.kill(self._pid, 9)  # it is there until somebody waits for it
        self._ours.close()
        os.close(self.told)
        return fd, text

    def is_gone(self) -> bool:
        """Whether the helper has ended, after :meth:`result`; a kernel may take its time to let it go."""
        try:
            return os.waitpid(self._pid, os.WNOHANG)[0] != 0
        except ChildProcessError:
            return True


class _Server:
    """One server in our care.

    Attributes:
        source: ``HOST:/PATH``.
        place: what the engine calls it.
        device: of its mount.
        number: in the engine; None: it is not there yet.
        wants: since when it wants a mount; None: it does not.
        next: when it is tried again.
        pause: until the attempt after that.
        why: the last failure that was told.
        attempt: under way.
        ending: a helper that was ended, and may not have gone yet.
    """

    def __init__(self, source: str, place: str, device: str, now: float, why: str = "") -> None:
        self.source = source
        self.place = place
        self.device = device
        self.number: int | None = None
        self.wants: float | None = None
        self.next = now + SOON
        self.pause = FIRST
        self.why = why
        self.attempt: Attempt | None = None
        self.ending: Attempt | None = None


class Mounter:
    """Keeps servers mounted; :meth:`start` begins, in a thread of its own."""

    def __init__(
        self, engine: Servers, options: str, listed: Sequence[Listed], *, helper: str = HELPER
    ) -> None:
        """Prepares it.

        Args:
            engine: runs, with those that are mounted.
            options: of the mounts.
            listed: the servers.
            helper: the program.
        """
        now = time.monotonic()
        self._engine = engine
        self._options = options
        self._helper = helper
        self._servers: list[_Server] = []
        # Helpers that were ended, and that nobody else waits for.
        self._ending: list[Attempt] = []
        for entry in listed:
            if entry.state == "mounted":
                self._servers.append(_Server(entry.source, entry.place, entry.device, now))
            elif entry.state == "failed":
                missing = _Server(entry.source, entry.source, "", now, entry.why)
                missing.wants = now
                self._servers.append(missing)
        self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._ended = _thread.allocate_lock()

    def start(self) -> None:
        """Begins."""
        self._ended.acquire()
        _thread.start_new_thread(self._run, ())

    def close(self) -> None:
        """Ends it, and waits until it uses the engine no more. After :meth:`start`."""
        os.eventfd_write(self._stop, 1)
        with self._ended:
            os.close(self._stop)

    def mount(self, source: str) -> int:
        """Mounts a server for somebody who adds it, and waits for some seconds; from any thread.

        Returns:
            A descriptor of its directory.

        Raises:
            UserError: it cannot be mounted, or is one that is mounted already.
        """
        try:
            attempt = Attempt(self._helper, source, self._options, WAITED_FOR)
        except OSError as error:
            raise UserError(f"{source} cannot be mounted: {self._helper}: {error.strerror}") from None
        ready = select.poll()
        ready.register(attempt.told, select.POLLIN)
        ready.poll(1000 * max(0.0, attempt.deadline - time.monotonic()))
        fd, text = attempt.result()
        self._ending.append(attempt)
        if fd < 0:
            raise UserError(
                f"{source} cannot be mounted: {text}", "check the server, its exports and the network"
            )
        other = self._same(text)
        if other:
            os.close(fd)
            raise UserError(f"{source} is the same server as {other}", "add another one")
        return fd

    def _same(self, device: str) -> str:
        """The server that is mounted from that device; empty if none is."""
        return next((server.source for server in self._servers if server.device == device), "")

    def _run(self) -> None:
        try:
            while not self._wait():
                now = time.monotonic()
                for attempt in list(self._ending):
                    if attempt.is_gone():
                        self._ending.remove(attempt)
                self._look(now)
                for server in list(self._servers):
                    self._attend(server, now)
        finally:
            for server in self._servers:
                if server.attempt is not None:
                    fd, _ = server.attempt.result()
                    if fd >= 0:
                        os.close(fd)
            self._ended.release()

    def _wait(self) -> bool:
        """Until there is something to do; whether it is the end."""
        now = time.monotonic()
        until = now + LOOK
        waiting = select.poll()
        waiting.register(self._stop, select.POLLIN)
        for server in self._servers:
            if server.attempt is not None:
                waiting.register(server.attempt.told, select.POLLIN)
                until = min(until, server.attempt.deadline)
            elif server.wants is not None and server.ending is None:
                until = min(until, server.next)
        # Rounded up: it shall not come round and round until it is time.
        found = waiting.poll(1 + 1000 * max(0.0, until - now))
        return any(fd == self._stop for fd, _ in found)

    def _look(self, now: float) -> None:
        """How the engine finds them: who wants a mount, who is new, and who was removed."""
        found = {source: (number, state, reason) for number, source, state, reason in self._engine.servers()}
        known = {server.place for server in self._servers}
        for source in found:
            # Somebody has added it. A directory is somebody else's to mount.
            if source not in known and ":/" in source and not source.startswith("/"):
                self._servers.append(_Server(source, source, "", now))
        for server in list(self._servers):
            if server.place not in found:
                if server.number is not None:
                    self._forget(server)
                continue
            server.number, state, reason = found[server.place]
            stale = "stale" in reason.lower() and state in ("suspect", "dead")
            if state in ("good", "slow"):
                server.wants, server.next, server.pause = None, now, FIRST
            elif not stale and state != "dead":
                server.wants = None
            elif server.wants is None:
                server.wants = now
                server.next = max(server.next, now + (0.0 if stale else DEAD_FOR))

    def _forget(self, server: _Server) -> None:
        """It was removed; a mount that is under way comes too late."""
        self._servers.remove(server)
        if server.attempt is not None:
            fd, _ = server.attempt.result()
            self._ending.append(server.attempt)
            if fd >= 0:
                os.close(fd)

    def _attend(self, server: _Server, now: float) -> None:
        """Begins an attempt, or sees what became of it."""
        if server.ending is not None and server.ending.is_gone():
            server.ending = None
        if server.attempt is None:
            if server.wants is not None and server.next <= now and server.ending is None:
                self._begin(server)
            return
        said = select.poll()
        said.register(server.attempt.told, select.POLLIN)
        if not said.poll(0) and now < server.attempt.deadline:
            return
        attempt, server.attempt, server.ending = server.attempt, None, server.attempt
        fd, text = attempt.result()
        if fd >= 0:
            self._mounted(server, fd, text, now)
        else:
            self._failed(server, text)

    def _begin(self, server: _Server) -> None:
        options = self._options
        if server.number is not None:
            options = f"{options},{ANEW}"
        try:
            server.attempt = Attempt(self._helper, server.source, options, ATTEMPT)
        except OSError as error:
            self._failed(server, f"{self._helper}: {error.strerror}")

    def _mounted(self, server: _Server, fd: int, device: str, now: float) -> None:
        if server.wants is None:
            os.close(fd)  # it came back by itself
            return
        server.wants = None
        if server.number is None:
            other = self._same(device)
            if other:
                os.close(fd)
                self._servers.remove(server)
                self._tell(
                    "warning",
                    server,
                    f"{server.source} is the same server as {other}: not used as another one",
                )
                return
        try:
            if server.number is None:
                server.number = self._engine.add(fd, server.source)
                self._tell("info", server, f"{server.source} is mounted, and one of the servers now")
            else:
                self._engine.replace(server.number, fd)  # tells of it
                # Reads there may have to wait for the end of the server's grace period.
                server.pause = min(LONGEST, max(AGAIN, 2 * server.pause))
                server.next = now + server.pause
        except OSError as error:
            os.close(fd)
            server.wants = now
            self._failed(server, f"the engine does not take it: {error.strerror}")
            return
        server.device, server.why = device, ""

    def _failed(self, server: _Server, why: str) -> None:
        server.next = time.monotonic() + server.pause
        server.pause = min(LONGEST, 2 * server.pause)
        # Its time is a part of what the helper says.
        reason = why.partition(" (after")[0]
        if reason != server.why:
            server.why = reason
            self._tell("warning", server, f"{server.source} cannot be mounted, and is tried again: {reason}")

    def _tell(self, severity: str, server: _Server, text: str) -> None:
        self._engine.tell_mount(severity, text, server.source)


def begin(engine: Servers, listed: tuple[str, list[Listed]] | None) -> Mounter | None:
    """Keeps the servers of a list mounted; None if there is no list."""
    if listed is None:
        return None
    options, servers = listed
    mounter = Mounter(engine, options, servers)
    mounter.start()
    return mounter
