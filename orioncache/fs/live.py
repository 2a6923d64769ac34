"""The tree as a server shows it now: a plain export, without a manifest."""

import collections
import errno
import os
import stat
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import trio

from orioncache import native
from orioncache.fs.directories import OpenDirectory
from orioncache.fs.inodes import Inode, InodeTable, same_object, stamps
from orioncache.fs.reader import BlockReader
from orioncache.store import LiveIndex
from orioncache.upstream import (
    Listing,
    Opened,
    Place,
    ReplacedError,
    ReplicaDiffersError,
    Server,
    UpstreamSet,
)

T = TypeVar("T")

# Files whose source is kept open after the last one closed them: opening it again would ask the server.
KEPT_OPEN = 512

# Names that are read from a directory, and looked at, in one go.
LISTED_AT_ONCE = 256

# Where an attribute of NFS's own is shown: it means nothing elsewhere, and overlayfs fails to copy it up.
HIDDEN_XATTRS = frozenset({b"system.nfs4_acl", b"system.nfs4_dacl", b"system.nfs4_sacl"})

# One of each kind that may be there.
PROBED_XATTRS = (b"user.orion", b"trusted.orion", b"security.capability", b"system.posix_acl_access")
ACL_XATTR = b"system.posix_acl_access"


class LiveTree:
    """Names, attributes and content, believed for ``ttl`` seconds after a server gave them.

    Attributes:
        table: the inodes.
        ttl: seconds.
        has_xattrs: whether the source keeps extended attributes at all; most NFS servers do not.
        has_acls: whether it keeps POSIX ACLs.
        generation: 0: an inode that is another one gets another number.
        index: which blocks a file's content has.
    """

    def __init__(self, upstreams: UpstreamSet, reader: BlockReader, ttl: float) -> None:
        self.ttl = ttl
        self.has_xattrs = True
        self.has_acls = False
        self.generation = 0
        self.index = LiveIndex()
        self._upstreams = upstreams
        self._reader = reader
        self._idle: collections.OrderedDict[Inode, None] = collections.OrderedDict()
        self._statvfs: tuple[float, os.statvfs_result] | None = None

    @property
    def inodes(self) -> int:
        """How many inodes the kernel knows or has open."""
        return len(self.table)

    async def start(self) -> None:
        """Asks for the root and what it can do.

        Raises:
            OSError: no server could answer.
        """
        home, attributes = await self._upstreams.call(lambda server: server.stat(Place()))
        self.table = InodeTable(home, attributes, trio.current_time())
        _, kinds = await self._upstreams.call(_xattr_kinds)
        self.has_xattrs = bool(kinds)
        self.has_acls = ACL_XATTR in kinds

    def get(self, number: int) -> Inode:
        """The inode that the kernel means; ESTALE if it is not known."""
        return self.table.get(number)

    def count(self, inode: Inode) -> None:
        """The kernel is told of it once more."""
        self.table.count(inode)

    def release(self, inode: Inode) -> None:
        """It was not told to the kernel after all."""
        self.table.release(inode)

    def lifetime(self, inode: Inode | None) -> float:
        """Seconds for which its attributes may be believed; None: that there is no such name."""
        if inode is None:
            return self.ttl
        return max(0.0, inode.fetched + self.ttl - trio.current_time())

    def parent(self, inode: Inode) -> Inode:
        """A directory that it was seen in; itself if that is not known any more."""
        return self.table.parent(inode)

    def shown_number(self, inode: Inode) -> int:
        """The number that users shall see."""
        return self.table.shown_number(inode)

    async def lookup(self, parent: Inode, name: bytes) -> Inode | None:
        """What has this name in a directory; None if nothing has. To be counted or released at once."""
        place = Place(parent.place, name)
        asked = trio.current_time()
        try:
            server, attributes = await self._upstreams.call(lambda server: server.stat(place))
        except FileNotFoundError:
            return None
        return self.table.remember(parent, name, server, attributes, asked)

    async def refresh(self, inode: Inode) -> None:
        """Sees to it that the attributes are not older than the TTL.

        Raises:
            OSError: ESTALE if the file is not where it was; the kernel then looks its name up again.
        """
        asked = trio.current_time()
        if asked - inode.fetched < self.ttl:
            return
        opened = inode.opened
        server, attributes = await self._ask(inode, lambda server: _stat(server, inode, opened))
        self.table.confirm(inode, server, attributes, asked)

    async def target(self, inode: Inode) -> bytes:
        """A symlink's target."""
        if inode.target is not None and stamps(inode.target[0]) == stamps(inode.attributes):
            return inode.target[1]
        attributes = inode.attributes
        _, target = await self._ask(inode, lambda server: server.read_link(inode.place))
        inode.target = (attributes, target)
        return target

    async def xattr(self, inode: Inode, name: bytes) -> bytes:
        """The value of an extended attribute."""
        _, value = await self._ask(inode, lambda server: server.get_xattr(inode.place, name))
        return value

    async def xattrs(self, inode: Inode) -> list[bytes]:
        """The names of the extended attributes."""
        _, names = await self._ask(inode, lambda server: server.list_xattrs(inode.place))
        return [name for name in names if name not in HIDDEN_XATTRS]

    async def statvfs(self) -> os.statvfs_result:
        """The file system's figures; those of before, if no server answers."""
        now = trio.current_time()
        if self._statvfs is None or now - self._statvfs[0] >= self.ttl:
            try:
                _, figures = await self._upstreams.call(lambda server: server.statvfs())
            except OSError:
                if self._statvfs is None:
                    raise
                return self._statvfs[1]
            self._statvfs = (now, figures)
        return self._statvfs[1]

    async def open(self, inode: Inode) -> bool:
        """Holds the source open until :meth:`close`, so that it can be read even after losing its name.

        Returns:
            Whether its content is what it was when it was opened before.
        """
        if not stat.S_ISREG(inode.attributes.st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        inode.handles += 1
        try:
            if inode.opened is not None:
                await self.refresh(inode)
            # If it changed, it may on NFS be another file with the number of one that is gone. But where
            # opening fails, others may still be reading from what is open.
            if inode.opened is None or not _is_current(inode.opened, inode):
                inode.opened = await self._open_source(inode)
        except BaseException:
            self.close(inode)
            raise
        self._idle.pop(inode, None)
        unchanged = inode.shown == inode.version
        inode.shown = inode.version
        return unchanged

    def open_directory(self, inode: Inode) -> OpenDirectory:
        """Opens a directory until :meth:`close`; the source is asked when it is read."""
        inode.handles += 1
        return OpenDirectory(self, inode)

    def close(self, inode: Inode) -> None:
        """Ends what :meth:`open` or opening a directory began."""
        inode.handles -= 1
        if inode.handles == 0 and inode.opened is not None and inode.lookups > 0:
            self._idle[inode] = None
            self._idle.move_to_end(inode)
            if len(self._idle) > KEPT_OPEN:
                oldest, _ = self._idle.popitem(last=False)
                oldest.opened = None
        self.table.release(inode)

    def forget(self, number: int, lookups: int) -> None:
        """The kernel takes lookups back."""
        inode = self.table.forget(number, lookups)
        if inode is not None:
            self._idle.pop(inode, None)

    async def read(self, inode: Inode, offset: int, length: int) -> bytes | memoryview:
        """Bytes of an open file; fewer than asked for only at its end."""
        end = min(offset + length, inode.attributes.st_size)
        return await self._reader.read(_Content(self, inode), offset, end)

    async def next_entries(
        self, inode: Inode, listing: Listing | None, known: Sequence[bytes]
    ) -> tuple[Listing, list[tuple[bytes, os.stat_result]], bool]:
        """The next names of a directory, with attributes, and whether they are the last ones.

        Args:
            inode: the directory.
            listing: from the last call; None to begin, or after an error. Not to be used again if this fails.
            known: the names that came before, which are left out where another listing takes over.
        """
        held = [] if listing is None else [listing]

        def work(server: Server) -> tuple[Listing, list[tuple[bytes, os.stat_result]]]:
            going_on = held.pop() if held and held[0].server is server else None
            if going_on is not None:
                return going_on, going_on.next(LISTED_AT_ONCE, ())
            begun = server.begin_listing(inode.place)
            return begun, begun.next(LISTED_AT_ONCE, frozenset(known))

        _, (listing, batch) = await self._ask(inode, work)
        return listing, batch, len(batch) < LISTED_AT_ONCE

    async def _ask(
        self, inode: Inode, work: Callable[[Server], T], *, reading: bool = False
    ) -> tuple[Server, T]:
        """Has a server do work on a known inode.

        The name that it goes by may be gone while the inode has others, or has moved: ESTALE has the kernel
        look it up again, and only that lookup can say that a name does not exist.
        """
        try:
            return await self._upstreams.call(work, reading=reading)
        except (FileNotFoundError, NotADirectoryError):
            raise ReplacedError from None

    async def _open_source(self, inode: Inode) -> Opened:
        asked = trio.current_time()
        server, opened = await self._ask(inode, lambda server: self._open_same(server, inode))
        self.table.confirm(inode, server, opened.attributes, asked)
        return opened

    def _open_same(self, server: Server, inode: Inode) -> Opened:
        """Opens what stands in an inode's place, if it still is that inode. Blocks."""
        opened = server.open(inode.place)
        if not self.table.is_same(inode, server, opened.attributes):
            raise ReplacedError if server is inode.home else ReplicaDiffersError
        return opened

    def _read_source(
        self, server: Server, inode: Inode, offset: int, length: int
    ) -> tuple[Opened, bytes, os.stat_result]:
        """Reads from the source that is open, or opens it first. Blocks."""
        opened = inode.opened
        if opened is not None and opened.server is server:
            try:
                return opened, *opened.read(offset, length)
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise
        opened = self._open_same(server, inode)
        return opened, *opened.read(offset, length)

    def stored(self, version: bytes, number: int) -> bytes | None:
        """A block of a file's content, if it is known which one that is, and it is here."""
        digest = self.index.get(version, number)
        return None if digest is None else self._reader.store.get(digest)

    async def fetch(self, inode: Inode, version: bytes, first: int, count: int) -> list[bytes]:
        """Reads blocks from the source that is open, or from another server's copy of it."""
        block_size = self._reader.block_size
        offset, length = first * block_size, count * block_size

        def work(server: Server) -> tuple[Opened, list[tuple[bytes, bytes]], os.stat_result]:
            opened, data, attributes = self._read_source(server, inode, offset, length)
            if server is not inode.home and not same_object(inode.attributes, attributes):
                raise ReplicaDiffersError
            if len(data) < min(length, attributes.st_size - offset):
                # Never to be shown: the kernel would fill it up with zeros.
                raise OSError(errno.EIO, f"it gave only a part of {inode.place.path()}")
            blocks = [data[at : at + block_size] for at in range(0, len(data), block_size)]
            return opened, [(block, native.digest(block)) for block in blocks], attributes

        asked = trio.current_time()
        server, (opened, blocks, attributes) = await self._ask(inode, work, reading=True)
        server.reads += 1
        server.bytes_read += sum(len(block) for block, _ in blocks)
        if inode.handles > 0:
            inode.opened = opened
        self.table.confirm(inode, server, attributes, asked)
        # If the file was changed meanwhile, this is not the content that was asked for.
        if inode.version == version:
            for number, (block, digest) in enumerate(blocks, first):
                self.index.put(version, number, self._reader.store.put(block, digest))
        return [block for block, _ in blocks]


class _Content:
    """What a file holds at the moment; for :class:`~orioncache.fs.reader.BlockReader`."""

    def __init__(self, tree: LiveTree, inode: Inode) -> None:
        self._tree = tree
        self._inode = inode
        self._version = inode.version

    def key(self, number: int) -> Hashable:
        """As :class:`~orioncache.fs.reader.Content` has it."""
        return self._version, number

    def stored(self, number: int) -> bytes | None:
        """As :class:`~orioncache.fs.reader.Content` has it."""
        return self._tree.stored(self._version, number)

    def follows(self, one: int, other: int) -> bool:
        """As :class:`~orioncache.fs.reader.Content` has it."""
        return one == other + 1

    async def fetch(self, numbers: Sequence[int]) -> list[bytes]:
        """As :class:`~orioncache.fs.reader.Content` has it."""
        return await self._tree.fetch(self._inode, self._version, numbers[0], len(numbers))


def _is_current(opened: Opened, inode: Inode) -> bool:
    """Whether an open source has not changed since, as far as is known."""
    if opened.server is inode.home:
        return stamps(opened.attributes) == stamps(inode.attributes)
    return same_object(opened.attributes, inode.attributes)


def _stat(server: Server, inode: Inode, opened: Opened | None) -> os.stat_result:
    """The attributes of an inode; of the open file itself if there is one, for it may have lost its name."""
    if opened is not None and opened.server is server and server is inode.home:
        try:
            return os.fstat(opened.fd)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
    return server.stat(inode.place)


def _xattr_kinds(server: Server) -> set[bytes]:
    """Those of the probed attributes that the root could have."""
    kinds = set()
    for name in PROBED_XATTRS:
        try:
            server.get_xattr(Place(), name)
            kinds.add(name)
        except OSError as error:
            if error.errno == errno.ENODATA:
                kinds.add(name)
            elif error.errno != errno.EOPNOTSUPP:
                raise
    return kinds
