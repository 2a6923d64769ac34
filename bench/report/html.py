"""The page: one HTML file that loads nothing, for a browser or a mail.

The bars are plain boxes whose widths are in the style sheet. Plotly was weighed: its script alone makes every
page 4.8 MB, and what it adds to a row of stacked bars is a toolbar. Waterfalls
are drawn by a script of 12 kB.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orioncache.bench.fs import report as figures
from orioncache.bench.report.bars import bars
from orioncache.bench.report.faults import matrices
from orioncache.bench.report.summary import PHASES, SPREAD_LIMIT, Cell, cells, one_line, seconds
from orioncache.bench.report.timeline import timeline
from orioncache.bench.sample import Document
from orioncache.bench.waterfall.figure import Recorded, fetched, figure
from orioncache.bench.waterfall.uses import USES

TEMPLATES = Path(__file__).parent.parent / "pages"
TICKS = 5


def page(document: Document, recorded: Sequence[Recorded] = ()) -> str:
    """The whole page; whatever comes from a guest or from the command line is escaped.

    Args:
        document: what was measured.
        recorded: the boots that are shown as waterfalls.
    """
    import jinja2  # noqa: PLC0415 # only the workbench has jinja2
    import markupsafe  # noqa: PLC0415

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        seconds=seconds, one_line=one_line, count=_count, percent=_percent, ratio=_ratio
    )
    found = cells(document)
    groups = [
        _group([cell for cell in found if cell.link == link]) for link in dict.fromkeys(c.link for c in found)
    ]
    return environment.get_template("report.html").render(
        schema=document.schema,
        phases=PHASES,
        groups=groups,
        cells=found,
        failed=[sample for cell in found for sample in cell.failed],
        samples=document.samples,
        environment=flat(document.environment),
        spread_limit=SPREAD_LIMIT,
        headline=_headline(found),
        bars=[(each, figures.bar(each), figures.value(each)) for each in bars(document)],
        faults=[timeline(matrix) for matrix in matrices(document)],
        waterfalls=[
            {
                "title": each.title,
                "figure": figure(each),
                "fetched": fetched(each.judged),
                "is_touched_known": each.is_touched_known,
            }
            for each in recorded
        ],
        uses=USES,
        script=markupsafe.Markup((TEMPLATES / "waterfall.js").read_text()),
        repeated=any(len(cell.runs) > 1 for cell in found),
    )


def flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested dictionaries as (dotted name, text) in their order."""
    result: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            result += flat(value, f"{name}.")
        elif isinstance(value, list | tuple):
            result.append((name, " ".join(str(item) for item in value)))
        else:
            result.append((name, "" if value is None else str(value)))
    return result


def _group(found: list[Cell]) -> dict[str, Any]:
    """One chart: the cells of one link on a common scale that ends at a round number of seconds."""
    longest = max((sample.boot_s or 0.0 for cell in found for sample in cell.runs), default=0.0)
    step = _round_step(longest / TICKS)
    end = max(step, math.ceil(longest / step - 1e-9) * step)
    ticks = [index * step for index in range(round(end / step) + 1)]
    rows = []
    for cell in found:
        boots = [sample.boot_s for sample in cell.runs if sample.boot_s is not None]
        total = sum(cell.phases_s.values())
        # Nested medians need not sum up to the median: the bar is as long as the boot.
        scale = (cell.boot_s or 0.0) / total if total else 0.0
        rows.append(
            {
                "cell": cell,
                "bars": [(phase, value, 100 * value * scale / end) for phase, value in cell.phases_s.items()],
                "least": 100 * min(boots) / end if len(boots) > 1 else None,
                "most": 100 * max(boots) / end if len(boots) > 1 else None,
            }
        )
    return {
        "link": found[0].link,
        "rows": rows,
        "ticks": [(f"{tick:g}", 100 * tick / end) for tick in ticks],
    }


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, … (and their tenths) that is not below ``least``."""
    if least <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(least))
    return next(round(factor * power, 9) for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def _headline(found: list[Cell]) -> list[tuple[str, str, str]]:
    """For each link: how the cache's boot compares with plain NFS, as (figure, unit, what it says)."""
    return [
        (seconds(cell.boot_s), "s", f"orion at {cell.link.title}, {_ratio(cell.to_nfs)} of plain NFS")
        for cell in found
        if cell.variant == "orion" and cell.boot_s is not None and cell.to_nfs is not None
    ]


def _count(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _percent(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f}%"


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}×"
