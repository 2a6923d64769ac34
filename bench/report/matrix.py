"""The console's table of faults."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from orioncache.bench.report.faults import Held, Matrix, is_cache, matrices
from orioncache.bench.report.summary import one_line
from orioncache.bench.sample import Document

if TYPE_CHECKING:
    from rich.console import Console

# Of a variant that is not held against the bars but stands beside: what its columns say is enough.
HEADERS = ("stall", "boot ×", "errors", "wrong KiB")


def table(document: Document, console: "Console") -> None:
    """Prints what every fault did, with each variant side by side, and which bars were missed."""
    for matrix in matrices(document):
        _show(matrix, console)


def _show(matrix: Matrix, console: "Console") -> None:
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    caches = [name for name in matrix.variants if is_cache(name)]
    grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    grid.add_column("fault", style="bold", no_wrap=True)
    for name in matrix.variants:
        for header in HEADERS:
            grid.add_column(f"{name}\n{header}" if header == HEADERS[0] else f"\n{header}", justify="right")
    grid.add_column("bars")
    for fault, row in {"none": matrix.faultless, **matrix.rows}.items():
        cells = [cell for name in matrix.variants for cell in _cells(row.get(name))]
        grid.add_row(escape(one_line(fault)), *cells, _verdict(row, caches))
    console.print(f"[bold]Faults, {matrix.link.title}[/] [dim]({matrix.link.clock} clock, seconds)[/]")
    console.print(grid)
    console.print(
        "[dim]stall: the longest that one read took, '>' if it did not end; boot: to the faultless one[/]"
    )
    for name in matrix.variants:
        held = [row[name] for row in matrix.rows.values() if name in row]
        met = sum(not each.missed for each in held)
        console.print(f"{name}: {met} of {len(held)} faults within all bars")
    _show_first(matrix, caches, console)
    console.print()


def _show_first(matrix: Matrix, caches: list[str], console: "Console") -> None:
    """What went wrong first in each boot from a cache, for whoever has to mend it."""
    from rich.markup import escape  # noqa: PLC0415

    for fault, row in matrix.rows.items():
        for name in caches:
            for sample in row[name].samples if name in row else ():
                probe = sample.probe
                for text in (sample.error, probe and probe.first_error, probe and probe.first_wrong):
                    if text:
                        console.print(
                            f"  [red]{escape(one_line(f'{name}, {fault}'))}[/]: {escape(one_line(text))}"
                        )


def _cells(held: Held | None) -> list[str]:
    if held is None:
        return ["–"] * len(HEADERS)
    # A node that panicked at once has not said it.
    stall = "?" if held.stall_s is None else f"{'>' if held.is_open else ''}{held.stall_s:.3f}"
    boot = "[red]failed[/]" if held.boot_times is None else f"{held.boot_times:.2f}"
    return [
        stall,
        boot,
        f"[red]{held.errors:,}[/]" if held.errors else "0",
        "?"
        if held.wrong_bytes is None
        else f"[red]{-(-held.wrong_bytes // 1024):,}[/]"
        if held.wrong_bytes
        else "0",
    ]


def _verdict(row: Mapping[str, Held], caches: list[str]) -> str:
    missed = [
        (f"{name}: " if len(caches) > 1 else "") + ", ".join(row[name].missed)
        for name in caches
        if name in row and row[name].missed
    ]
    if not caches or not any(name in row for name in caches):
        return ""
    return f"[red]missed:[/] {'; '.join(missed)}" if missed else "met"
