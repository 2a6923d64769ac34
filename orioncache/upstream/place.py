"""Where a file stands below the root of each server."""


class Place:
    """A name in a directory's place; the root has neither.

    A chain of names instead of one path: a path may be longer than PATH_MAX, and each name is looked up
    relative to a directory that is already open, so that no symlink is ever followed.

    Attributes:
        parent: the directory's place; None for the root.
        name: the name in it; empty for the root.
    """

    __slots__ = ("name", "parent")

    def __init__(self, parent: "Place | None" = None, name: bytes = b"") -> None:
        self.parent = parent
        self.name = name

    def path(self) -> str:
        """The path from the root, for messages."""
        names = []
        place = self
        while place.parent is not None:
            names.append(place.name)
            place = place.parent
        return "/" + b"/".join(reversed(names)).decode(errors="backslashreplace")
