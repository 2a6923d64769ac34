"""All measurements, by name."""

import dataclasses
from collections.abc import Callable, Sequence

from orioncache.bench.fs import building, reading
from orioncache.bench.fs.figures import Figure
from orioncache.bench.fs.scene import Scene
from orioncache.errors import UserError


@dataclasses.dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes:
        measure: does it.
        help: one line.
        bar: whether one of its figures has a bar.
    """

    measure: Callable[[Scene], list[Figure]]
    help: str
    bar: bool = True


CELLS = {
    "lookup": Cell(reading.lookup, "names that the kernel asks for the first time"),
    "read": Cell(reading.read, "open, read and close of small files, the first time"),
    "pages": Cell(reading.pages, "4 KiB reads in random order"),
    "sparse": Cell(reading.sparse, "4 KiB out of every 128, no bar", bar=False),
    "upcalls": Cell(reading.upcalls, "upcalls of a warm tree below an overlay, counted"),
    "warm": Cell(reading.warm, "sequential read out of the page cache, against tmpfs"),
    "cold": Cell(reading.cold, "sequential read, the first time"),
    "build": Cell(building.rate_of_builds, "release build against xxh128sum"),
    "unchanged": Cell(building.unchanged, "a build where nothing changed"),
    "million": Cell(building.million, "first answer with a large manifest, bytes an inode"),
}


def choose(names: Sequence[str]) -> list[str]:
    """The measurements asked for, in their own order; all of them if none is named.

    Raises:
        UserError: there is no such measurement.
    """
    for name in names:
        if name not in CELLS:
            raise UserError(f"there is no measurement '{name}'", f"known are {', '.join(CELLS)}")
    return [name for name in CELLS if not names or name in names]


def measure(scene: Scene, name: str) -> list[Figure]:
    """One measurement's figures; one that cannot be made does not meet its bar, and the others go on."""
    try:
        return CELLS[name].measure(scene)
    except UserError as error:
        bar = 0.0 if CELLS[name].bar else None
        return [Figure(name, CELLS[name].help, None, "", bar, error=error.message)]
