"""Inodes that the kernel knows, their numbers, and how often it counts them.

This is the only place where lookup counts change.
"""

import errno
import os
import stat
from collections.abc import Iterator

from orioncache import native
from orioncache.store import file_version
from orioncache.upstream import Opened, Place, Server

ROOT_NUMBER = 1

# Numbers from here up to twice as much are for inodes whose own number is larger, or is taken: by the root,
# by another server's file, or by one on another file system. overlayfs has bits to spare for its own use
# above them.
SPARE_NUMBERS = 1 << 47

# Which file an inode is: number of the server's mount, device, inode number there.
Identity = tuple[int, int, int]


class Inode:
    """One file, directory or other object of the tree.

    Attributes:
        number: what the kernel calls it, and what users see as st_ino; the source's own number where that is
            free.
        place: a name under which it was seen last.
        home: the server whose attributes these are.
        mount: which mount of it they are from.
        attributes: as the home server gave them.
        fetched: when they were last asked for and confirmed, in the event loop's seconds.
        identities: which file it is on each server that it was seen on.
        names: (number of the directory, name) of each name that it was seen under.
        lookups: how often the kernel counts it; it is forgotten at zero, once it is not open.
        handles: how many open files and directories refer to it.
        opened: the source, opened; kept for a while after the last handle is gone.
        shown: the version whose content the kernel's page cache may hold; None before the first open.
        target: the symlink's target, once it was asked for, with the attributes that it had then.
    """

    __slots__ = (
        "_version",
        "attributes",
        "fetched",
        "handles",
        "home",
        "identities",
        "lookups",
        "mount",
        "names",
        "number",
        "opened",
        "place",
        "shown",
        "target",
    )

    def __init__(
        self, number: int, place: Place, home: Server, attributes: os.stat_result, now: float
    ) -> None:
        self.number = number
        self.place = place
        self.home = home
        self.mount = home.serial
        self.attributes = attributes
        self.fetched = now
        self.identities: set[Identity] = set()
        self.names: set[tuple[int, bytes]] = set()
        self.lookups = 0
        self.handles = 0
        self.opened: Opened | None = None
        self.shown: bytes | None = None
        self.target: tuple[os.stat_result, bytes] | None = None
        self._version: bytes | None = None

    @property
    def version(self) -> bytes:
        """A name for the content that it has now; another one once it was changed."""
        if self._version is None:
            had = self.attributes
            identity = b"%d %d %d" % (self.home.birth, had.st_dev, had.st_ino)
            self._version = file_version(identity, had.st_size, had.st_mtime_ns, had.st_ctime_ns)
        return self._version

    def is_at_home(self, server: Server) -> bool:
        """Whether a server's numbers and times are those that are known: not after it was mounted anew."""
        return server is self.home and self.mount == server.serial

    def may_be(self, server: Server, attributes: os.stat_result) -> bool:
        """Whether it can have these attributes now: any content on its home, the same on another server."""
        if not self.is_at_home(server):
            return same_object(self.attributes, attributes)
        had = self.attributes
        return (
            stat.S_IFMT(had.st_mode) == stat.S_IFMT(attributes.st_mode) and had.st_rdev == attributes.st_rdev
        )

    def update(self, server: Server, attributes: os.stat_result, now: float) -> None:
        """Takes attributes that a server gave when it was asked at ``now``, unless newer ones are known.

        Another server's are not taken, only taken as a sign that ours still hold: copies differ in inode
        numbers and change times, which nobody should see change when a server fails.
        """
        if now < self.fetched:
            # Calls may end in another order than they began.
            return
        self.fetched = now
        if self.is_at_home(server):
            if stamps(attributes) != stamps(self.attributes):
                self._version = None
            self.attributes = attributes
        elif server is self.home:
            # Mounted anew, and the file is what it was.
            self.mount = server.serial


def stamps(attributes: os.stat_result) -> tuple[int, int, int]:
    """What changes when content does."""
    return attributes.st_size, attributes.st_mtime_ns, attributes.st_ctime_ns


def same_object(one: os.stat_result, other: os.stat_result) -> bool:
    """Whether two servers' copies can be taken for the same.

    Files are the same if size and mtime are; all else if type and device number are.
    """
    if stat.S_IFMT(one.st_mode) != stat.S_IFMT(other.st_mode) or one.st_rdev != other.st_rdev:
        return False
    if not stat.S_ISREG(one.st_mode):
        return True
    return one.st_size == other.st_size and one.st_mtime_ns == other.st_mtime_ns


class InodeTable:
    """All inodes that the kernel knows or that are open; the root is always one of them.

    Invariant: an inode is under its number, its identities and its names, or under none of them.
    """

    def __init__(self, home: Server, attributes: os.stat_result, now: float) -> None:
        """A table with the root alone."""
        self._by_number: dict[int, Inode] = {}
        self._by_identity: dict[Identity, Inode] = {}
        self._by_name: dict[tuple[int, bytes], Inode] = {}
        self.root = Inode(ROOT_NUMBER, Place(), home, attributes, now)
        self.root.lookups = 1
        self._by_number[ROOT_NUMBER] = self.root
        self._add_identity(self.root, (home.serial, attributes.st_dev, attributes.st_ino))

    def __len__(self) -> int:
        return len(self._by_number)

    def __iter__(self) -> Iterator[Inode]:
        return iter(self._by_number.values())

    def get(self, number: int) -> Inode:
        """The inode that the kernel means.

        Raises:
            OSError: ESTALE if it is not known, as when an NFS export of this file system outlives the daemon.
        """
        try:
            return self._by_number[number]
        except KeyError:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE)) from None

    def remember(
        self, parent: Inode, name: bytes, server: Server, attributes: os.stat_result, now: float
    ) -> Inode:
        """The inode that a server has just shown under this name; a new one if it was not known.

        The caller either counts it (:meth:`count`) or gives it up (:meth:`release`), before it waits for
        anything.
        """
        identity = (server.serial, attributes.st_dev, attributes.st_ino)
        inode = self._by_identity.get(identity)
        if inode is not None and not inode.may_be(server, attributes):
            # Its number was given to another file.
            self._detach(inode)
            inode = None
        if inode is None:
            inode = self._known_elsewhere(parent, name, server, attributes)
        if inode is None:
            place = Place(parent.place, name)
            inode = Inode(self._free_number(attributes), place, server, attributes, now)
            self._by_number[inode.number] = inode
        else:
            inode.update(server, attributes, now)
            if inode.place.name != name or inode.place.parent is not parent.place:
                inode.place = Place(parent.place, name)
        self._add_identity(inode, identity)
        key = (parent.number, name)
        before = self._by_name.get(key)
        if before is not inode:
            if before is not None:
                before.names.discard(key)
            self._by_name[key] = inode
            inode.names.add(key)
        return inode

    def known(self, parent: Inode, name: bytes) -> Inode | None:
        """What was seen under this name last; None if nothing is known."""
        return self._by_name.get((parent.number, name))

    def parent(self, inode: Inode) -> Inode:
        """A directory that it was seen in; the inode itself if that is not known any more."""
        return next(
            (self._by_number[number] for number, _ in inode.names if number in self._by_number), inode
        )

    def shown_number(self, inode: Inode) -> int:
        """The number that users shall see: the kernel's own for the root is always 1."""
        return self.root.attributes.st_ino if inode is self.root else inode.number

    def count(self, inode: Inode) -> None:
        """The kernel is told of it once more."""
        inode.lookups += 1

    def forget(self, number: int, lookups: int) -> Inode | None:
        """The kernel takes so many lookups back; returns the inode if that removed it."""
        inode = self._by_number.get(number)
        if inode is None or inode is self.root:
            return None
        inode.lookups -= lookups
        return inode if self.release(inode) else None

    def release(self, inode: Inode) -> bool:
        """Removes it if the kernel does not know it and it is not open; whether it did."""
        if inode.lookups > 0 or inode.handles > 0 or inode is self.root:
            return False
        self._detach(inode)
        self._by_number.pop(inode.number, None)
        inode.opened = None
        return True

    def confirm(self, inode: Inode, server: Server, attributes: os.stat_result, now: float) -> None:
        """Takes a server's attributes for an inode that it was asked about by place or by open file.

        Raises:
            OSError: ESTALE if they are not that inode's.
        """
        if not self.is_same(inode, server, attributes):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        inode.update(server, attributes, now)
        self._add_identity(inode, (server.serial, attributes.st_dev, attributes.st_ino))

    def is_same(self, inode: Inode, server: Server, attributes: os.stat_result) -> bool:
        """Whether a server's attributes are those of this inode."""
        identity = (server.serial, attributes.st_dev, attributes.st_ino)
        return (identity in inode.identities or not inode.is_at_home(server)) and inode.may_be(
            server, attributes
        )

    def _detach(self, inode: Inode) -> None:
        """Takes identities and names from an inode: the kernel may still know it, but nothing leads to it."""
        for identity in inode.identities:
            if self._by_identity.get(identity) is inode:
                del self._by_identity[identity]
        inode.identities.clear()
        for key in inode.names:
            if self._by_name.get(key) is inode:
                del self._by_name[key]
        inode.names.clear()

    def _known_elsewhere(
        self, parent: Inode, name: bytes, server: Server, attributes: os.stat_result
    ) -> Inode | None:
        """The inode that another server showed under this name, if this copy can be taken for the same."""
        inode = self._by_name.get((parent.number, name))
        if inode is None or any(mount == server.serial for mount, _, _ in inode.identities):
            return None
        return inode if same_object(inode.attributes, attributes) else None

    def _add_identity(self, inode: Inode, identity: Identity) -> None:
        self._by_identity[identity] = inode
        inode.identities.add(identity)

    def _free_number(self, attributes: os.stat_result) -> int:
        number = attributes.st_ino
        root = self.root.attributes
        own = (
            attributes.st_dev == root.st_dev
            and ROOT_NUMBER < number < SPARE_NUMBERS
            and number != root.st_ino
        )
        if own and number not in self._by_number:
            return number
        # The same one each time that the file is seen, also after the kernel has forgotten it meanwhile.
        folded = int.from_bytes(native.digest(b"%d %d" % (attributes.st_dev, number))[:8], "little")
        spare = SPARE_NUMBERS + folded % SPARE_NUMBERS
        while spare in self._by_number:
            spare = SPARE_NUMBERS + (spare + 1) % SPARE_NUMBERS
        return spare
