"""When to look after a server that nobody asks, or that does not answer."""

from orioncache.upstream.health import Health, ServerState
from orioncache.upstream.pool import Job

# Seconds between probes of servers that answer: while files are read, and while none are.
ACTIVE = 1.0
IDLE = 10.0

# Of a server that may only have paused; of a dead one, twice as long each time; and while somebody waits for
# any server at all.
SUSPECT = 0.25
DEAD_AT_FIRST = 1.0
DEAD_AT_MOST = 30.0
AWAITED = 0.09

NEVER = float("inf")


class Probing:
    """Of one server.

    Attributes:
        at: when the next probe is due.
        job: the one that is under way; a server that does not answer it is not asked again, because this one
            is answered as soon as the server is back.
        trial: whether that job is a copy of a question that went unanswered.
    """

    def __init__(self, now: float) -> None:
        self.at = now
        self.job: Job | None = None
        self.trial = False
        self._pause = DEAD_AT_FIRST

    def schedule(self, health: Health, now: float, *, active: bool, awaited: bool, alone: bool) -> None:
        """Says when the next probe is due, after one ended or the server's state changed.

        Args:
            health: the server's.
            now: the time.
            active: files are being read.
            awaited: somebody waits for any server to answer.
            alone: there is no other server, so that there is nothing to choose.
        """
        if health.state is ServerState.DEAD:
            pause, self._pause = self._pause, min(2 * self._pause, DEAD_AT_MOST)
        elif health.state is ServerState.SUSPECT:
            pause, self._pause = SUSPECT, DEAD_AT_FIRST
        elif health.state is ServerState.QUARANTINED or alone:
            pause = NEVER
        else:
            pause = ACTIVE if active else IDLE
        if awaited and health.in_trouble:
            pause = AWAITED
        self.at = now + pause

    def hurry(self, at: float) -> None:
        """The next probe is due then, if it was due later."""
        self.at = min(self.at, at)
