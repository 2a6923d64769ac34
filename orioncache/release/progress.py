"""Progress in bytes: a bar with rate and time left on a terminal, a line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from orioncache.progress import PLAIN_INTERVAL

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

# What is over sooner shows no bar: to load what draws it takes longer than many a build.
PATIENCE = 0.5


class Meter:
    """Shows how far some long work is, as bytes of a total.

    Attributes:
        title: what is done.
    """

    def __init__(self, title: str, *, quiet: bool = False) -> None:
        self.title = title
        self._quiet = quiet
        self._started = self._said = time.monotonic()
        self._bar: Bar | None = None

    def __enter__(self) -> "Meter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, what: str, done: int, total: int, note: str = "") -> None:
        """Says how far it is: bytes done of a total (0: unknown yet), and a few words."""
        now = time.monotonic()
        if self._quiet or now - self._started < PATIENCE:
            return
        if sys.stderr.isatty():
            self._draw(what, done, total, note)
        elif now - self._said >= PLAIN_INTERVAL:
            self._said = now
            share = f" {100 * done / total:.0f}%" if total else ""
            print(
                f"  {self.title}: {what}{share} ({now - self._started:.0f} s) {note}".rstrip(),
                file=sys.stderr,
            )

    def _draw(self, what: str, done: int, total: int, note: str) -> None:
        if self._bar is None:
            from rich.console import Console  # noqa: PLC0415
            from rich.progress import (  # noqa: PLC0415
                BarColumn,
                DownloadColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("[dim]{task.fields[note]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(what, total=None, note="")
            self._bar.start()
        self._bar.update(self._task, description=what, completed=done, total=total or None, note=note)
