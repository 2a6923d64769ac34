"""The rules: whom to ask first, when to ask another one as well, and when to believe that a server is gone.

Pure functions of figures; whoever has servers asks them. The native engine goes by the same rules
(docs/failover.md).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from orioncache.upstream.health import ServerState
from orioncache.upstream.latency import Latency

if TYPE_CHECKING:
    from orioncache.options import Options
    from orioncache.upstream.member import Member

# `give_up`: for ever.
NEVER = 0.0

# Another server becomes current if it is clearly nearer (the rule of dnbd3, src/client): by so much, or by so
# large a part and a little; and not again for some time.
APART = 0.080
PART = 0.75
MARGIN = 0.001
REST = 5.0

# Or if so large a share of the current one's answers came later than another server's, which is asked when
# they are late, and the other one's share is less than half of that. The weight of one answer in the share.
LATE_MUCH = 0.04
LATE_WEIGHT = 1 / 64

# A server is slow if it is so many times, and so much, farther away than the nearest.
SLOW_FACTOR = 4.0
SLOW_APART = 0.010

# A question is overdue after so long, and so many times what 95 of 100 take; as long as few were answered,
# opening connections is part of them.
OVERDUE = 0.1
OVERDUE_FACTOR = 4.0
OVERDUE_AT_FIRST = 0.25
MOST = 60.0
FEW = 8

# An answer is late that takes so many times what half of them take: of a server that gives one in twenty of
# them half a second late, 95 of 100 take just that half second. Before much is known, it is late after this.
LATE_FACTOR = 4.0
LATE_AT_FIRST = 0.1

# Hedges that may be in a row.
BURST = 10

# A read that takes longer is a stall.
STALL = 0.2


class Policy(NamedTuple):
    """What users choose; see :class:`~orioncache.options.Options`. Seconds, and percent."""

    read_timeout: float = 10.0
    hedge_floor: float = 0.02
    hedge_cap: float = 0.5
    hedge_budget: float = 5.0
    give_up: float = NEVER
    spread: bool = False

    @classmethod
    def of(cls, options: "Options") -> "Policy":
        """As the options say."""
        return cls(
            options.read_timeout,
            options.hedge_floor,
            options.hedge_cap,
            options.hedge_budget,
            options.give_up,
            options.spread == "on",
        )


class Budget:
    """How many questions may be asked twice: a token bucket.

    Attributes:
        tokens: how many, at this moment.
    """

    def __init__(self, percent: float) -> None:
        self._each = percent / 100
        self.tokens = float(BURST) if percent else 0.0

    def asked(self) -> None:
        """A question was asked once."""
        self.tokens = min(float(BURST), self.tokens + self._each) if self._each else 0.0

    def take(self) -> bool:
        """Whether one may be asked a second time; it is counted then."""
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


def hedge_after(policy: Policy, latency: Latency) -> float:
    """Seconds that a question waits for one server until another one is asked as well."""
    after = LATE_AT_FIRST
    if latency.count >= FEW:
        after = min(latency.quantile(0.95), LATE_FACTOR * latency.quantile(0.5) + policy.hedge_floor)
    return min(max(after, policy.hedge_floor), policy.hedge_cap)


def overdue_after(latency: Latency) -> float:
    """Seconds until a question is overdue, if nothing comes from its server meanwhile."""
    least = OVERDUE if latency.count >= FEW else OVERDUE_AT_FIRST
    return max(least, min(OVERDUE_FACTOR * latency.quantile(0.95), MOST))


def is_better(server: "Member", current: "Member") -> bool:
    """Whether a server is so much better that the current one should be left for it."""
    if float("inf") in (server.distance.seconds, current.distance.seconds):
        return False
    if current.late > LATE_MUCH and server.late < current.late / 2:
        return True
    there, here = server.distance.seconds, current.distance.seconds
    return here > there + APART or PART * here > there + MARGIN


def is_slow(distance: float, least: float) -> bool:
    """Whether a server is much farther away than the nearest one."""
    return distance > SLOW_FACTOR * least and distance > least + SLOW_APART


_CLASSES = {
    ServerState.GOOD: 0,
    ServerState.SLOW: 1,
    ServerState.UNKNOWN: 2,
    ServerState.SUSPECT: 4,
    ServerState.DEAD: 5,
    ServerState.QUARANTINED: 6,
}
_DRAINING = 3


def standing(server: "Member") -> int:
    """How far a server's state puts it back: 0 for the good ones."""
    place = _CLASSES[server.health.state]
    return max(place, _DRAINING) if server.health.draining else place


def rank(servers: "Sequence[Member]", current: "Member", *, spread: bool = False) -> "list[Member]":
    """The order in which to ask: by state, then the current one first, then by distance.

    Args:
        servers: not empty.
        current: who is asked first among equals.
        spread: the one that has least to do goes before the current one.
    """
    return sorted(
        servers,
        key=lambda s: (
            standing(s),
            s.pending if spread else 0,
            s is not current,
            s.distance.seconds,
            s.index,
        ),
    )
