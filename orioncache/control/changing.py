"""Servers that are added, removed or drained while a cache runs, on request of its socket."""

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from orioncache.errors import UserError
from orioncache.mounts import descriptor_place

# Seconds within which a new server's directory must be there: a dead NFS mount never answers.
OPENING = 5.0
# Threads that may wait for such directories, for ever.
STUCK_MOST = 4


class Servers(Protocol):
    """The set of servers of a running cache. May be asked from any thread."""

    def add(self, fd: int, source: str) -> int:
        """Adds the server whose directory a descriptor (taken over) stands for; returns its number."""

    def remove(self, number: int) -> None:
        """Removes one.

        Raises:
            OSError: EBUSY: it is the last one; ENOENT: there is none with that number.
        """

    def drain(self, number: int, on: bool) -> None:
        """Has no new reads sent to one, or again."""


class Changes:
    """Does what requests want done to the servers.

    Attributes:
        servers: which ones.
        status: gives the cache's status, which never asks a server.
        mount: mounts ``HOST:/PATH`` and returns a descriptor (O_PATH) of what is there; None: it cannot be.
    """

    def __init__(
        self,
        servers: Servers,
        status: Callable[[], Mapping[str, Any]],
        mount: Callable[[str], int] | None = None,
    ) -> None:
        self.servers = servers
        self.status = status
        self.mount = mount
        self._one = threading.Lock()
        self._stuck = 0  # += and -= hold the interpreter's lock too briefly to be two threads' at a time

    def do(self, request: Mapping[str, object]) -> dict[str, object]:
        """The answer to a request to change something. May wait for :data:`OPENING` seconds.

        Raises:
            UserError: it cannot be done.
        """
        if not self._one.acquire(blocking=False):
            raise UserError("another change of the servers is under way", "try again when it is done")
        try:
            if request["op"] == "server-add":
                return self._add(_text(request, "source"))
            number, source = self._find(_text(request, "server"))
            if request["op"] == "server-remove":
                self._remove(number, source)
            else:
                self.servers.drain(number, request.get("on") is not False)
            return {"number": number, "source": source}
        finally:
            self._one.release()

    def _add(self, source: str) -> dict[str, object]:
        found = self.status()
        if any(server["source"] == source for server in found["servers"]):
            raise UserError(f"{source} is one of the servers already", "see: orioncache server list")
        if is_remote(source):
            if self.mount is None:
                raise UserError(
                    f"this cache cannot mount {source}", "mount it yourself, and add the directory"
                )
            work = self.mount
        else:
            mountpoint = str(found["mountpoint"])
            if not source.startswith("/"):
                raise UserError(f"{source} is no absolute path", "write /DIRECTORY or HOST:/PATH")
            if os.path.commonpath([os.path.normpath(source), mountpoint]) == mountpoint:
                raise UserError(f"{source} is what this cache serves", "add another copy of it")
            work = _open
        fd = self._within(work, source)
        if (other := _same_place(fd, [server["source"] for server in found["servers"]])) is not None:
            os.close(fd)
            raise UserError(f"{source} is the same directory as {other}", "add another server's copy")
        try:
            number = self.servers.add(fd, source)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise UserError("there are as many servers as there can be", "remove one first") from None
            raise UserError(f"{source}: {error.strerror}", "is it a release's directory?") from None
        return {"number": number, "source": source}

    def _remove(self, number: int, source: str) -> None:
        try:
            self.servers.remove(number)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise UserError(f"{source} is the last server", "add another one first") from None
            raise UserError(f"{source}: {error.strerror}", "see: orioncache server list") from None

    def _find(self, wanted: str) -> tuple[int, str]:
        servers = [
            (server.get("number", index), server["source"])
            for index, server in enumerate(self.status()["servers"])
        ]
        for number, source in servers:
            if wanted in (source, str(number)):
                return number, source
        known = ", ".join(f"{number} {source}" for number, source in servers)
        raise UserError(f"there is no server {wanted}", f"its number or its source is one of: {known}")

    def _within(self, work: Callable[[str], int], source: str) -> int:
        """A descriptor of a directory, opened in a thread that is left behind if that takes too long."""
        if self._stuck >= STUCK_MOST:
            raise UserError(f"{self._stuck} directories are still being opened", "see why they do not answer")
        result: list[int | Exception] = []
        lock, done = threading.Lock(), threading.Event()
        late = False

        def run() -> None:
            try:
                found: int | Exception = work(source)
            except Exception as error:
                found = error
            with lock:
                if not late:
                    result.append(found)
                    done.set()
                    return
            self._stuck -= 1
            if isinstance(found, int):
                os.close(found)

        threading.Thread(target=run, name="adding", daemon=True).start()
        done.wait(OPENING)
        with lock:
            late = not done.is_set()
        if late:
            self._stuck += 1
            raise UserError(f"{source}: no answer within {OPENING:g} s", "check the server and the network")
        (found,) = result
        if isinstance(found, OSError):
            mend = "a source is a directory, or where NFS is mounted"
            raise UserError(f"{source}: {found.strerror}", mend) from None
        if isinstance(found, Exception):
            raise found
        return found


def is_remote(source: str) -> bool:
    """Whether a source is ``HOST:/PATH``, which wants to be mounted."""
    return not source.startswith("/") and ":/" in source


def _text(request: Mapping[str, object], key: str) -> str:
    value = request.get(key)
    if not isinstance(value, str) or not value or "\0" in value:
        raise UserError(f"a {request['op']} wants the key {key}")
    return value


def _open(source: str) -> int:
    return os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _same_place(fd: int, sources: Sequence[str]) -> str | None:
    """The source that is the same directory, by our descriptor (O_PATH) of it; asks no server."""
    place = descriptor_place(fd)
    if place is None:
        return None
    by_path = {os.path.abspath(source): source for source in sources}  # noqa: PTH100
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        if int(name) != fd and descriptor_place(int(name)) == place:
            with contextlib.suppress(OSError):
                # Whoever is no server any more may be held for a while.
                if (held := os.readlink(f"/proc/self/fd/{name}")) in by_path:  # noqa: PTH115
                    return by_path[held]
    return None
