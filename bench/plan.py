"""What is booted, in which order: variants of the node, links, and runs that interleave them."""

import dataclasses
from collections.abc import Mapping, Sequence

from orioncache.errors import UserError

# A node's network, the same with both clocks (bench/netns.py and guest/init.sh have these addresses as well).
NODE_IP = "10.77.0.1:::255.255.255.0:node:eth0:none"
RAM_DIRECTORY = "/bench/tmpfs"
# Where guest/nbd-mount.sh mounts the image; the server's address is all that it is told.
NBD_DIRECTORY = "/bench/nbd"


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way for a node to get its root.

    Attributes:
        name: what ``--variant`` calls it.
        help: one line.
        source: where the root comes from: ``nfs`` (one server, mounted as the overlay's lower layer),
            ``orion`` (the cache over all servers), ``nbd`` (a squashfs image, one server's block device) or
            ``ram`` (a copy in the guest's memory, made before the clock starts).
        released: the servers export a release of the root, and not the tree itself.
        bundled: that release has a bundle, made from a recorded boot.
        nfs_options: mount options besides those that the node's init gives to every NFS mount, with commas.
        readahead_kb: of the NFS mounts, set once they are there; None leaves the kernel's.
        words: further words for the kernel command line.
    """

    name: str
    help: str
    source: str
    released: bool = False
    bundled: bool = False
    nfs_options: str = ""
    readahead_kb: int | None = None
    words: Sequence[str] = ()

    @property
    def records(self) -> bool:
        """Whether its cache can record a trace."""
        return self.source == "orion" and self.released

    def command_line(self, servers: Sequence[str], path: str) -> list[str]:
        """Words for the kernel command line.

        Args:
            servers: addresses.
            path: what they export.
        """
        words = list(self.words)
        if self.source == "ram":
            words += [f"root=dir:{RAM_DIRECTORY}", "bench.tmpfs=1"]
        elif self.source == "nbd":
            words += [f"root=dir:{NBD_DIRECTORY}", f"bench.nbd={servers[0]}"]
        elif self.source == "orion":
            words += ["root=orion:" + ",".join(f"{server}:{path}" for server in servers)]
        else:
            words += [f"root=nfs4:{servers[0]}:{path}"]
        if self.source not in ("ram", "nbd"):
            words.append(f"orion.ip={NODE_IP}")
        if self.nfs_options:
            words.append(f"orion.nfsopts={self.nfs_options}")
        if self.readahead_kb is not None:
            words.append(f"bench.readahead={self.readahead_kb}")
        return words


# The node's init gives every NFS mount vers=4.1, nocto and an attribute cache of an hour, `nfs` too.
VARIANTS: Mapping[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("nfs", "plain NFS 4.1 (nocto, attributes cached for an hour) below the overlay", "nfs"),
        Variant(
            "nfs-tuned",
            "the best of plain NFS: 4 connections, 1 MiB reads, 2 MiB of readahead",
            "nfs",
            nfs_options="nconnect=4,rsize=1048576,noatime",
            readahead_kb=2048,
        ),
        Variant(
            "nfs-softerr",
            "plain NFS whose reads fail when the server is silent",
            "nfs",
            nfs_options="softerr",
        ),
        Variant("nfs-hard", "plain NFS whose reads wait for ever, as `nfs` does", "nfs", nfs_options="hard"),
        Variant(
            "orion",
            "the cache over all servers, which have a release of the root",
            "orion",
            released=True,
            words=("orion.bundle=off",),
        ),
        Variant(
            "orion-profile",
            "the same with a bundle of what a recorded boot read",
            "orion",
            released=True,
            bundled=True,
            words=("orion.bundle=default",),
        ),
        Variant("orion-live", "the cache over all servers, which have the plain tree", "orion"),
        Variant("nbd-squashfs", "an lz4 squashfs image from an nbd-server: what LTSP's nodes have", "nbd"),
        Variant("ram", "the whole root in RAM before the clock starts: the limit", "ram"),
    )
}


@dataclasses.dataclass(frozen=True)
class Link:
    """The path between the node and each server.

    Attributes:
        rtt_ms: round-trip time; each direction gets half.
        rate_mbit: of the node's link, in each direction; None: not limited.
        jitter_ms: the delay in each direction varies by up to this much.
        loss_percent: of packets lost, in each direction.
    """

    rtt_ms: float
    rate_mbit: float | None = None
    jitter_ms: float = 0.0
    loss_percent: float = 0.0

    def command_line(self) -> list[str]:
        """Words that tell guest/init.sh to shape its links so."""
        words = [f"bench.delay={self.rtt_ms * 500:.0f}"]
        if self.jitter_ms:
            words.append(f"bench.jitter={self.jitter_ms * 1000:.0f}")
        if self.loss_percent:
            words.append(f"bench.loss={self.loss_percent:g}")
        if self.rate_mbit is not None:
            words.append(f"bench.rate={self.rate_mbit:g}")
        return words


@dataclasses.dataclass(frozen=True)
class Run:
    """One boot to be done.

    Attributes:
        variant: how the node gets its root.
        link: to its servers.
        number: counts from 1 within one variant and link; also the seed of the guest's random numbers.
        trouble: ``--fault``'s words for what happens in it; empty for a faultless boot that is probed in the
            same way; None: it is not probed.
        words: what the guest is told of that.
    """

    variant: Variant
    link: Link
    number: int
    trouble: str | None = None
    words: Sequence[str] = ()

    @property
    def name(self) -> str:
        """A name for logs that no other run of the plan has."""
        trouble = "" if self.trouble is None else f"-{self.trouble or 'faultless'}"
        return f"{self.variant.name}-rtt{self.link.rtt_ms:g}{trouble}-run{self.number}"


def choose(names: Sequence[str]) -> list[Variant]:
    """The variants of these names, in this order.

    Raises:
        UserError: there is none of that name, or one is named twice.
    """
    for name in names:
        if name not in VARIANTS:
            raise UserError(f"there is no variant '{name}'", f"--variant takes {', '.join(VARIANTS)}")
        if names.count(name) > 1:
            raise UserError(f"--variant names {name} twice", "name each once; --runs repeats them")
    return [VARIANTS[name] for name in names]


def plan(variants: Sequence[Variant], links: Sequence[Link], runs: int) -> list[Run]:
    """All boots, interleaved: variants alternate, and every round begins with another one.

    What changes on the machine while the bench goes on then falls on all variants alike.
    """
    ordered = []
    for number in range(1, runs + 1):
        for position, link in enumerate(links):
            shift = (number - 1 + position) % len(variants)
            ordered += [Run(variant, link, number) for variant in (*variants[shift:], *variants[:shift])]
    return ordered
