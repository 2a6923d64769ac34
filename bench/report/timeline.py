"""Boots with faults as lanes on one time axis, for the page: phases, the fault, and every stall."""

import math
from collections.abc import Sequence
from typing import Any

from orioncache.bench.report.faults import Held, Matrix, is_cache
from orioncache.bench.report.summary import PHASES
from orioncache.bench.sample import Sample

TICKS = 5
# The axis ends where the boots of the cache do: a node over plain NFS may wait for minutes.
SHORTEST_S = 2.5


def timeline(matrix: Matrix) -> dict[str, Any]:
    """What the page's template draws of a matrix: positions are percents of the axis."""
    rows = {"no fault": matrix.faultless, **matrix.rows}
    end = _end(matrix)
    return {
        "link": matrix.link,
        "variants": matrix.variants,
        "ticks": [(f"{end * index / TICKS:g}", 100 * index / TICKS) for index in range(TICKS + 1)],
        "rows": [
            {
                "fault": fault,
                "lanes": [_lane(name, row[name], end) for name in matrix.variants if name in row],
            }
            for fault, row in rows.items()
        ],
    }


def _end(matrix: Matrix) -> float:
    held = [
        each
        for row in (matrix.faultless, *matrix.rows.values())
        for name, each in row.items()
        if is_cache(name) or len(matrix.variants) == 1
    ]
    boots = [sample.boot_s for each in held for sample in each.samples if sample.boot_s is not None]
    return math.ceil(max([SHORTEST_S, *boots]) / (TICKS / 2)) * TICKS / 2


def _lane(variant: str, held: Held, end: float) -> dict[str, Any]:
    sample = held.samples[0]
    probe = sample.probe
    return {
        "variant": variant,
        "held": held,
        "bars": _bars(sample, end),
        "fault": _cut(probe.fault_at_s, end) if probe and probe.fault_at_s is not None else None,
        "ended": _cut(probe.fault_end_s, end) if probe and probe.fault_end_s is not None else None,
        "stalls": [
            (stall.length_s, left, max(0.2, _cut(stall.at_s + stall.length_s, end) - left))
            for stall in (probe.stalls if probe else ())
            if (left := _cut(stall.at_s, end)) < 100
        ],
        # The worst of several runs is not the one that is drawn.
        "is_cut": sample.boot_s is None or sample.boot_s > end,
    }


def _bars(sample: Sample, end: float) -> Sequence[tuple[str, float, float]]:
    bars, at = [], 0.0
    for phase in PHASES if sample.phases_s is not None else ():
        value = getattr(sample.phases_s, phase)
        bars.append((phase, value, _cut(at + value, end) - _cut(at, end)))
        at += value
    return bars


def _cut(seconds: float, end: float) -> float:
    return min(100.0, 100 * seconds / end)
