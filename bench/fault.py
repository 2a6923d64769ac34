"""`--fault`: what goes wrong with the servers of a boot, when, and what a node has to stand."""

import dataclasses
from collections.abc import Mapping, Sequence

from orioncache.bench.plan import Link, Run, Variant
from orioncache.errors import UserError

GIVE_UP_S = 200.0  # on the guest's clock: so long after its fault a boot has to be ready
LINGER_S = 2.0  # so long its files are read on, when it is ready and the fault is over

# The bars.
SUDDEN_S = 0.25  # the longest stall where a read fails, or is told to be wrong
SILENT_S = 0.4  # where nothing tells
DAEMON_S = 1.0
BOOT_TIMES = 1.25  # of the faultless boot


@dataclasses.dataclass(frozen=True)
class Kind:
    """A way in which servers go wrong.

    Attributes:
        name: what ``--fault`` calls it.
        help: one line.
        bar_s: the longest stall that a node with a good server left may see; None: there is no bar.
        can_end: whether ``for=`` can end it.
        for_s: when it ends if nobody says; None: with the boot.
        copies: its servers need a copy of their own of what they export.
    """

    name: str
    help: str
    bar_s: float | None = None
    can_end: bool = False
    for_s: float | None = None
    copies: bool = False


DAEMON, DIVERGENT = "daemon-kill", "divergent"
# Options that the guest's kernel needs for them.
FAULT_KERNEL = ("CONFIG_NET_CLS_U32=y", "CONFIG_NET_ACT_GACT=y", "CONFIG_INET_DIAG_DESTROY=y")

KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("kill", "the server dies: its connections close, new ones are refused", SUDDEN_S, can_end=True),
        Kind(
            "hang", "the server stops: connections are accepted, nothing is answered", SILENT_S, can_end=True
        ),
        Kind("blackhole", "all packets from and to it are dropped", SILENT_S, can_end=True),
        Kind("reset", "its connections are reset; it goes on", SUDDEN_S),
        Kind("slow", "its round trip is 20 times as long (20 ms at least)", SILENT_S, can_end=True),
        Kind("jitter", "each packet takes 0 to 100 ms, in each direction", can_end=True),
        Kind("loss", "10% of the packets are lost, in each direction", can_end=True),
        Kind("corrupt", "a bit of every 4 KiB of all its files is flipped", SUDDEN_S, copies=True),
        Kind("zeros", "all its files read as zeros", SUDDEN_S, copies=True),
        Kind("stale", "it restarts, and knows no handle that it gave out before", SUDDEN_S, copies=True),
        Kind(DIVERGENT, "it restarts with another release of the root", SUDDEN_S, copies=True),
        Kind("full-restart", "it dies, and comes back after 5 s (or for=)", can_end=True, for_s=5.0),
        Kind("flap", "all its packets are dropped for 0.5 s, every second", can_end=True),
        Kind(DAEMON, "kill -9 of the node's cache", DAEMON_S),
    )
}
# Where the matrix has them; `userland` is some time after `switch_root`.
POINTS = ("power-on", "mount", "switch_root", "userland", "idle")
MATRIX_POINTS = ("mount", "switch_root", "userland+0.1")
# What guest/referee.c hears of a boot.
HEARD = {"switch_root": "switch", "userland": "switch"}
ALL = "all"
USAGE = "write KIND@POINT[:server=N][:for=SECONDS], as in hang@userland+0.5:server=2, or all"


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault of one boot.

    Attributes:
        kind: what happens.
        point: when: one of :data:`POINTS`.
        after_s: so long after it.
        servers: to which ones, from 1 on.
        for_s: so long; None: until the boot is over.
    """

    kind: Kind
    point: str
    after_s: float = 0.0
    servers: Sequence[int] = (1,)
    for_s: float | None = None

    @property
    def name(self) -> str:
        """As ``--fault`` takes it."""
        text = f"{self.kind.name}@{self.point}"
        if self.point == "userland":
            text += f"+{self.after_s:g}"
        if self.servers != (1,):
            text += ":server=" + "+".join(map(str, self.servers))
        if self.for_s is not None and self.for_s != self.kind.for_s:
            text += f":for={self.for_s:g}"
        return text

    def command_line(self) -> list[str]:
        """Words that tell the guest of it (guest/referee.c, guest/init.sh)."""
        servers = "+".join(map(str, self.servers))
        when = f"{HEARD.get(self.point, self.point)}:{self.after_s * 1000:.0f}:{(self.for_s or 0) * 1000:.0f}"
        words = [f"bench.fault={self.kind.name}:{when}:{servers}", *_patience()]
        if self.kind.copies:
            words.append(f"bench.copies={servers}")
        return words


def faultless() -> list[str]:
    """The words of a boot that is probed in the same way, and has no fault."""
    return ["bench.fault=none:none:0:0:1", *_patience()]


def _patience() -> list[str]:
    return [f"bench.giveup={GIVE_UP_S * 1000:.0f}", f"bench.linger={LINGER_S * 1000:.0f}"]


def parse(texts: Sequence[str], servers: int) -> list[Fault]:
    """What ``--fault`` says, given again or with commas: each is a boot of its own.

    Args:
        texts: the option's values.
        servers: how many there are.

    Raises:
        UserError: one is not understood, or needs what is not there.
    """
    found: list[Fault] = []
    for text in (part.strip() for given in texts for part in given.split(",")):
        kind, _, rest = text.partition("@")
        if kind == ALL and not rest:
            points: Sequence[str] = MATRIX_POINTS
        elif not rest:
            raise UserError(f"--fault {text}: it does not say at which point of the boot", USAGE)
        else:
            points = (rest,)
        kinds = list(KINDS) if kind == ALL else [kind]
        found += [_one(each, point, servers, f"--fault {text}") for each in kinds for point in points]
    return list(dict.fromkeys(found))


def _one(name: str, rest: str, servers: int, where: str) -> Fault:
    if name not in KINDS:
        raise UserError(f"{where}: there is no kind '{name}'", f"one of {', '.join(KINDS)}; {USAGE}")
    kind = KINDS[name]
    when, *settings = rest.split(":")
    point, plus, after = when.partition("+")
    if point not in POINTS:
        points = ", ".join(p if p != "userland" else "userland+SECONDS" for p in POINTS)
        raise UserError(f"{where}: there is no point '{point}'", f"one of {points}; {USAGE}")
    if bool(plus) != (point == "userland"):
        raise UserError(
            f"{where}: seconds belong to userland, and to nothing else",
            "as in userland+0.1; its begin is switch_root",
        )
    fault = Fault(kind, point, _seconds(after, where, least=0.0) if plus else 0.0, for_s=kind.for_s)
    for setting in settings:
        key, _, value = setting.partition("=")
        if key == "server":
            fault = dataclasses.replace(fault, servers=_servers(value, servers, where))
        elif key == "for" and not kind.can_end:
            raise UserError(f"{where}: {kind.name} cannot be ended", "leave for= out")
        elif key == "for":
            fault = dataclasses.replace(fault, for_s=_seconds(value, where, least=0.001))
        else:
            raise UserError(f"{where}: '{setting}' is not known", USAGE)
    if kind.name == DAEMON and point in ("power-on", "mount"):
        if where.partition(" ")[2].startswith(ALL):
            # Of the matrix: the earliest point at which there is a cache.
            return dataclasses.replace(fault, point="switch_root", after_s=0.0)
        raise UserError(f"{where}: there is no cache yet at that point", "switch_root is the first with one")
    return fault


def _seconds(text: str, where: str, *, least: float) -> float:
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"{where}: '{text}' is no number of seconds", USAGE) from None
    if not least <= value <= 3600:
        raise UserError(f"{where}: {text} s is out of range", f"from {least:g} to 3600")
    return value


def _servers(text: str, servers: int, where: str) -> tuple[int, ...]:
    if text == ALL:
        return tuple(range(1, servers + 1))
    found = []
    for part in text.split("+"):
        if not part.isdecimal() or not 1 <= int(part) <= servers:
            raise UserError(
                f"{where}: there is no server '{part}'",
                f"--servers {servers} has 1 to {servers}; 1+2 are both",
            )
        found.append(int(part))
    return tuple(sorted(set(found)))


def fits(fault: Fault, variant: Variant) -> bool:
    """Whether a variant has what the fault is about: a cache, or that server."""
    if variant.source not in ("nfs", "orion"):
        return False
    if fault.kind.name == DAEMON:
        return variant.source == "orion"
    return variant.source == "orion" or 1 in fault.servers


def check(faults: Sequence[Fault], variants: Sequence[Variant], texts: Sequence[str]) -> None:
    """Looks whether every fault can be made with every variant; those of ``all`` are left out where not.

    Raises:
        UserError: one cannot.
    """
    for variant in variants:
        if variant.source not in ("nfs", "orion"):
            raise UserError(
                f"{variant.name} has no NFS server that could fail",
                "leave it out of --variant, or --fault out",
            )
    if any(part.strip().partition("@")[0] == ALL for text in texts for part in text.split(",")):
        return
    for fault in faults:
        for variant in variants:
            if not fits(fault, variant):
                what = "no cache to be killed" if fault.kind.name == DAEMON else "server 1 alone"
                raise UserError(f"--fault {fault.name}: {variant.name} has {what}", "name other variants")


def plan(faults: Sequence[Fault], variants: Sequence[Variant], links: Sequence[Link], runs: int) -> list[Run]:
    """All boots: each fault with each variant that it fits, side by side, after faultless ones."""
    ordered = []
    for number in range(1, runs + 1):
        for link in links:
            ordered += [Run(variant, link, number, "", faultless()) for variant in variants]
            ordered += [
                Run(variant, link, number, fault.name, fault.command_line())
                for fault in faults
                for variant in variants
                if fits(fault, variant)
            ]
    return ordered
