"""What trials say, and the bars that it is held against."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from orioncache.bench.fs.figures import Figure
from orioncache.bench.hedge.measuring import CONDITIONS, Trial

SCHEMA = "orioncache.bench.hedge/1"

# Percent of all reads that may be asked for twice while all servers are well.
EXTRA_READS = 5.0
# Of p99.9 without hedges, with one server late.
TAIL = 0.2
QUANTILES = (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))


@dataclasses.dataclass(frozen=True)
class Document:
    """What ``--json`` writes.

    Attributes:
        schema: :data:`SCHEMA`; a change that breaks readers changes it.
        environment: the machine, versions, commit and the command that was given.
        figures: the table.
        trials: all that was measured, in that order.
    """

    schema: str
    environment: dict[str, Any]
    figures: list[Figure]
    trials: list[Trial]


def figures(trials: Sequence[Trial]) -> list[Figure]:
    """The table: first what is judged, then what it comes from."""
    of = {each.name: [trial for trial in trials if trial.condition == each.name] for each in CONDITIONS}
    tails = {name: quantile(latencies(some), 0.999) for name, some in of.items()}
    judged = [
        Figure(
            "healthy",
            "extra upstream reads, all servers well",
            extra_reads(of["healthy"]),
            "%",
            EXTRA_READS,
            note=f"{count(of['healthy'], 'hedges')} hedges; probes are counted as well",
        ),
        Figure(
            "hedged",
            "p99.9 of reads with one server late, hedged to not hedged",
            tails["hedged"] / tails["unhedged"],
            "×",
            TAIL,
            note=f"{tails['hedged']:.1f} to {tails['unhedged']:.1f} ms",
        ),
    ]
    return judged + [figure for each in CONDITIONS for figure in _told(each.name, each.help, of[each.name])]


def latencies(trials: Sequence[Trial]) -> list[float]:
    """All of them, in ms, shortest first."""
    return sorted(latency for trial in trials for latency in trial.latencies_ms)


def quantile(ascending: Sequence[float], share: float) -> float:
    """The least of them that so many are no more than."""
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))]


def extra_reads(trials: Sequence[Trial]) -> float:
    """Reads that servers were asked for beyond one for each block, in percent."""
    blocks = sum(trial.reads for trial in trials)
    return 100 * (sum(sum(trial.by_server) for trial in trials) - blocks) / blocks


def count(trials: Sequence[Trial], name: str) -> int:
    """One of the cache's own counters of failover."""
    return sum(trial.failover[name] for trial in trials)


def _told(name: str, what: str, trials: Sequence[Trial]) -> list[Figure]:
    ascending = latencies(trials)
    found = [Figure(name, f"{what}: {label}", quantile(ascending, share), "ms") for label, share in QUANTILES]
    asked = [sum(each) for each in zip(*(trial.by_server for trial in trials), strict=True)]
    note = f"asked {' and '.join(map(str, asked))} times, {sum(trial.late for trial in trials)} answers late"
    note += "".join(f", {count(trials, name)} {name}" for name in ("hedges", "resent", "switches"))
    if name != "healthy":
        found.append(Figure(name, f"{what}: extra reads", extra_reads(trials), "%"))
    found[0] = dataclasses.replace(found[0], note=note)
    return found
