"""Which heuristics run, with which values: one grammar for the kernel command line, TOML and flags.

elf,sequential:window=2M:trigger=3,script         orion.heuristics=, --heuristic, TOML: heuristics = "…"

[heuristics.sequential]                           TOML, the same as tables
window = "2M"
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# More than anybody means; each costs time at each access.
MOST = 32
# Limits of the scheduler are set in the same grammar, under this name.
SCHEDULER = "scheduler"


class Choice:
    """One heuristic that was chosen.

    Attributes:
        name: the heuristic's.
        settings: texts by tunable, not checked yet.
    """

    __slots__ = ("name", "settings")

    def __init__(self, name: str, settings: Mapping[str, str]) -> None:
        self.name = name
        self.settings = dict(settings)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Choice) and (self.name, self.settings) == (other.name, other.settings)

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return ":".join([self.name, *(f"{key}={value}" for key, value in self.settings.items())])


def parse(text: str) -> list[Choice]:
    """Choices from ``name[:tunable=value…][,…]``; none from "" or "none".

    Raises:
        ValueError: the text does not follow the grammar; says how.
    """
    if text.strip() in ("", "none"):
        return []
    choices: list[Choice] = []
    for part in text.split(","):
        name, *words = part.strip().split(":")
        settings: dict[str, str] = {}
        for word in words:
            key, equals, value = word.partition("=")
            if not equals or not key:
                raise ValueError(f"'{word}' in '{part.strip()}': write TUNABLE=VALUE")
            settings[key.strip().replace("-", "_")] = value.strip()
        _add(choices, Choice(name.strip(), settings))
    return choices


def from_toml(value: object) -> list[Choice]:
    """Choices from TOML's ``heuristics``: a text as above, or a table of tables.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, str):
        return parse(value)
    if not isinstance(value, dict):
        raise ValueError("it must be a text or tables [heuristics.NAME]")  # noqa: TRY004  # what the user is told
    choices: list[Choice] = []
    for name, settings in value.items():
        if not isinstance(settings, dict):
            raise ValueError(f"[heuristics.{name}] must be a table")  # noqa: TRY004
        _add(choices, Choice(name, {key: str(each) for key, each in settings.items()}))
    return choices


def _add(choices: list[Choice], choice: Choice) -> None:
    plain = choice.name.replace("-", "").replace("_", "")
    if not plain or not plain.isalnum() or not plain.isascii():
        raise ValueError(f"'{choice.name}' is no heuristic's name")
    if any(choice.name == other.name for other in choices):
        raise ValueError(f"{choice.name} is named twice")
    if len(choices) == MOST:
        raise ValueError(f"more than {MOST} heuristics")
    choices.append(choice)


def split(choices: Sequence[Choice]) -> tuple[list[Choice], dict[str, str]]:
    """The heuristics of a choice, and what it says of the scheduler, which is named like one of them."""
    limits = [choice.settings for choice in choices if choice.name == SCHEDULER]
    return [choice for choice in choices if choice.name != SCHEDULER], limits[0] if limits else {}
