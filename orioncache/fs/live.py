"""The tree as a server shows it now: a plain export, without a manifest."""

import collections
import errno
import os
import stat
from collections.abc import Callable, Sequence
from typing import TypeVar

import trio

from orioncache import native
from orioncache.fs.inodes import Inode, InodeTable, same_object, stamps
from orioncache.fs.reader import BlockReader, Fetched
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
    """

    def __init__(self, upstreams: UpstreamSet, reader: BlockReader, ttl: float) -> None:
        self.ttl = ttl
        self.has_xattrs = True
        self.has_acls = False
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

    async def open(self, inode: Inode) -> None:
        """Holds the source open until :meth:`close`, so that it can be read even after losing its name."""
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
        version = inode.version

        async def fetch(offset: int, length: int) -> Fetched:
            return await self._fetch(inode, version, offset, length)

        end = min(offset + length, inode.attributes.st_size)
        return await self._reader.read(version, offset, end, fetch)

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

    async def _fetch(self, inode: Inode, version: bytes, offset: int, length: int) -> Fetched:
        """Reads blocks from the source that is open, or from another server's copy of it."""
        block_size = self._reader.block_size

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
        return Fetched(blocks, keep=inode.version == version)


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
