"""The table for people."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from orioncache.bench.fs.figures import Figure

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_WIDTH = 180  # where the output is no terminal
WIDTH_FOR_NOTES = 100


def table(figures: Sequence[Figure], console: "Console | None" = None) -> None:
    """Prints each figure with its bar, and what could not be measured.

    Args:
        figures: what was measured.
        console: where to; None for standard output.
    """
    from rich.console import Console  # noqa: PLC0415 # only the workbench has rich
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    if console is None:
        console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)
    grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    columns = [("", "left"), ("bar", "right"), ("figure", "right"), ("", "left")]
    if any(figure.low is not None for figure in figures):
        columns.insert(3, ("middle half", "left"))
    for header, justify in columns:
        right = justify == "right"
        grid.add_column(header, justify="right" if right else "left", no_wrap=header != "", overflow="fold")
    notes = console.width >= WIDTH_FOR_NOTES
    if notes:
        grid.add_column("", style="dim")
    for figure in figures:
        cells = [escape(figure.what), bar(figure), value(figure), _verdict(figure)]
        if len(columns) > len(cells):
            cells.insert(3, middle(figure))
        grid.add_row(*cells, *([escape(figure.note)] if notes else []))
    console.print(grid)
    failed = [figure for figure in figures if figure.error]
    for figure in failed:
        console.print(f"[red]{figure.cell}[/]: {escape(figure.error or '')}", soft_wrap=True)
    console.print()
    console.print(closing(figures))


def bar(figure: Figure) -> str:
    """The bar as text."""
    if figure.bar is None or figure.value is None:
        return ""
    if figure.bar == 0:
        return "0"
    return f"{'≤' if figure.better == 'less' else '≥'} {_number(figure.bar)} {figure.unit}".rstrip()


def value(figure: Figure) -> str:
    """The figure with its unit."""
    return "–" if figure.value is None else f"{_number(figure.value)} {figure.unit}".rstrip()


def middle(figure: Figure) -> str:
    """Between which values the middle half of all turns lie."""
    if figure.low is None or figure.high is None:
        return ""
    return f"{_number(figure.low)} – {_number(figure.high)}"


def closing(figures: Sequence[Figure]) -> str:
    """The last line."""
    judged = [figure.met for figure in figures if figure.met is not None]
    return f"{judged.count(True)} of {len(judged)} bars met" if judged else "no figure here has a bar"


def _verdict(figure: Figure) -> str:
    return {True: "[green]met[/]", False: "[red]missed[/]", None: ""}[figure.met]


def _number(number: float) -> str:
    if number == int(number) and abs(number) < 1e9:
        return f"{int(number):,}"
    return f"{number:.2f}" if abs(number) < 100 else f"{number:,.0f}"
