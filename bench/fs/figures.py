"""What was measured, what it says, and the bar that it is held against; the document that keeps all of it."""

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from orioncache.atomic import replacing
from orioncache.errors import UserError

SCHEMA = "orioncache.bench.fs/1"


@dataclasses.dataclass(frozen=True)
class Sample:
    """One stretch of operations on one subject, as it was timed.

    Attributes:
        cell: which measurement it belongs to.
        subject: what was measured: ``native``, ``minimal``, ``python``, …
        turn: samples of a cell with the same turn were taken one right after the other.
        operations: how many.
        bytes: that they moved; 0 where that says nothing.
        ns: that they took, all of them.
        median_ns: that one of them took; 0 where they were not timed one by one.
    """

    cell: str
    subject: str
    turn: int
    operations: int
    bytes: int
    ns: int
    median_ns: int = 0

    @property
    def ns_each(self) -> float:
        """Nanoseconds for one operation."""
        return self.ns / max(1, self.operations)


@dataclasses.dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        cell: the measurement that it comes from.
        what: the line's text.
        value: None where it could not be measured.
        unit: of the value and the bar: ``×`` for a ratio.
        bar: what the value is held against; None for a figure that only informs.
        better: whether the value has to be at most (``less``) or at least (``more``) the bar.
        low: of the middle half of all turns, the lower end; None where there is one value only.
        high: the upper end.
        note: what else belongs to it.
        error: why there is no value.
    """

    cell: str
    what: str
    value: float | None
    unit: str
    bar: float | None = None
    better: Literal["less", "more"] = "less"
    low: float | None = None
    high: float | None = None
    note: str = ""
    error: str | None = None

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None if there is no bar. What could not be measured does not meet it."""
        if self.bar is None:
            return None
        if self.value is None:
            return False
        return self.value <= self.bar if self.better == "less" else self.value >= self.bar


@dataclasses.dataclass(frozen=True)
class Document:
    """What ``--json`` writes.

    Attributes:
        schema: :data:`SCHEMA`; a change that breaks readers changes it.
        environment: the machine, versions, commit and the command that was given.
        figures: the table.
        samples: all that was timed, in that order.
    """

    schema: str
    environment: dict[str, Any]
    figures: list[Figure]
    samples: list[Sample]


def write(document: object, path: Path) -> None:
    """Writes a document of dataclasses as indented JSON, whole or not at all."""
    import msgspec  # noqa: PLC0415 # only the workbench has it

    with replacing(path) as file:
        file.write(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")


@dataclasses.dataclass(frozen=True)
class Spread:
    """A value, and between which the middle half of its turns lie."""

    value: float
    low: float
    high: float


def at_most(cell: str, what: str, found: Spread, unit: str, *, bar: float | None, note: str = "") -> Figure:
    """A figure that is better when it is less."""
    return Figure(cell, what, found.value, unit, bar, "less", found.low, found.high, note)


def at_least(cell: str, what: str, found: Spread, unit: str, *, bar: float | None, note: str = "") -> Figure:
    """A figure that is better when it is more."""
    return Figure(cell, what, found.value, unit, bar, "more", found.low, found.high, note)


def spread(values: Sequence[float]) -> Spread:
    """The median and the quartiles.

    Raises:
        UserError: there are no values.
    """
    if not values:
        raise UserError("nothing was measured", "give more rounds or files")
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(middle, low, high)


def ratio(samples: Sequence[Sample], cell: str, subject: str, to: str) -> Spread:
    """How many times as long one subject takes as another for the same operations.

    The value is the ratio of the medians over all turns; the quartiles are those of the turns' own ratios.

    Raises:
        UserError: there is no turn that has both.
    """
    mine = {
        sample.turn: sample.ns_each for sample in samples if (sample.cell, sample.subject) == (cell, subject)
    }
    theirs = {
        sample.turn: sample.ns_each for sample in samples if (sample.cell, sample.subject) == (cell, to)
    }
    turns = sorted(turn for turn in mine if theirs.get(turn))
    each = spread([mine[turn] / theirs[turn] for turn in turns])
    value = statistics.median(mine[turn] for turn in turns) / statistics.median(
        theirs[turn] for turn in turns
    )
    return Spread(value, min(value, each.low), max(value, each.high))


def microseconds(samples: Sequence[Sample], cell: str, subject: str) -> float:
    """What one operation takes (the median over all turns)."""
    return spread([s.ns_each for s in samples if (s.cell, s.subject) == (cell, subject)]).value / 1000


def rate(samples: Sequence[Sample], cell: str, subject: str) -> Spread:
    """Gigabytes (10⁹) a second."""
    return spread([s.bytes / s.ns for s in samples if (s.cell, s.subject) == (cell, subject)])
