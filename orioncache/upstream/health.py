"""What is believed about a server, and why: a state machine that is told what happened and when."""

import enum

# Seconds that a server is suspect without any answer until it counts as dead.
UNTIL_DEAD = 2.0

# Seconds that a server which was away answers before it may be preferred again; half a moment's absence costs
# no trust.
PROVEN = 2.0


class ServerState(enum.Enum):
    """What is believed about a server.

    UNKNOWN: it was not asked yet. GOOD: it answers. SLOW: it answers, but so much slower than the best that
    it is asked after all good ones. SUSPECT: its oldest question is overdue or its last one failed; what it
    was asked has been sent elsewhere. DEAD: suspect for some time without an answer. QUARANTINED: it gave
    content that is not what its digest says, or serves another release.
    """

    UNKNOWN = "unknown"
    GOOD = "good"
    SLOW = "slow"
    SUSPECT = "suspect"
    DEAD = "dead"
    QUARANTINED = "quarantined"


TRUSTED = frozenset({ServerState.UNKNOWN, ServerState.GOOD, ServerState.SLOW})
IN_TROUBLE = frozenset({ServerState.SUSPECT, ServerState.DEAD})


class Health:
    """The state of one server.

    Each method that is told something returns whether the state became another one.

    Attributes:
        state: what is believed.
        reason: why, for people; empty if there is nothing to say.
        since: when it became so.
        draining: no new question goes there.
        excluded: quarantined for good: what it serves is something else.
        proven_at: when it may become current for being faster than another one.
        returns: how often it came back.
    """

    def __init__(self, now: float) -> None:
        self.state = ServerState.UNKNOWN
        self.reason = ""
        self.since = now
        self.draining = False
        self.excluded = False
        self.proven_at = float("-inf")
        self.returns = 0

    @property
    def trusted(self) -> bool:
        """Whether questions go there as to any server."""
        return self.state in TRUSTED

    @property
    def in_trouble(self) -> bool:
        """Whether it is suspect or dead."""
        return self.state in IN_TROUBLE

    def answered(self, now: float) -> bool:
        """It gave a good answer."""
        if self.in_trouble:
            if self.state is ServerState.DEAD or now - self.since > PROVEN / 2:
                self.proven_at = now + PROVEN
            self.returns += 1
        elif self.state is not ServerState.UNKNOWN:
            return False
        return self._become(ServerState.GOOD, "", now)

    def failed(self, now: float, reason: str) -> bool:
        """An answer was an error of its own, or is overdue."""
        if self.state is ServerState.QUARANTINED or self.in_trouble:
            return False
        return self._become(ServerState.SUSPECT, reason, now)

    def passed(self, now: float) -> bool:
        """Time passed."""
        if self.state is ServerState.SUSPECT and now - self.since >= UNTIL_DEAD:
            return self._become(ServerState.DEAD, self.reason, now)
        return False

    def compared(self, now: float, *, slow: bool, reason: str = "") -> bool:
        """It was held against the best one."""
        if self.state not in (ServerState.GOOD, ServerState.SLOW):
            return False
        return self._become(ServerState.SLOW if slow else ServerState.GOOD, reason, now)

    def quarantine(self, now: float, reason: str, *, for_good: bool = False) -> bool:
        """It lied, or serves something else (``for_good``)."""
        self.excluded = self.excluded or for_good
        return self._become(ServerState.QUARANTINED, reason, now)

    def renew(self, now: float) -> bool:
        """It was mounted anew: nothing of what was believed holds."""
        self.excluded = False
        self.proven_at = now + PROVEN
        self.returns += 1
        return self._become(ServerState.UNKNOWN, "mounted anew", now)

    def _become(self, state: ServerState, reason: str, now: float) -> bool:
        if state is self.state:
            return False
        self.state, self.reason, self.since = state, reason, now
        return True
