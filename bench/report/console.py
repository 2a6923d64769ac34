"""The console's table."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from orioncache.bench.report.summary import (
    PHASES,
    SPREAD_LIMIT,
    Cell,
    cells,
    one_line,
    seconds,
    widest,
)
from orioncache.bench.sample import Document

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

# Where the output is no terminal (a file, a pipe), it is as wide as the table wants.
PLAIN_WIDTH = 140
BAR_WIDTH = 24
# From this width on there is room for the bars.
BAR_FROM = 124
COLOURS = {"kernel": "blue", "initramfs": "cyan", "userland": "yellow"}


def table(document: Document, console: "Console | None" = None) -> None:
    """Prints the table, what failed, and how far the runs of a cell differ.

    Args:
        document: what was measured.
        console: where to; None for standard output.
    """
    from rich.console import Console  # noqa: PLC0415 # only the workbench has rich

    if console is None:
        console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)
    found = cells(document)
    if not found:
        console.print("nothing was measured")
        return
    for link in dict.fromkeys(cell.link for cell in found):
        _show_link(console, [cell for cell in found if cell.link == link])
    _show_failures(console, found)
    _show_spread(console, found)


def _show_link(console: "Console", found: Sequence[Cell]) -> None:
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    link = found[0].link
    grid = Table(
        box=box.SIMPLE_HEAD,
        title=f"{link.title} ({link.clock} clock)",
        title_justify="left",
        title_style="bold",
        pad_edge=False,
        header_style="dim",
    )
    repeated = any(len(cell.runs) > 1 for cell in found)
    bars = console.width >= BAR_FROM
    cached = any(cell.hit_ratio is not None for cell in found)
    grid.add_column("variant", no_wrap=True, style="bold")
    for phase in PHASES:
        grid.add_column(f"{phase} s", justify="right", no_wrap=True, style=COLOURS[phase])
    grid.add_column("boot s", justify="right", no_wrap=True, style="bold")
    if repeated:
        grid.add_column("spread", justify="right", no_wrap=True)
        grid.add_column("runs", justify="right", no_wrap=True)
    for name in ("× nfs", "× ram", "NFS calls", "MiB read"):
        grid.add_column(name, justify="right", no_wrap=True)
    if cached:
        grid.add_column("hits", justify="right", no_wrap=True)
    grid.add_column("used MiB", justify="right", no_wrap=True)
    if bars:
        grid.add_column("", no_wrap=True, width=BAR_WIDTH)
    longest = max((cell.boot_s for cell in found if cell.boot_s is not None), default=0.0)
    for cell in found:
        row: list[str | Text] = [cell.variant, *(seconds(cell.phases_s.get(phase)) for phase in PHASES)]
        row.append(seconds(cell.boot_s) if cell.boot_s is not None else "[red]failed[/]")
        if repeated:
            row += [_spread(cell), _runs(cell)]
        row += [_ratio(cell.to_nfs), _ratio(cell.to_ram), _whole(cell.calls), _tenths(cell.read_mb)]
        if cached:
            row.append(f"{100 * cell.hit_ratio:.0f}%" if cell.hit_ratio is not None else "")
        row.append(_whole(cell.memory_mb))
        if bars:
            row.append(_bar(cell, longest))
        grid.add_row(*row)
    console.print(grid)


def _bar(cell: Cell, longest: float) -> "Text":
    from rich.text import Text  # noqa: PLC0415

    bar = Text()
    done = at = 0.0
    for phase in PHASES:
        done += cell.phases_s.get(phase, 0.0)
        end = round(BAR_WIDTH * done / longest) if longest else 0
        bar.append("█" * int(end - at), style=COLOURS[phase])
        at = max(at, end)
    return bar


def _show_failures(console: "Console", found: Sequence[Cell]) -> None:
    from rich.markup import escape  # noqa: PLC0415

    failed = [sample for cell in found for sample in cell.failed]
    if not failed:
        return
    total = sum(len(cell.runs) for cell in found)
    console.print(
        f"[red bold]{len(failed)} of {total} boots failed[/]; the figures above are those of the others"
    )
    for sample in failed:
        where = f"{sample.variant} at {sample.rtt_ms:g} ms, run {sample.run}"
        console.print(f"  [red]{escape(where)}[/]: {escape(one_line(sample.error) or 'no reason given')}")
    console.print()


def _show_spread(console: "Console", found: Sequence[Cell]) -> None:
    cell = widest(found)
    if cell is None or cell.spread is None:
        return
    text = f"runs of a cell differ by at most {100 * cell.spread:.2f}% ({cell.variant}, {cell.link.title})"
    if cell.link.clock == "virtual" and cell.spread > SPREAD_LIMIT:
        text = f"[yellow]{text}: more than {100 * SPREAD_LIMIT:g}%, which the virtual clock should hold[/]"
    console.print(text)


def _spread(cell: Cell) -> str:
    if cell.spread is None:
        return "–"
    text = f"{100 * cell.spread:.2f}%"
    wide = cell.link.clock == "virtual" and cell.spread > SPREAD_LIMIT
    return f"[yellow]{text}[/]" if wide else text


def _runs(cell: Cell) -> str:
    good = len(cell.runs) - len(cell.failed)
    return str(good) if not cell.failed else f"[red]{good} of {len(cell.runs)}[/]"


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _whole(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _tenths(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f}"
