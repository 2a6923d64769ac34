"""What a heuristic is: it sees accesses to a release, and says which blocks will be asked for next.

The same class runs on a node and in the simulator. It has no clock, no thread and no socket of its own: all
that it knows comes in through :class:`Access` and :class:`View`. docs/prefetch.md has a worked example.

A node imports this while it boots: no dataclasses, re, typing or pathlib here or in a heuristic (see
:mod:`orioncache.options`).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

# Kinds and outcomes of an access, as a trace has them.
READ, LOOKUP = 0, 1
HIT, MISS, LATE, ERROR = 0, 1, 2, 3

# In place of a block's number: a run of zeros that nobody fetches.
HOLE = (1 << 32) - 1


class Access:
    """One demand request that was answered.

    Attributes:
        at: seconds since the engine started, when the request came.
        waited: seconds from then to the answer.
        inode: the file's number in the manifest.
        offset, length: the bytes that were asked for; both 0 for a lookup.
        pid: who asked; 0: not known.
        comm: the thread's name; "": not known.
        kind: READ or LOOKUP.
        outcome: HIT, MISS, LATE or ERROR.
    """

    __slots__ = ("at", "comm", "inode", "kind", "length", "offset", "outcome", "pid", "waited")

    def __init__(
        self,
        at: float,
        inode: int,
        offset: int,
        length: int,
        *,
        waited: float = 0.0,
        pid: int = 0,
        comm: str = "",
        kind: int = READ,
        outcome: int = MISS,
    ) -> None:
        self.at = at
        self.waited = waited
        self.inode = inode
        self.offset = offset
        self.length = length
        self.pid = pid
        self.comm = comm
        self.kind = kind
        self.outcome = outcome


class Candidate:
    """A block that may be asked for.

    Attributes:
        block: its number in the manifest.
        confidence: how likely it is to be asked for at all, 0 to 1.
        deadline: seconds from now until it will probably be asked for.
    """

    __slots__ = ("block", "confidence", "deadline")

    def __init__(self, block: int, confidence: float, deadline: float) -> None:
        self.block = block
        self.confidence = confidence
        self.deadline = deadline


class View:
    """The release, read-only, and what of it is in RAM. No method waits for a server.

    Paths have no leading slash. An inode or block that does not exist gives None, 0 or an empty sequence.

    Attributes:
        block_size: bytes of a block, but for the last one of a file.
    """

    block_size: int = 128 << 10

    def path(self, inode: int) -> str | None:
        """A path of an inode; None if there is none."""
        raise NotImplementedError

    def inode(self, path: str) -> int | None:
        """The inode that a path leads to, symlinks followed inside of the release."""
        raise NotImplementedError

    def names(self, path: str) -> Sequence[str]:
        """The names in a directory."""
        raise NotImplementedError

    def size(self, inode: int) -> int:
        """Bytes of a regular file."""
        raise NotImplementedError

    def block(self, inode: int, file_block: int) -> int | None:
        """The block that holds a part of a file; None for a hole, and beyond its end."""
        raise NotImplementedError

    def length(self, block: int) -> int:
        """Bytes of a block; 0 if there is none."""
        raise NotImplementedError

    def digest(self, block: int) -> bytes | None:
        """The digest of a block, which stays the same in the next release."""
        raise NotImplementedError

    def find(self, digest: bytes) -> int | None:
        """The block with this digest, of which the first 16 bytes are enough."""
        raise NotImplementedError

    def is_cached(self, block: int) -> bool:
        """Whether a block is in RAM."""
        raise NotImplementedError

    def content(self, inode: int, offset: int, length: int) -> bytes | None:
        """Bytes of a file, fewer at its end; None unless all of them are in RAM."""
        raise NotImplementedError

    def blocks(self, inode: int, offset: int = 0, length: int | None = None) -> list[int]:
        """The blocks of a part of a file in order, without holes."""
        size = self.size(inode)
        end = size if length is None else min(size, offset + length)
        if offset >= end:
            return []
        numbers = range(offset // self.block_size, (end - 1) // self.block_size + 1)
        return [found for number in numbers if (found := self.block(inode, number)) is not None]


class Tunable:
    """One number of a heuristic's that a user may set.

    Attributes:
        name: letters, digits and ``_``.
        parse: text to value; raises ValueError with a message for the user.
        default: its value if nobody says anything.
        unit: "bytes", "seconds", "blocks", … or "".
        help: one line.
    """

    __slots__ = ("default", "help", "name", "parse", "unit")

    def __init__(self, name: str, parse: Callable[[str], Any], default: Any, unit: str, help: str) -> None:  # noqa: ANN401
        self.name = name
        self.parse = parse
        self.default = default
        self.unit = unit
        self.help = help


class Heuristic:
    """The base of all heuristics. An instance lives for one boot.

    Attributes:
        name: what ``orion.heuristics=`` calls it: lower-case letters, digits, ``-``.
        tunables: what may be set; :meth:`__init__` makes an attribute of each.
    """

    name: str = ""
    tunables: Sequence[Tunable] = ()

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """Takes values for some tunables; the others have their defaults."""
        for tunable in self.tunables:
            setattr(self, tunable.name, settings.get(tunable.name, tunable.default))

    def begin(self, view: View) -> Iterable[Candidate]:
        """What will be asked for whatever happens; called once, when the release is there."""
        return ()

    def on_access(self, access: Access, view: View) -> Iterable[Candidate]:
        """What will be asked for after this access; called after its answer, for hits as well."""
        raise NotImplementedError

    def on_landed(self, block: int, view: View) -> Iterable[Candidate]:
        """What follows from the content of a block that has come speculatively."""
        return ()


def number(least: float, most: float) -> Callable[[str], float]:
    """A parser of numbers in a range."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"'{text}' is no number") from None
        if not least <= value <= most:
            raise ValueError(f"'{text}' is out of range: {least:g} to {most:g}")
        return value

    return parse


def count(least: int, most: int) -> Callable[[str], int]:
    """A parser of whole numbers in a range."""

    def parse(text: str) -> int:
        value = number(least, most)(text)
        if value != int(value):
            raise ValueError(f"'{text}' is no whole number")
        return int(value)

    return parse
