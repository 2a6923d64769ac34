"""Samples made into cells: medians, spread and ratios for each variant on each link."""

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from orioncache.bench.sample import Document, Sample

PHASES = ("kernel", "initramfs", "userland")
MIB = 1 << 20

# The virtual clock repeats; runs of one cell that differ by more than this are not to be trusted.
SPREAD_LIMIT = 0.01


@dataclasses.dataclass(frozen=True, order=True)
class Link:
    """The network between a node and its servers, and the clock that it was timed with."""

    rtt_ms: float
    rate_mbit: float | None
    jitter_ms: float
    loss_percent: float
    clock: str

    @property
    def is_plain(self) -> bool:
        """Whether it has a delay alone."""
        return self.rate_mbit is None and not self.jitter_ms and not self.loss_percent

    @property
    def title(self) -> str:
        """In words: ``RTT 1 ms, 100 Mbit/s``."""
        parts = [f"RTT {self.rtt_ms:g} ms"]
        if self.jitter_ms:
            parts[0] += f" ± {self.jitter_ms:g} ms"
        if self.rate_mbit is not None:
            parts.append(f"{self.rate_mbit:g} Mbit/s")
        if self.loss_percent:
            parts.append(f"{self.loss_percent:g}% lost")
        return ", ".join(parts)


@dataclasses.dataclass(frozen=True)
class Cell:
    """All runs of one variant on one link.

    Attributes:
        variant: its name.
        link: the link.
        runs: every sample, failed ones too.
        phases_s: median seconds by phase over the runs that came to their end; empty if none did.
        boot_s: median of their sums, so it may differ from the sum of the medians; None if none did.
        spread: see :func:`spread`.
        to_nfs: boot_s in units of that of ``nfs`` on the same link; None without one.
        to_ram: the same for ``ram``.
        calls: median of RPCs that the node sent.
        read_mb: median of MiB read from servers, over NFS or NBD.
        nbd_reads: median of reads from a block device on a server; None without one.
        hit_ratio: median of :func:`hit_ratio`; None without a cache.
        memory_mb: median of MiB in use by the guest when ready.
        daemon_mb: median of MiB resident in the cache's process; None without a cache.
        beside_mb: median of :func:`beside_blocks`; None without a cache.
        upcalls: median of requests that the kernel sent to the cache; None without a cache.
        release: what the cache served, as :func:`release_of` puts it; of several: all of them.
    """

    variant: str
    link: Link
    runs: Sequence[Sample]
    phases_s: dict[str, float]
    boot_s: float | None
    spread: float | None
    to_nfs: float | None
    to_ram: float | None
    calls: float | None
    read_mb: float | None
    nbd_reads: float | None
    hit_ratio: float | None
    memory_mb: float | None
    daemon_mb: float | None
    beside_mb: float | None
    upcalls: float | None
    release: str

    @property
    def failed(self) -> Sequence[Sample]:
        """The runs that did not come to their end."""
        return [sample for sample in self.runs if not sample.ok]


def link_of(sample: Sample) -> Link:
    """The link that a sample was taken on."""
    return Link(sample.rtt_ms, sample.rate_mbit, sample.jitter_ms, sample.loss_percent, sample.clock)


def spread(samples: Sequence[Sample]) -> float | None:
    """(longest boot - shortest) / median, of the runs that came to their end; None with fewer than two."""
    boots = [sample.boot_s for sample in samples if sample.ok and sample.boot_s is not None]
    if len(boots) < 2:
        return None
    return (max(boots) - min(boots)) / statistics.median(boots)


def hit_ratio(status: dict[str, Any]) -> float | None:
    """The part of what a cache was asked for that took no read on a server; None if it was asked nothing.

    The store's own misses would leave out what its index did not know, which is not looked up in it at all.
    """
    counts, servers = status.get("cache"), status.get("servers")
    if not isinstance(counts, dict) or not isinstance(servers, list):
        return None
    hits = sum(_number(counts.get(name)) for name in ("hits", "packed_hits", "zero_hits"))
    reads = sum(_number(server.get("reads")) for server in servers if isinstance(server, dict))
    return hits / (hits + reads) if hits + reads else None


def upcalls(status: dict[str, Any]) -> float | None:
    """All requests of the kernel's that reached a cache's process; None without a cache."""
    fuse = status.get("fuse")
    counts = fuse.get("upcalls") if isinstance(fuse, dict) else None
    return sum(map(_number, counts.values())) if isinstance(counts, dict) else None


def read_mb(sample: Sample) -> float | None:
    """MiB read from servers, by whatever protocol; None if the guest did not say."""
    found = [each.read_bytes for each in (sample.nfs, sample.nbd) if each is not None]
    return sum(found) / MIB if found else None


def beside_blocks(sample: Sample) -> float | None:
    """Megabytes (10⁶ bytes) that a cache's process has in RAM beside the blocks that it is there to keep."""
    counts, resident = sample.cache.get("cache"), sample.memory_mb.get("daemon_rss")
    if not isinstance(counts, dict) or resident is None:
        return None
    return (resident * MIB - sum(_number(counts.get(name)) for name in ("raw_bytes", "packed_bytes"))) / 1e6


def release_of(status: dict[str, Any]) -> str:
    """``NAME VERSION (DIGEST)`` of the release that a cache served; empty if it served none."""
    found = status.get("release")
    if not isinstance(found, dict):
        return ""
    return one_line(f"{found.get('name')} {found.get('version')} ({found.get('digest')})")


def _number(value: object) -> float:
    return value if isinstance(value, int | float) else 0.0


def _median(samples: Sequence[Sample], value: Callable[[Sample], float | None]) -> float | None:
    values = [found for sample in samples if (found := value(sample)) is not None]
    return statistics.median(values) if values else None


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


def cells(document: Document) -> list[Cell]:
    """One cell for each variant on each link: links by RTT, variants in the order in which they first ran.

    Boots with a fault are none of theirs.
    """
    samples = [sample for sample in document.samples if not sample.fault]
    variants = list(dict.fromkeys(sample.variant for sample in samples))
    links = sorted({link_of(sample) for sample in samples}, key=_link_order)
    result = []
    for link in links:
        here = [sample for sample in samples if link_of(sample) == link]
        boots = {name: _median(_good(here, name), lambda sample: sample.boot_s) for name in variants}
        for name in variants:
            runs = [sample for sample in here if sample.variant == name]
            if runs:
                result.append(_cell(name, link, runs, boots))
    return result


def _link_order(link: Link) -> tuple[float, ...]:
    rate = -link.rate_mbit if link.rate_mbit is not None else float("-inf")
    return (float(link.clock == "wall"), link.rtt_ms, rate, link.jitter_ms, link.loss_percent)


def _good(samples: Sequence[Sample], variant: str) -> list[Sample]:
    return [sample for sample in samples if sample.variant == variant and sample.ok]


def _cell(variant: str, link: Link, runs: Sequence[Sample], boots: dict[str, float | None]) -> Cell:
    good = _good(runs, variant)
    boot = boots[variant]
    timed = [sample.phases_s for sample in good if sample.phases_s is not None]
    phases = {name: statistics.median(getattr(phases, name) for phases in timed) for name in PHASES if timed}
    return Cell(
        variant=variant,
        link=link,
        runs=runs,
        phases_s=phases,
        boot_s=boot,
        spread=spread(runs),
        to_nfs=_ratio(boot, boots.get("nfs")),
        to_ram=_ratio(boot, boots.get("ram")),
        calls=_median(good, lambda sample: sample.nfs.calls if sample.nfs else None),
        read_mb=_median(good, read_mb),
        nbd_reads=_median(good, lambda sample: sample.nbd.requests if sample.nbd else None),
        hit_ratio=_median(good, lambda sample: hit_ratio(sample.cache)),
        memory_mb=_median(good, lambda sample: sample.memory_mb.get("used")),
        daemon_mb=_median(good, lambda sample: sample.memory_mb.get("daemon_rss")),
        beside_mb=_median(good, beside_blocks),
        upcalls=_median(good, lambda sample: upcalls(sample.cache)),
        release=", ".join(dict.fromkeys(found for sample in good if (found := release_of(sample.cache)))),
    )


def widest(found: Sequence[Cell]) -> Cell | None:
    """The cell whose runs differ most; None if no cell has two runs."""
    spreads = [cell for cell in found if cell.spread is not None]
    return max(spreads, key=lambda cell: cell.spread or 0.0, default=None)


def seconds(value: float | None) -> str:
    """Seconds with three digits that mean something."""
    if value is None:
        return "–"
    return f"{value:.3f}" if value < 10 else f"{value:.2f}"


def one_line(text: str | None, limit: int = 300) -> str:
    """Text from a guest, fit for a line: without control characters, and not longer than ``limit``."""
    plain = "".join(char if char.isprintable() else " " for char in text or "")
    plain = " ".join(plain.split())
    return plain if len(plain) <= limit else plain[: limit - 1] + "…"
