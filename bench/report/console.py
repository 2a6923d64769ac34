"""The console's table."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from orioncache.bench.fs import report as figures
from orioncache.bench.report import matrix
from orioncache.bench.report.bars import bars
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
PLAIN_WIDTH = 150
BAR_WIDTH = 24
GAP = 2  # blanks between two columns
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
    matrix.table(document, console)
    held = bars(document)
    if held:
        figures.table(held, console)


@dataclasses.dataclass(frozen=True)
class _Column:
    """One column: the lower its rank, the longer it stays when the console is too narrow for all."""

    rank: int
    header: str
    cells: Sequence["Text"]
    style: str = ""

    @property
    def width(self) -> int:
        return max(len(self.header), *(cell.cell_len for cell in self.cells))


def _columns(found: Sequence[Cell]) -> list[_Column]:
    from rich.markup import escape  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    def column(rank: int, header: str, text: Callable[[Cell], str], style: str = "") -> _Column:
        return _Column(rank, header, [Text.from_markup(text(cell)) for cell in found], style)

    def phase(name: str) -> _Column:
        return column(1, name, lambda cell: seconds(cell.phases_s.get(name)), COLOURS[name])

    columns = [
        column(0, "variant", lambda cell: escape(cell.variant), "bold"),
        *(phase(name) for name in PHASES),
    ]
    columns.append(column(0, "boot", _boot, "bold"))
    if any(len(cell.runs) > 1 for cell in found):
        columns += [column(4, "spread", _spread), column(5, "runs", _runs)]
    columns.append(column(2, "× nfs", lambda cell: _ratio(cell.to_nfs)))
    columns.append(column(2, "× ram", lambda cell: _ratio(cell.to_ram)))
    columns.append(column(3, "NFS calls", lambda cell: _whole(cell.calls)))
    if any(cell.nbd_reads is not None for cell in found):
        columns.append(column(3, "NBD reads", lambda cell: _whole(cell.nbd_reads)))
    columns.append(column(3, "MiB read", lambda cell: _tenths(cell.read_mb)))
    if any(cell.upcalls is not None for cell in found):
        columns.append(column(5, "upcalls", lambda cell: _whole(cell.upcalls)))
    if any(cell.hit_ratio is not None for cell in found):
        columns.append(column(6, "cache hits", lambda cell: _share(cell.hit_ratio)))
    columns.append(column(7, "MiB used", lambda cell: _whole(cell.memory_mb)))
    if any(cell.daemon_mb is not None for cell in found):
        columns.append(column(8, "by the cache", lambda cell: _whole(cell.daemon_mb)))
    longest = max((cell.boot_s for cell in found if cell.boot_s is not None), default=0.0)
    columns.append(_Column(9, " " * BAR_WIDTH, [_bar(cell, longest) for cell in found]))
    return columns


def _show_link(console: "Console", found: Sequence[Cell]) -> None:
    from rich.table import Table  # noqa: PLC0415

    columns = _columns(found)
    while sum(column.width + GAP for column in columns) - GAP > console.width and len(columns) > 2:
        columns.remove(max(columns, key=lambda column: column.rank))
    grid = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="dim")
    for column in columns:
        left = column.header.isspace() or column.header == "variant"
        grid.add_column(
            column.header,
            justify="left" if left else "right",
            style=column.style,
            min_width=column.width,
            no_wrap=True,
        )
    for row in zip(*(column.cells for column in columns), strict=True):
        grid.add_row(*row)
    link = found[0].link
    console.print(f"[bold]{link.title}[/] [dim]({link.clock} clock, seconds)[/]")
    console.print(grid)
    console.print()


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


def _boot(cell: Cell) -> str:
    return seconds(cell.boot_s) if cell.boot_s is not None else "[red]failed[/]"


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


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f}%"


def _whole(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _tenths(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f}"
