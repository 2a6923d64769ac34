"""Networks of the bench's own: namespaces, links and taps that no packet leaves, gone when the block ends.

Names carry the process id. What a killed process could not remove is removed by the next one (:func:`sweep`).
"""

import contextlib
import ctypes
import dataclasses
import itertools
import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from orioncache.errors import UserError
from orioncache.process import command_line, require

PREFIX = "orion"
# orion<pid>-<what>; `what` is ours and never contains a hyphen.
NAME = re.compile(rf"{PREFIX}(\d+)-\w+")
NAMESPACES = Path("/run/netns")

CLONE_NEWNET = 0x40000000  # <linux/sched.h>; os.setns came with Python 3.12

# The same addresses as inside a guest with the virtual clock, so that a command line fits both.
NODE_ADDRESS = "10.77.0.1"
SERVER_ADDRESS = "10.77.0.{}"
FIRST_SERVER = 11
PREFIX_LENGTH = 24

BRIDGE, UPLINK, NODE_PORT, TAP = "br0", "eth0", "node", "tap0"

# Packets that wait in a delayed link; netem's default of 1000 drops at 100 Mbit/s and 100 ms.
QUEUE_PACKETS = 100_000


def _run(*command: str, mend: str = "") -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        text = said[-1] if said else f"exit code {done.returncode}"
        raise UserError(f"{command_line(command)}: {text}", mend or _mend_for(text))
    return done.stdout


def _mend_for(text: str) -> str:
    if "not permitted" in text or "ermission denied" in text:
        return "run it as root; a container also needs CAP_SYS_ADMIN and CAP_NET_ADMIN"
    if "qdisc" in text or "not supported" in text:
        return (
            "this kernel lacks the feature (netem: CONFIG_NET_SCH_NETEM, tap: CONFIG_TUN, veth: CONFIG_VETH)"
        )
    return ""


def _ip(*arguments: str) -> str:
    return _run(require("ip", "iproute2"), *arguments)


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a link does to its packets, in each direction.

    Attributes:
        delay_ms: added to each packet; half a round trip.
        jitter_ms: the delay varies by up to this much around it.
        loss_percent: of packets dropped.
        rate_mbit: the link's speed; None: as fast as it goes.
    """

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss_percent: float = 0.0
    rate_mbit: float | None = None

    def netem(self) -> list[str]:
        """The words for tc's netem; empty for a link that is left alone."""
        words: list[str] = []
        if self.delay_ms or self.jitter_ms:
            words += ["delay", f"{self.delay_ms:g}ms"]
            if self.jitter_ms:
                words.append(f"{self.jitter_ms:g}ms")
        if self.loss_percent:
            words += ["loss", f"{self.loss_percent:g}%"]
        if self.rate_mbit is not None:
            words += ["rate", f"{self.rate_mbit:g}mbit"]
        return [*words, "limit", str(QUEUE_PACKETS)] if words else []


def can_shape() -> bool:
    """Whether this machine's kernel has netem; asked by trying it in a namespace of its own."""
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(namespace("probe"))
        tc = ["ip", "netns", "exec", name, require("tc", "iproute2")]
        done = subprocess.run(
            [*tc, "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"],
            capture_output=True,
            check=False,
        )
        return done.returncode == 0


_counter = itertools.count()


@contextlib.contextmanager
def namespace(what: str) -> Iterator[str]:
    """A network namespace with its loopback up; yields its name for ``ip netns exec``.

    At the end it goes with all links in it; processes that still run in it are their starter's to end.
    """
    name = f"{PREFIX}{os.getpid()}-{what}{next(_counter)}"
    with contextlib.ExitStack() as stack:
        # Registered first: an interrupt between making and registering would leave it behind.
        stack.callback(_remove_namespace, name)
        _ip("netns", "add", name)
        _ip("-n", name, "link", "set", "lo", "up")
        yield name


def _remove_namespace(name: str) -> None:
    if (NAMESPACES / name).exists():
        _ip("netns", "delete", name)


def sweep() -> list[str]:
    """Removes namespaces of processes that are no more, and returns their names.

    Processes that run in there are not touched; the links go with the namespace once they end.
    """
    removed = []
    for path in NAMESPACES.glob(f"{PREFIX}*"):
        match = NAME.fullmatch(path.name)
        if match and not Path(f"/proc/{match[1]}").exists():
            with contextlib.suppress(UserError):  # another process sweeps as well
                _ip("netns", "delete", path.name)
                removed.append(path.name)
    return removed


def socket_inside(
    name: str | None, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM
) -> socket.socket:
    """A socket that belongs to a network namespace (None: this process's), to be used from here."""
    if name is None:
        return socket.socket(family, kind)
    made: list[socket.socket | OSError] = []

    def make() -> None:
        # A namespace is a property of the thread: this one enters it and ends.
        try:
            with (NAMESPACES / name).open("rb") as file:
                libc = ctypes.CDLL(None, use_errno=True)
                failed = libc.setns(file.fileno(), CLONE_NEWNET)
            code = ctypes.get_errno()
            made.append(OSError(code, os.strerror(code), name) if failed else socket.socket(family, kind))
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]


def shape(space: str, device: str, wanted: Shape) -> None:
    """Shapes what leaves through a device; again with another shape to change it.

    Raises:
        UserError: the kernel has no netem.
    """
    tc = ("ip", "netns", "exec", space, require("tc", "iproute2"), "qdisc")
    words = wanted.netem()
    if words:
        _run(*tc, "replace", "dev", device, "root", "netem", *words)
    elif "netem" in _run(*tc, "show", "dev", device):
        _run(*tc, "del", "dev", device, "root")


@dataclasses.dataclass
class Lan:
    """A network of servers and one node: a switch, one namespace per server, a tap for the node.

    Only what we start ourselves in these namespaces can send a packet into them; none of them has a way out.

    Attributes:
        space: the node's namespace: its QEMU runs in it (``ip netns exec``) and opens the tap.
        tap: the node's tap device in it; empty if the node is the namespace itself.
        switch: the namespace of the bridge between all links.
        servers: namespace of each server.
        addresses: address of each server, in the same order.
    """

    space: str
    tap: str
    switch: str
    servers: Sequence[str]
    addresses: Sequence[str]
    node_address: str = NODE_ADDRESS
    prefix_length: int = PREFIX_LENGTH

    def shape_node(self, wanted: Shape) -> None:
        """Shapes both directions of the node's link."""
        shape(self.switch, NODE_PORT, wanted)
        shape(self.space, UPLINK, wanted)

    def plug(self, index: int, plugged: bool) -> None:
        """Pulls a server's cable out, or puts it back."""
        _ip("-n", self.switch, "link", "set", _port(index), "up" if plugged else "down")


def _port(index: int) -> str:
    return f"server{index}"


def _cable(switch: str, port: str, space: str) -> None:
    """A link from the switch to a namespace, where it is called :data:`UPLINK`."""
    _ip("-n", switch, "link", "add", port, "type", "veth", "peer", "name", UPLINK, "netns", space)
    _ip("-n", switch, "link", "set", port, "master", BRIDGE, "up")
    _ip("-n", space, "link", "set", UPLINK, "up")


@contextlib.contextmanager
def lan(servers: int = 1, tap: bool = True) -> Iterator[Lan]:
    """Makes a :class:`Lan`, and removes all of it at the end, however that comes.

    Without ``tap`` the node is the namespace itself: processes and NFS mounts in it have its address.

    Raises:
        UserError: no root rights, or the kernel lacks veth, bridge or tap.
    """
    sweep()
    with contextlib.ExitStack() as stack:
        switch = stack.enter_context(namespace("switch"))
        _ip("-n", switch, "link", "add", BRIDGE, "type", "bridge")
        _ip("-n", switch, "link", "set", BRIDGE, "up")
        names, addresses = [], []
        for index in range(servers):
            name = stack.enter_context(namespace("server"))
            address = SERVER_ADDRESS.format(FIRST_SERVER + index)
            _cable(switch, _port(index), name)
            _ip("-n", name, "address", "add", f"{address}/{PREFIX_LENGTH}", "dev", UPLINK)
            names.append(name)
            addresses.append(address)
        space = stack.enter_context(namespace("node"))
        _cable(switch, NODE_PORT, space)
        if tap:
            # The tap has no other end of ours that could be shaped: a second bridge joins it to the cable.
            _ip("-n", space, "link", "add", BRIDGE, "type", "bridge")
            _ip("-n", space, "link", "set", BRIDGE, "up")
            _ip("-n", space, "tuntap", "add", "dev", TAP, "mode", "tap")
            for device in (TAP, UPLINK):
                _ip("-n", space, "link", "set", device, "master", BRIDGE, "up")
        else:
            _ip("-n", space, "address", "add", f"{NODE_ADDRESS}/{PREFIX_LENGTH}", "dev", UPLINK)
        yield Lan(space, TAP if tap else "", switch, names, addresses)
