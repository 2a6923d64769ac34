"""Results as a table for people and as JSON for programs."""

from collections.abc import Sequence
from typing import Any

from orioncache.simulate.bounds import Bounds
from orioncache.simulate.experiment import Point
from orioncache.simulate.recording import Recording
from orioncache.simulate.result import Counted, Result

SCHEMA = "orioncache.simulate/1"


def document(
    recording: Recording, points: Sequence[Point], results: Sequence[Result], limits: Sequence[Bounds | None]
) -> dict[str, Any]:
    """All of it as one object for JSON."""
    return {
        "schema": SCHEMA,
        "trace": {
            "name": recording.name,
            "requests": len(recording.steps),
            "first_touches": recording.first_touches,
            "span_s": recording.span,
            "manifest": recording.manifest,
        },
        "points": [
            {
                "rtt_ms": point.scene.rtt_ms,
                "rate_mbit": point.scene.rate_mbit,
                "servers": point.scene.servers,
                "cache_size": point.scene.cache_size,
                "heuristics": point.heuristics,
                "varied": dict(point.varied),
                "result": result.as_dict(),
                "bounds": {"infinite_link_s": bound.infinite_link, "clairvoyant_s": bound.clairvoyant}
                if bound is not None
                else None,
            }
            for point, result, bound in zip(points, results, limits, strict=True)
        ],
    }


def lines(
    recording: Recording, points: Sequence[Point], results: Sequence[Result], limits: Sequence[Bounds | None]
) -> list[str]:
    """The results as text; for a single point with all its figures."""
    kind = "first touches" if recording.first_touches else "READs of the kernel"
    text = [
        f"{recording.name}: {len(recording.steps):,} {kind} in {recording.span:.3f} s",
        "",
    ]
    varied = list(dict.fromkeys(name for point in points for name in point.varied))
    shown = [name for name in varied if name not in ("rtt", "heuristic")]
    rows: list[tuple[str, ...]] = [
        ("RTT ms", "heuristics", *shown, "boot s", "ram s", "best s", "hits", "precision", "recall",
         "in time", "MiB read",
         "wasted", "reads")
    ]  # fmt: skip
    for point, result, bound in zip(points, results, limits, strict=True):
        figures = result.as_dict()
        rows.append(
            (
                f"{point.scene.rtt_ms:g}",
                point.heuristics if "heuristic" in varied or not varied else _names(point),
                *(point.varied.get(name, "") for name in shown),
                f"{result.seconds:.3f}",
                f"{bound.infinite_link:.3f}" if bound else "",
                f"{bound.clairvoyant:.3f}" if bound else "",
                f"{100 * result.hit_ratio:.0f}%",
                f"{100 * figures['precision']:.0f}%",
                f"{100 * figures['recall']:.0f}%",
                f"{100 * figures['timeliness']:.0f}%",
                f"{result.bytes_read / 2**20:.1f}",
                f"{figures['wasted_bytes'] / 2**20:.1f}",
                f"{result.server_reads:,}",
            )
        )
    text += table(rows)
    if len(points) == 1:
        text += ["", *_heuristics(results[0])]
    for point, result in zip(points, results, strict=True):
        text += [f"RTT {point.scene.rtt_ms:g} ms, {point.heuristics}: {event}" for event in result.events]
    return text


def _names(point: Point) -> str:
    names = [*(["bundle"] if point.bundle else []), *(choice.name for choice in point.choices)]
    return ",".join(names) or "none"


def _heuristics(result: Result) -> list[str]:
    rows: list[tuple[str, ...]] = [
        (
            "heuristic",
            "issued",
            "useful",
            "late",
            "wasted",
            "declined",
            "precision",
            "recall",
            "in time",
            "MiB",
            "wasted",
        )
    ]
    for name, each in result.heuristics.items():
        rows.append((name + (" (cut off)" if each.cut else ""), *_figures(each, result.blocks_demanded)))
    return table(rows) if len(rows) > 1 else []


def _figures(each: Counted, demanded: int) -> tuple[str, ...]:
    return (
        f"{each.issued:,}",
        f"{each.useful:,}",
        f"{each.late:,}",
        f"{each.wasted:,}",
        f"{each.declined:,}",
        f"{100 * each.precision:.0f}%",
        f"{100 * each.recall(demanded):.0f}%",
        f"{100 * each.timeliness:.0f}%",
        f"{each.issued_bytes / 2**20:.1f}",
        f"{each.wasted_bytes / 2**20:.1f}",
    )


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows in columns; texts to the left, figures to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    found = []
    for row in rows:
        cells = [
            cell.ljust(width) if rows[-1][column][:1].isalpha() else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        found.append("  ".join(cells).rstrip())
    return found
