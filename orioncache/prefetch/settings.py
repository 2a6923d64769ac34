"""What was chosen (orioncache/choices.py) as values: a heuristic's tunables, the scheduler's limits."""

from __future__ import annotations

from orioncache.choices import SCHEDULER, Choice, from_toml, parse, split
from orioncache.errors import UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from orioncache.prefetch.interface import Heuristic, Tunable

__all__ = ["Choice", "create", "from_toml", "limits", "parse", "split"]


def limits(texts: Mapping[str, str]) -> dict[str, Any]:
    """The scheduler's limits as values.

    Raises:
        UserError: one is not known, or its value does not parse.
    """
    from orioncache.prefetch.scheduler import LIMITS  # noqa: PLC0415

    return _values(SCHEDULER, LIMITS, texts)


def create(kind: type[Heuristic], texts: Mapping[str, str]) -> Heuristic:
    """A heuristic of a kind with these values.

    Raises:
        UserError: a tunable is not known, or its value does not parse.
    """
    return kind(_values(kind.name, kind.tunables, texts))


def _values(owner: str, tunables: Sequence[Tunable], texts: Mapping[str, str]) -> dict[str, Any]:
    known = {tunable.name: tunable for tunable in tunables}
    values: dict[str, Any] = {}
    for name, text in texts.items():
        if name not in known:
            raise UserError(
                f"{owner}: unknown tunable '{name}'", f"known are {', '.join(sorted(known)) or 'none'}"
            )
        try:
            values[name] = known[name].parse(text)
        except ValueError as error:
            raise UserError(f"{owner}:{name}: {error}", "see orioncache prefetch list") from None
    return values
