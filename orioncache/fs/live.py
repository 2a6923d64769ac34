"""The tree as a server shows it now: a plain export, without a manifest."""

import collections
import errno
import os
import stat

import trio

from orioncache import native
from orioncache.fs.inodes import Inode, InodeTable, same_object, stamps
from orioncache.fs.reader import BlockReader, Fetched
from orioncache.upstream import Listing, Opened, Place, ReplicaDiffersError, Server, UpstreamSet

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
        """What has this name in a directory; None if nothing has. To be counted at once by the caller."""
        place = Place(parent.place, name)
        try:
            server, attributes = await self._upstreams.call(lambda server: server.stat(place))
        except FileNotFoundError:
            return None
        return self.table.remember(parent, name, server, attributes, trio.current_time())

    async def refresh(self, inode: Inode) -> None:
        """Sees to it that the attributes are not older than the TTL.

        Raises:
            OSError: ESTALE if the file is not where it was; the kernel then looks its name up again.
        """
        if trio.current_time() - inode.fetched < self.ttl:
            return
        if inode.opened is not None and inode.opened.server is inode.home:
            # An open file is asked itself: it may have lost its name.
            opened = inode.opened
            server, attributes = await self._upstreams.call(
                lambda server: _stat_opened(server, opened, inode.place)
            )
        else:
            server, attributes = await self._upstreams.call(lambda server: server.stat(inode.place))
        self.table.confirm(inode, server, attributes, trio.current_time())

    async def target(self, inode: Inode) -> bytes:
        """A symlink's target."""
        if inode.target is not None and stamps(inode.target[0]) == stamps(inode.attributes):
            return inode.target[1]
        _, target = await self._upstreams.call(lambda server: server.read_link(inode.place))
        inode.target = (inode.attributes, target)
        return target

    async def xattr(self, inode: Inode, name: bytes) -> bytes:
        """The value of an extended attribute."""
        _, value = await self._upstreams.call(lambda server: server.get_xattr(inode.place, name))
        return value

    async def xattrs(self, inode: Inode) -> list[bytes]:
        """The names of the extended attributes."""
        _, names = await self._upstreams.call(lambda server: server.list_xattrs(inode.place))
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
            if inode.opened is None:
                inode.opened = await self._open_source(inode)
            else:
                await self.refresh(inode)
        except BaseException:
            self.close(inode)
            raise
        self._idle.pop(inode, None)

    def close(self, inode: Inode) -> None:
        """Ends what :meth:`open` or :meth:`begin_listing` began."""
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

    async def begin_listing(self, inode: Inode) -> Listing:
        """Begins to read a directory."""
        _, listing = await self._upstreams.call(lambda server: server.begin_listing(inode.place))
        return listing

    async def next_entries(self, listing: Listing) -> list[tuple[bytes, os.stat_result]]:
        """The next names of a directory; none at its end.

        A directory that is half read cannot be carried on with on another server: if this one fails, that
        stands.
        """
        _, batch = await self._upstreams.call(lambda server: _next_entries(server, listing))
        return batch

    async def _open_source(self, inode: Inode) -> Opened:
        server, opened = await self._upstreams.call(lambda server: self._open_same(server, inode))
        self.table.confirm(inode, server, opened.attributes, trio.current_time())
        return opened

    def _open_same(self, server: Server, inode: Inode) -> Opened:
        """Opens what stands in an inode's place, if it still is that inode. Blocks."""
        opened = server.open(inode.place)
        if not self.table.is_same(inode, server, opened.attributes):
            if server is inode.home:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            raise ReplicaDiffersError
        return opened

    async def _fetch(self, inode: Inode, version: bytes, offset: int, length: int) -> Fetched:
        """Reads blocks from the source that is open, or from another server's copy of it."""
        block_size = self._reader.block_size

        def work(server: Server) -> tuple[Opened, list[tuple[bytes, bytes]], os.stat_result]:
            opened = inode.opened
            if opened is None or opened.server is not server:
                opened = self._open_same(server, inode)
            data, attributes = opened.read(offset, length)
            if server is not inode.home and not same_object(inode.attributes, attributes):
                raise ReplicaDiffersError
            blocks = [data[at : at + block_size] for at in range(0, len(data), block_size)]
            return opened, [(block, native.digest(block)) for block in blocks], attributes

        server, (opened, blocks, attributes) = await self._upstreams.call(work, reading=True)
        server.reads += 1
        server.bytes_read += sum(len(block) for block, _ in blocks)
        if inode.handles > 0:
            inode.opened = opened
        self.table.confirm(inode, server, attributes, trio.current_time())
        return Fetched(blocks, keep=inode.version == version)


def _stat_opened(server: Server, opened: Opened, place: Place) -> os.stat_result:
    return os.fstat(opened.fd) if opened.server is server else server.stat(place)


def _next_entries(server: Server, listing: Listing) -> list[tuple[bytes, os.stat_result]]:
    if listing.server is not server:
        raise ReplicaDiffersError
    return listing.next(LISTED_AT_ONCE)


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
