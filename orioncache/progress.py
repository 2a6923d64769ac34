"""Progress of long steps on standard error: a live line on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

# Without a terminal, how often a step that goes on says so (seconds).
PLAIN_INTERVAL = 20.0


class Step:
    """One step under way.

    Attributes:
        done: how much of ``total`` is finished.
        note: a few words about what is happening right now.
    """

    def __init__(self, title: str, total: float | None) -> None:
        self.title = title
        self.total = total
        self.done = 0.0
        self.note = ""
        self._started = self._said = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the step began."""
        return time.monotonic() - self._started

    def update(self, done: float | None = None, note: str | None = None) -> None:
        """Says how far the step has come."""
        if done is not None:
            self.done = done
        if note is not None:
            self.note = note
        self._show()

    def _show(self) -> None:
        if time.monotonic() - self._said >= PLAIN_INTERVAL:
            self._said = time.monotonic()
            share = f" {100 * self.done / self.total:.0f}%" if self.total else ""
            print(
                f"  {self.title}{share} ({self.elapsed:.0f} s) {self.note}".rstrip(),
                file=sys.stderr,
                flush=True,
            )


class _LiveStep(Step):
    def __init__(self, title: str, total: float | None) -> None:
        super().__init__(title, total)
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import (  # noqa: PLC0415
            BarColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = [SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()]
        if total:
            columns += [TextColumn("left"), TimeRemainingColumn()]
        columns.append(TextColumn("[dim]{task.fields[note]}"))
        self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self.bar.add_task(title, total=total, note="")

    def _show(self) -> None:
        self.bar.update(self._task, completed=self.done, note=self.note)


@contextmanager
def step(title: str, cost: str = "", total: float | None = None) -> Iterator[Step]:
    """Shows one long step from its beginning to its end.

    Args:
        title: what is done ("compiling the kernel").
        cost: what it will cost, for people ("about 7 minutes, 2 GB").
        total: units of work, if they can be counted; :meth:`Step.update` then gives the share.
    """
    if sys.stderr.isatty():
        live = _LiveStep(f"{title} [dim]({cost})" if cost else title, total)
        with live.bar:
            yield live
        current: Step = live
    else:
        print(f"{title}{f' ({cost})' if cost else ''} …", file=sys.stderr, flush=True)
        current = Step(title, total)
        yield current
    print(f"{title}: done in {current.elapsed:.0f} s", file=sys.stderr, flush=True)
