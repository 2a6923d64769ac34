"""What the handlers of FUSE requests ask a tree, whichever kind it is."""

import os
from typing import Any, Protocol, TypeVar


class Node(Protocol):
    """Something in the tree that the kernel knows, or is about to know."""

    @property
    def number(self) -> int:
        """What the kernel calls it; users see it as st_ino."""
        ...

    @property
    def attributes(self) -> os.stat_result:
        """Its attributes; the inode number in them is the source's own."""
        ...


N = TypeVar("N", bound=Node)
# Directory gives nodes away and takes none.
GivenNode_co = TypeVar("GivenNode_co", bound=Node, covariant=True)


class Directory(Protocol[GivenNode_co]):
    """A directory that is being listed."""

    @property
    def inode(self) -> GivenNode_co:
        """The directory itself."""
        ...

    async def entry(self, position: int, *, rewind: bool) -> tuple[int, bytes, GivenNode_co] | None:
        """The first entry at or after a position: its position, its name, what it names; None at the end.

        Args:
            position: from 0.
            rewind: read the directory anew if it was read before.

        Raises:
            OSError: it could not be read.
        """
        ...


class Tree(Protocol[N]):
    """Names, attributes and content. Every method that asks a server is asynchronous and raises OSError.

    A node that ``lookup`` or a directory's ``entry`` gives is counted, or released, at once.

    Attributes:
        has_xattrs: whether anything in it has extended attributes.
        has_acls: whether POSIX ACLs are among them.
        generation: tells its inode numbers from those of another tree under the same mount point.
    """

    has_xattrs: bool
    has_acls: bool
    generation: int

    @property
    def inodes(self) -> int:
        """How many inodes the kernel knows or has open, as far as the tree keeps count."""
        ...

    def get(self, number: int) -> N:
        """The node that the kernel means; ESTALE if it is not known."""
        ...

    def count(self, inode: N) -> None:
        """The kernel is told of it once more."""
        ...

    def release(self, inode: N) -> None:
        """It was not told to the kernel after all."""
        ...

    def forget(self, number: int, lookups: int) -> None:
        """The kernel takes lookups back."""
        ...

    def lifetime(self, inode: N | None) -> float:
        """Seconds for which its attributes may be believed; None: that there is no such name."""
        ...

    def parent(self, inode: N) -> N:
        """A directory that holds it; itself if none is known."""
        ...

    def shown_number(self, inode: N) -> int:
        """The number that users shall see: the kernel's own for the root is always 1."""
        ...

    async def lookup(self, parent: N, name: bytes) -> N | None:
        """What has this name in a directory; None if nothing has."""
        ...

    async def refresh(self, inode: N) -> None:
        """Sees to it that the attributes may be believed."""
        ...

    async def target(self, inode: N) -> bytes:
        """A symlink's target."""
        ...

    async def xattr(self, inode: N, name: bytes) -> bytes:
        """The value of an extended attribute."""
        ...

    async def xattrs(self, inode: N) -> list[bytes]:
        """The names of the extended attributes."""
        ...

    async def statvfs(self) -> Any:  # noqa: ANN401  # what os.statvfs gives, or the same fields
        """The file system's figures."""
        ...

    async def open(self, inode: N) -> bool:
        """Opens a file until :meth:`close`; whether what the kernel has cached of it still holds."""
        ...

    def open_directory(self, inode: N) -> Directory[N]:
        """Opens a directory until :meth:`close`."""
        ...

    def close(self, inode: N) -> None:
        """Ends what :meth:`open` or :meth:`open_directory` began."""
        ...

    async def read(self, inode: N, offset: int, length: int) -> bytes | memoryview:
        """Bytes of an open file; fewer than asked for only at its end."""
        ...
