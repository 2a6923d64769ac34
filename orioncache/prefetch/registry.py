"""Heuristics by name: ours from a table, users' own from the entry points ``orioncache.heuristics``."""

from __future__ import annotations

from orioncache.errors import UserError
from orioncache.prefetch.interface import Heuristic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

GROUP = "orioncache.heuristics"

# In a node's image nobody knows of packages: initramfs/build.py writes down what was installed beside it.
LISTED = "/lib/orion/heuristics"

# Entry points take tens of milliseconds to search on a node; ours are found without. pyproject.toml has
# the same.
OURS = {
    "profile": "orioncache.prefetch.heuristics.profile:Profile",
    "sequential": "orioncache.prefetch.heuristics.sequential:Sequential",
    "elf": "orioncache.prefetch.heuristics.elf:Elf",
    "successor": "orioncache.prefetch.heuristics.successor:Successor",
    "script": "orioncache.prefetch.heuristics.script:Script",
}


def load(name: str) -> type[Heuristic]:
    """The class of a heuristic.

    Raises:
        UserError: there is none of that name, or it cannot be imported.
    """
    target = OURS.get(name) or dict(users()).get(name)
    if target is None:
        known = [*OURS, *sorted(other for other, _ in users())]
        raise UserError(f"there is no heuristic '{name}'", f"known are {', '.join(dict.fromkeys(known))}")
    module_name, _, attribute = target.partition(":")
    try:
        # importlib would be one more import, and __import__ gives the top-level package.
        __import__(module_name)
        import sys  # noqa: PLC0415

        found: object = sys.modules[module_name]
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise UserError(
            f"heuristic '{name}' cannot be loaded from {target}: {type(error).__name__}: {error}",
            "mend the package that declares it, or leave it out",
        ) from error
    if not isinstance(found, type) or not issubclass(found, Heuristic):
        raise UserError(
            f"heuristic '{name}': {target} is no orioncache.prefetch.interface.Heuristic",
            "derive it from that class",
        )
    return found


def names() -> list[str]:
    """All heuristics that are installed: ours, then others in the alphabet's order."""
    return list(dict.fromkeys([*OURS, *sorted(name for name, _ in users())]))


def users() -> Iterator[tuple[str, str]]:
    """Those of other packages: names, and where the classes are."""
    try:
        with open(LISTED, encoding="utf-8") as file:  # noqa: PTH123
            for line in file:
                name, _, target = line.strip().partition(" ")
                yield name, target
    except FileNotFoundError:
        pass
    else:
        return
    from importlib.metadata import entry_points  # noqa: PLC0415

    for point in entry_points(group=GROUP):
        if point.name not in OURS:
            yield point.name, point.value
