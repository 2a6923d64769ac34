"""Which server is asked, and what happens when it does not answer."""

import errno
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import trio

from orioncache.events import Events
from orioncache.upstream.server import ReplacedError, Server, ServerState

T = TypeVar("T")

# Seconds for which servers that do not answer are asked in turn before a call fails: what an NFS mount with
# softerr and default timeouts would wait.
GIVE_UP = 180.0

# Errors that speak of the server or of the way to it; all others are answers about the file.
SERVER_ERRORS = frozenset(
    {
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EIO,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENODEV,
        errno.ENOTCONN,
        errno.EPIPE,
        errno.EREMOTEIO,
        errno.ESHUTDOWN,
        errno.ETIMEDOUT,
    }
)


class ReplicaDiffersError(OSError):
    """A server holds something else than the one that was asked before: its content must not be mixed in."""

    def __init__(self) -> None:
        super().__init__(errno.ESTALE, "the servers' copies differ")


def rank(servers: Sequence[Server], current: Server) -> list[Server]:
    """The order in which to ask: those that are up before suspects, the current one first among equals."""
    return sorted(servers, key=lambda s: (s.state is not ServerState.UP, s is not current, s.index))


class UpstreamSet:
    """Interchangeable servers; one is current and asked first.

    Attributes:
        servers: all of them, in the user's order; not empty.
        current: the one that is asked first; it changes only when it fails and another one answers.
    """

    def __init__(self, servers: Sequence[Server], read_timeout: float, events: Events) -> None:
        """A set whose first server is current.

        Args:
            servers: at least one.
            read_timeout: seconds that a server is given as long as there is another one to ask. The last one
                is given all the time that its own mount allows: nobody is left who could answer sooner.
            events: is told of failures and changes.
        """
        self.servers = list(servers)
        self.current = self.servers[0]
        self._patience = read_timeout if len(self.servers) > 1 else math.inf
        self._events = events

    async def call(self, work: Callable[[Server], T], *, reading: bool = False) -> tuple[Server, T]:
        """Has one server do ``work``: the current one, or the next that can if that fails.

        Args:
            work: blocks, and is given the server; may raise ReplicaDiffersError to have the next one asked.
            reading: whether it reads file content.

        Returns:
            Who answered, and what.

        Raises:
            OSError: an answer about the file, such as ENOENT; or, if no server could answer, the first
                failure.
        """
        failure: OSError | None = None
        give_up = trio.current_time() + GIVE_UP
        while True:
            timed_out = False
            for server in rank(self.servers, self.current):
                try:
                    answer = await self._ask(server, work, reading)
                except OSError as error:
                    if error.errno != errno.ESTALE and error.errno not in SERVER_ERRORS:
                        self._answered(server)
                        raise
                    # Stale handles and differing copies are about one file: they cost a server no trust.
                    if error.errno != errno.ESTALE:
                        self._failed(server, error)
                    timed_out = timed_out or error.errno == errno.ETIMEDOUT
                    failure = failure or error
                else:
                    self._answered(server)
                    return server, answer
            if not timed_out or trio.current_time() >= give_up:
                assert failure is not None
                raise failure

    async def _ask(self, server: Server, work: Callable[[Server], T], reading: bool) -> T:
        try:
            return await server.call(work, patience=self._patience, reading=reading)
        except (ReplicaDiffersError, ReplacedError):
            raise
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
        # Perhaps only a directory that we hold open was replaced: look it up again, once.
        server.forget_directories()
        return await server.call(work, patience=self._patience, reading=reading)

    def _failed(self, server: Server, error: OSError) -> None:
        if error.errno != errno.ETIMEDOUT:
            server.errors += 1
        if server.state is ServerState.UP:
            server.state = ServerState.SUSPECT
            self._events.warning(f"{server.source} failed: {error.strerror}")

    def _answered(self, server: Server) -> None:
        if server.state is not ServerState.UP:
            server.state = ServerState.UP
            self._events.info(f"{server.source} answers again")
        if self.current.state is not ServerState.UP and server is not self.current:
            self._events.warning(f"reading from {server.source} instead of {self.current.source}")
            self.current = server
