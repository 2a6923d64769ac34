"""A cache's status as metrics, in Prometheus' text format 0.0.4.

https://prometheus.io/docs/instrumenting/exposition_formats/. Every figure is one that the status has; what it
lacks is left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# What a server may be, as docs/failover.md tells.
STATES = ("unknown", "good", "slow", "suspect", "dead", "quarantined")

MS = 1e-3


class Metric(NamedTuple):
    """One metric.

    Attributes:
        name: without the prefix of its table.
        kind: ``counter`` or ``gauge``.
        key: where the status has it; dots lead into tables.
        help: one line.
        factor: from the status's unit to that of the name.
        labels: more than the table's.
    """

    name: str
    kind: str
    key: str
    help: str
    factor: float = 1
    labels: Mapping[str, str] = {}


# Of the whole cache: orioncache_…
CACHE: Sequence[Metric] = (
    Metric("uptime_seconds", "gauge", "uptime_s", "Since this daemon began to serve."),
    Metric("daemon_restarts_total", "counter", "daemon.restarts", "Daemons that took a dead one's place."),
    Metric("switches_total", "counter", "failover.switches", "Times that another server became current."),
    Metric("hedges_total", "counter", "failover.hedges", "Reads that were sent to a second server as well."),
    Metric("hedges_won_total", "counter", "failover.hedges_won", "Of these, answered first by the second."),
    Metric("resent_total", "counter", "failover.resent", "Reads taken from a server and sent again."),
    Metric("stalls_total", "counter", "failover.stalls", "Reads that waited for longer than 200 ms."),
    Metric("longest_stall_seconds", "gauge", "failover.longest_stall_ms", "The longest wait of a read.", MS),
    Metric("waiting_reads", "gauge", "failover.waiting", "Reads that wait because no server answers."),
    Metric("extra_reads_ratio", "gauge", "failover.extra_reads_pct", "Reads more than needed.", 1e-2),
    Metric("cache_hits_total", "counter", "cache.hits", "Blocks found in RAM.", 1, {"level": "raw"}),
    Metric("cache_hits_total", "counter", "cache.packed_hits", "", 1, {"level": "packed"}),
    Metric("cache_hits_total", "counter", "cache.zero_hits", "", 1, {"level": "zero"}),
    Metric("cache_misses_total", "counter", "cache.misses", "Blocks looked for in RAM and not found."),
    Metric("cache_evictions_total", "counter", "cache.evictions", "Blocks that were dropped for others."),
    Metric("cache_verify_failures_total", "counter", "cache.verify_failures", "Blocks found spoilt in RAM."),
    Metric("cache_bytes", "gauge", "cache.raw_bytes", "RAM that blocks take.", 1, {"level": "raw"}),
    Metric("cache_bytes", "gauge", "cache.packed_bytes", "", 1, {"level": "packed"}),
    Metric("cache_limit_bytes", "gauge", "cache.cache_size", "RAM they may take.", 1, {"level": "raw"}),
    Metric("cache_limit_bytes", "gauge", "cache.compressed_size", "", 1, {"level": "packed"}),
    Metric("cache_blocks", "gauge", "cache.raw_blocks", "Blocks in RAM.", 1, {"level": "raw"}),
    Metric("cache_blocks", "gauge", "cache.packed_blocks", "", 1, {"level": "packed"}),
    Metric("flights_total", "counter", "fetch.flights", "Reads of runs of blocks, each for all who wait."),
    Metric("demand_bytes_total", "counter", "fetch.demand_bytes", "Bytes read that somebody waited for."),
    Metric("ahead_bytes_total", "counter", "fetch.ahead_bytes", "Bytes read that nobody waited for."),
    Metric("failed_blocks_total", "counter", "fetch.failed_blocks", "Blocks that no server had good."),
    Metric("bundle_frames", "gauge", "bundle.frames", "Frames of the bundle."),
    Metric("bundle_landed_frames", "gauge", "bundle.landed", "Of these, read and unpacked."),
    Metric("bundle_failed_frames", "gauge", "bundle.failed", "Of these, not to be had."),
    Metric("fuse_reads_in_flight", "gauge", "fuse.reads_in_flight", "The kernel's reads under way."),
)

# Of each server: orioncache_server_…{server="SOURCE"}
SERVER: Sequence[Metric] = (
    Metric("current", "gauge", "current", "Whether it is the one that is asked first."),
    Metric("draining", "gauge", "draining", "Whether it gets no new reads."),
    Metric("reads_total", "counter", "reads", "Reads that it answered."),
    Metric("bytes_total", "counter", "bytes", "Bytes that it gave."),
    Metric("errors_total", "counter", "errors", "Reads that failed."),
    Metric("timeouts_total", "counter", "timeouts", "Reads that were not answered in time."),
    Metric("mismatches_total", "counter", "mismatches", "Answers that do not match their digest."),
    Metric("hedges_total", "counter", "hedges", "Its reads that were sent to a second server as well."),
    Metric("hedges_won_total", "counter", "hedges_won", "Of these, answered first by the other one."),
    Metric("resent_total", "counter", "resent", "Its reads that were sent again to others."),
    Metric("switches_total", "counter", "switches", "Times that it became current."),
    Metric("abandoned_total", "counter", "abandoned", "Threads that were given up."),
    Metric("stuck_threads", "gauge", "stuck", "Of these, still in a read."),
    Metric("pending_reads", "gauge", "pending", "Reads under way."),
    Metric("latency_seconds", "gauge", "latency_ms.p50", "Of the last reads.", MS, {"quantile": "0.5"}),
    Metric("latency_seconds", "gauge", "latency_ms.p95", "", MS, {"quantile": "0.95"}),
    Metric("latency_seconds", "gauge", "latency_ms.p99", "", MS, {"quantile": "0.99"}),
    Metric("latency_ewma_seconds", "gauge", "latency_ms.ewma", "Of the last reads, the latest the most.", MS),
)


def metrics_of(status: Mapping[str, Any]) -> str:
    """The metrics of a status document."""
    lines = _Lines()
    release = status.get("release") or {}
    lines.add(
        "build_info",
        "gauge",
        "What runs, and what it serves.",
        1,
        {
            **{key: str(status[key]) for key in ("version", "engine", "mode", "mountpoint")},
            "release": f"{release.get('name', '')} {release.get('version', '')}".strip(),
        },
    )
    for metric in CACHE:
        lines.take(metric, status, metric.name, {})
    servers = status["servers"]
    for server in servers:
        for state in dict.fromkeys((*STATES, server["state"])):
            lines.add(
                "server_state",
                "gauge",
                "1 for the state that it is in.",
                server["state"] == state,
                {"server": server["source"], "state": state},
            )
    for metric in SERVER:
        for server in servers:
            lines.take(metric, server, f"server_{metric.name}", {"server": server["source"]})
    for kind, count in sorted(status["fuse"]["upcalls"].items()):
        lines.add("fuse_upcalls_total", "counter", "The kernel's requests.", count, {"op": kind})
    return "".join(lines.all())


class _Lines:
    """The text so far; what has one name stands together, in the order of first mention."""

    def __init__(self) -> None:
        self._families: dict[str, list[str]] = {}

    def take(self, metric: Metric, found: object, name: str, labels: Mapping[str, str]) -> None:
        """Adds a metric from the document that has it, if that has it."""
        for key in metric.key.split("."):
            found = found.get(key) if isinstance(found, dict) else None
        if isinstance(found, int | float):
            value = found if metric.factor == 1 else found * metric.factor
            self.add(name, metric.kind, metric.help, value, {**labels, **metric.labels})

    def add(self, name: str, kind: str, help: str, value: float, labels: Mapping[str, str]) -> None:
        """Adds one sample; help counts with the first one of a name."""
        name = f"orioncache_{name}"
        family = self._families.setdefault(
            name, [f"# HELP {name} {_escaped(help)}\n", f"# TYPE {name} {kind}\n"]
        )
        inner = ",".join(f'{key}="{_escaped(text, quote=True)}"' for key, text in labels.items())
        family.append(f"{name}{{{inner}}} {_number(value)}\n" if inner else f"{name} {_number(value)}\n")

    def all(self) -> Iterator[str]:
        """Line by line."""
        for family in self._families.values():
            yield from family


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(f"{value:.9g}"))


def _escaped(text: str, *, quote: bool = False) -> str:
    text = text.replace("\\", r"\\").replace("\n", r"\n")
    return text.replace('"', r"\"") if quote else text
