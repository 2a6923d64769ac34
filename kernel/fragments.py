"""Fragments: pieces of kernel configuration, one feature each, under ``fragments/`` or from the user.

A fragment's first line is ``# Help: …``. A paragraph (lines up to an empty one) that starts with
``# Good to have`` holds what our kernels get but what is not demanded from a kernel that was built elsewhere.
"""

import dataclasses
import difflib
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from orioncache.errors import UserError

DIRECTORY = Path(__file__).resolve().parent / "fragments"

# What every kernel gets, in this order; the user's fragments come after and win.
BASE = ("core", "nfs-root", "overlay", "fuse", "virt")

_SET = re.compile(r"CONFIG_(\w+)=(.*)")
_NOT_SET = re.compile(r"# CONFIG_(\w+) is not set")
_VALUE = re.compile(r'[ymn]|-?[0-9]+|0[xX][0-9a-fA-F]+|"(?:[^"\\]|\\.)*"')
_OPTIONAL = "# Good to have"


@dataclasses.dataclass(frozen=True)
class Assignment:
    """One line that gives a symbol a value.

    Attributes:
        symbol: without ``CONFIG_``.
        value: as in a ``.config``; ``n`` for "is not set".
        where: fragment and line, for messages.
        needed: a kernel without it is refused.
    """

    symbol: str
    value: str
    where: str
    needed: bool

    @property
    def line(self) -> str:
        """The assignment as kconfig reads it."""
        if self.value == "n":
            return f"# CONFIG_{self.symbol} is not set"
        return f"CONFIG_{self.symbol}={self.value}"


@dataclasses.dataclass(frozen=True)
class Fragment:
    """One fragment.

    Attributes:
        name: what the user called it.
        help: the text of its ``# Help:`` line; empty if it has none.
        assignments: in the order of its lines.
    """

    name: str
    help: str
    assignments: tuple[Assignment, ...]

    @property
    def text(self) -> str:
        """The assignments alone, one a line."""
        return "".join(f"{assignment.line}\n" for assignment in self.assignments)


def parse(name: str, text: str) -> Fragment:
    """A fragment from its text.

    Raises:
        UserError: a line is neither an assignment nor a comment.
    """
    help_line = ""
    assignments = []
    needed = True
    paragraph_starts = True
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        where = f"{name}:{number}"
        if not line:
            paragraph_starts = True
            continue
        if paragraph_starts:
            needed = not line.startswith(_OPTIONAL)
            paragraph_starts = False
        if found := _NOT_SET.fullmatch(line):
            assignments.append(Assignment(found[1], "n", where, needed))
        elif line.startswith("#"):
            if line.startswith("# Help:") and not help_line:
                help_line = line.removeprefix("# Help:").strip()
        elif (found := _SET.fullmatch(line)) and _VALUE.fullmatch(found[2]):
            assignments.append(Assignment(found[1], found[2], where, needed))
        else:
            raise UserError(
                f"{where}: '{line[:60]}' is no line of a kernel configuration",
                'write CONFIG_X=y, CONFIG_X=10, CONFIG_X="text" or # CONFIG_X is not set',
            )
    return Fragment(name, help_line, tuple(assignments))


def known() -> list[Fragment]:
    """The fragments that come with the workbench: the base in its order, then the others by name."""
    names = [path.stem for path in sorted(DIRECTORY.glob("*.config"))]
    ordered = [*BASE, *(name for name in names if name not in BASE)]
    return [_read(name, DIRECTORY / f"{name}.config") for name in ordered]


def load(extra: Sequence[str] = ()) -> list[Fragment]:
    """The base and the fragments that the user asked for.

    Args:
        extra: each a name (``hardware``), a file, ``-`` for standard input, or ``CONFIG_X=y``.

    Raises:
        UserError: there is no such fragment, or it cannot be read.
    """
    return [*(_read(name, DIRECTORY / f"{name}.config") for name in BASE), *named(extra)]


def named(names: Sequence[str]) -> list[Fragment]:
    """These fragments without the base; arguments and errors as in :func:`load`."""
    return [_resolve(name) for name in dict.fromkeys(names)]


def merge(fragments: Iterable[Fragment]) -> dict[str, Assignment]:
    """What is asked for in the end, by symbol: a later assignment wins; needed once is needed."""
    merged: dict[str, Assignment] = {}
    for fragment in fragments:
        for assignment in fragment.assignments:
            before = merged.get(assignment.symbol)
            keep = before is not None and before.needed and before.value == assignment.value
            merged[assignment.symbol] = dataclasses.replace(assignment, needed=True) if keep else assignment
    return merged


def _resolve(name: str) -> Fragment:
    if name == "-":
        return parse("standard input", sys.stdin.read())
    if name.startswith(("CONFIG_", "# CONFIG_")):
        return parse("the command line", f"{name}\n")
    built_in = DIRECTORY / f"{name}.config"
    if "/" not in name and built_in.is_file():
        return _read(name, built_in)
    path = Path(name)
    if path.is_file():
        return _read(name, path)
    names = [fragment.name for fragment in known()]
    close = difflib.get_close_matches(name, names, n=1)
    guess = f"did you mean {close[0]}? " if close else ""
    raise UserError(
        f"there is no fragment '{name}'", f"{guess}give one of {', '.join(names)}, a file, - or CONFIG_X=y"
    )


def _read(name: str, path: Path) -> Fragment:
    try:
        return parse(name, path.read_text())
    except OSError as error:
        raise UserError(
            f"cannot read fragment {path}: {error.strerror}", "check the path and its permissions"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text", "a fragment is a text file with lines as CONFIG_X=y") from None
