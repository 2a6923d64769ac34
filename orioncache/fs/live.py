"""The tree as a server shows it now: a plain export, without a manifest."""

import collections
import errno
import os
import stat
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, TypeVar

import trio

from orioncache import native
from orioncache.events import Events
from orioncache.fs.directories import REMEMBERED_ENTRIES, OpenDirectory
from orioncache.fs.inodes import Inode, InodeTable, same_object, stamps
from orioncache.fs.reader import BlockReader
from orioncache.store import LiveIndex
from orioncache.upstream import (
    Listing,
    NoServerError,
    Opened,
    Place,
    ReplacedError,
    ReplicaDiffersError,
    Server,
    UpstreamSet,
)

T = TypeVar("T")

# A server, when it was asked, and what a directory holds there.
Entries = tuple[Server, float, list[tuple[bytes, os.stat_result]]]

# Files whose source is kept open after the last one closed them: opening it again would ask the server.
KEPT_OPEN = 512

# Names that are read from a directory, and looked at, in one go.
LISTED_AT_ONCE = 256

# Where an attribute of NFS's own is shown: it means nothing elsewhere, and overlayfs fails to copy it up.
HIDDEN_XATTRS = frozenset({b"system.nfs4_acl", b"system.nfs4_dacl", b"system.nfs4_sacl"})

# One of each kind that may be there.
PROBED_XATTRS = (b"user.orion", b"trusted.orion", b"security.capability", b"system.posix_acl_access")
ACL_XATTR = b"system.posix_acl_access"


# Files of which it is said that copies differ.
TOLD_DIFFERENCES = 256

# Answers about extended attributes that are remembered, and how large a value may be.
REMEMBERED_XATTRS = 4096
XATTR_SIZE = 1024

# A read of so many bytes takes a round trip and no more.
SMALL = 64 << 10


class LiveTree:
    """Names, attributes and content, believed for ``ttl`` seconds after a server gave them.

    While no server answers they are believed for longer: what is known is shown as it was, and only what is
    not known has to wait.

    Attributes:
        table: the inodes.
        ttl: seconds.
        has_xattrs: whether the source keeps extended attributes at all; most NFS servers do not.
        has_acls: whether it keeps POSIX ACLs.
        generation: 0: an inode that is another one gets another number.
        index: which blocks a file's content has.
    """

    def __init__(self, upstreams: UpstreamSet, reader: BlockReader, ttl: float, events: Events) -> None:
        self.ttl = ttl
        self.has_xattrs = True
        self.has_acls = False
        self.generation = 0
        self.index = LiveIndex()
        self._upstreams = upstreams
        self._reader = reader
        self._idle: collections.OrderedDict[Inode, None] = collections.OrderedDict()
        self._events = events
        self._statvfs: tuple[float, os.statvfs_result] | None = None
        self._entries: collections.OrderedDict[int, Entries] = collections.OrderedDict()
        self._entries_count = 0
        self._xattrs: collections.OrderedDict[tuple[int, bytes], _Xattr] = collections.OrderedDict()
        self._told: set[tuple[int, int]] = set()

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
        await self.statvfs()

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
        known = self.table.known(parent, name)
        try:
            server, attributes = await self._upstreams.call(
                lambda server: server.stat(place), wait=known is None
            )
        except FileNotFoundError:
            return None
        except NoServerError:
            assert known is not None
            return known
        if known is not None and not known.is_at_home(server) and not known.may_be(server, attributes):
            self._tell_difference(known, server)
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

        def work(server: Server) -> os.stat_result:
            attributes = _stat(server, inode, opened)
            self._refuse_other(server, inode, attributes)
            return attributes

        try:
            server, attributes = await self._ask(inode, work, wait=False)
        except NoServerError:
            return
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
        return await self._ask_xattr(inode, name, lambda server: server.get_xattr(inode.place, name))

    async def xattrs(self, inode: Inode) -> list[bytes]:
        """The names of the extended attributes."""

        def work(server: Server) -> bytes:
            return b"\0".join(name for name in server.list_xattrs(inode.place) if name not in HIDDEN_XATTRS)

        names = await self._ask_xattr(inode, b"", work)
        return names.split(b"\0") if names else []

    async def _ask_xattr(self, inode: Inode, name: bytes, work: Callable[[Server], bytes]) -> bytes:
        """Asks for extended attributes; what was answered before is the answer while no server answers."""
        key = (inode.number, name)
        before = self._xattrs.get(key)
        if before is not None and before.stamps != stamps(inode.attributes):
            before = None
        value: bytes | None = None
        error = 0
        try:
            _, value = await self._ask(inode, work, wait=before is None)
        except NoServerError:
            assert before is not None
            value, error = before.value, before.error
        except OSError as caught:
            error = caught.errno or errno.EIO
            if error not in (errno.ENODATA, errno.EOPNOTSUPP):
                raise
        if value is None or len(value) <= XATTR_SIZE:
            self._xattrs[key] = _Xattr(stamps(inode.attributes), value, error)
            self._xattrs.move_to_end(key)
            if len(self._xattrs) > REMEMBERED_XATTRS:
                self._xattrs.popitem(last=False)
        if value is None:
            raise OSError(error, os.strerror(error))
        return value

    async def statvfs(self) -> os.statvfs_result:
        """The file system's figures; those of before, if no server answers."""
        now = trio.current_time()
        if self._statvfs is None or now - self._statvfs[0] >= self.ttl:
            try:
                _, figures = await self._upstreams.call(
                    lambda server: server.statvfs(), wait=self._statvfs is None
                )
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
                try:
                    inode.opened = await self._open_source(inode)
                except NoServerError:
                    # What is cached of it can be read all the same; the rest is opened when it is wanted.
                    inode.opened = None
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
        self, inode: Inode, listing: Listing | None, known: Sequence[bytes], *, wait: bool
    ) -> tuple[Listing, list[tuple[bytes, os.stat_result]], bool]:
        """The next names of a directory, with attributes, and whether they are the last ones.

        Args:
            inode: the directory.
            listing: from the last call; None to begin, or after an error. Not to be used again if this fails.
            known: the names that came before, which are left out where another listing takes over.
            wait: whether to wait if no server answers.

        Raises:
            NoServerError: none does, and ``wait`` is false.
        """
        held = [] if listing is None else [listing]

        def work(server: Server) -> tuple[Listing, list[tuple[bytes, os.stat_result]]]:
            going_on = _take_over(held, server)
            if going_on is not None:
                return going_on, going_on.next(LISTED_AT_ONCE, ())
            begun = server.begin_listing(inode.place)
            return begun, begun.next(LISTED_AT_ONCE, frozenset(known))

        _, (listing, batch) = await self._ask(inode, work, wait=wait)
        return listing, batch, len(batch) < LISTED_AT_ONCE

    def remember_entries(
        self, inode: Inode, server: Server, asked: float, entries: list[tuple[bytes, os.stat_result]]
    ) -> None:
        """Keeps what a directory holds for the time when no server answers."""
        before = self._entries.pop(inode.number, None)
        self._entries_count -= len(before[2]) if before is not None else 0
        self._entries[inode.number] = (server, asked, entries)
        self._entries_count += len(entries)
        while self._entries_count > REMEMBERED_ENTRIES:
            _, (_, _, oldest) = self._entries.popitem(last=False)
            self._entries_count -= len(oldest)

    def remembered_entries(self, inode: Inode) -> "Entries | None":
        """Who said last what a directory holds, when it was asked, and what it said."""
        return self._entries.get(inode.number)

    async def _ask(
        self,
        inode: Inode,
        work: Callable[[Server], T],
        *,
        reading: bool = False,
        small: bool = False,
        wait: bool = True,
    ) -> tuple[Server, T]:
        """Has a server do work on a known inode.

        The name that it goes by may be gone while the inode has others, or has moved: ESTALE has the kernel
        look it up again, and only that lookup can say that a name does not exist.
        """
        try:
            return await self._upstreams.call(work, reading=reading, small=small, wait=wait)
        except (FileNotFoundError, NotADirectoryError):
            raise ReplacedError from None

    async def _open_source(self, inode: Inode) -> Opened:
        asked = trio.current_time()
        server, opened = await self._ask(inode, lambda server: self._open_same(server, inode), wait=False)
        self.table.confirm(inode, server, opened.attributes, asked)
        return opened

    def _open_same(self, server: Server, inode: Inode) -> Opened:
        """Opens what stands in an inode's place, if it still is that inode. Blocks."""
        opened = server.open(inode.place)
        if not self.table.is_same(inode, server, opened.attributes):
            if inode.is_at_home(server):
                raise ReplacedError
            self._tell_difference(inode, server)
            raise ReplicaDiffersError
        return opened

    def _refuse_other(self, server: Server, inode: Inode, attributes: os.stat_result) -> None:
        """Refuses a copy that is not what the server has that the file is known from.

        Raises:
            ReplicaDiffersError: it is not.
        """
        if not inode.is_at_home(server) and not same_object(inode.attributes, attributes):
            self._tell_difference(inode, server)
            raise ReplicaDiffersError

    def _tell_difference(self, inode: Inode, server: Server) -> None:
        """Says that a server's copy of a file differs, once for each; from any thread."""
        key = (inode.number, server.birth)
        if key in self._told or len(self._told) >= TOLD_DIFFERENCES:
            return
        self._told.add(key)
        path = inode.place.path()
        self._events.warning(
            f"{path} differs on {server.source} and {inode.home.source}: they are not mixed",
            "other",
            path=path,
            server=server.source,
            before=inode.home.source,
        )

    def _read_source(
        self, server: Server, inode: Inode, offset: int, length: int
    ) -> tuple[Opened, bytes, os.stat_result]:
        """Reads from the source that is open, or opens it first. Blocks."""
        opened = inode.opened
        if opened is not None and opened.server is server and opened.current:
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
            self._refuse_other(server, inode, attributes)
            if len(data) < min(length, attributes.st_size - offset):
                # Never to be shown: the kernel would fill it up with zeros.
                raise OSError(errno.EIO, f"it gave only a part of {inode.place.path()}")
            blocks = [data[at : at + block_size] for at in range(0, len(data), block_size)]
            return opened, [(block, native.digest(block)) for block in blocks], attributes

        asked = trio.current_time()
        server, (opened, blocks, attributes) = await self._ask(
            inode, work, reading=True, small=length <= SMALL
        )
        server.reads += 1
        server.bytes_read += sum(len(block) for block, _ in blocks)
        before = inode.opened
        # One late answer is no reason to open it anew on the server that is asked next.
        if inode.handles > 0 and (
            before is None or not before.current or opened.server is self._upstreams.current
        ):
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


class _Xattr(NamedTuple):
    """What was said about an extended attribute of a file with these stamps: its value, or an errno."""

    stamps: tuple[int, int, int]
    value: bytes | None
    error: int


def _take_over(held: list[Listing], server: Server) -> Listing | None:
    """The listing that a server can go on with; it is taken from the list, so that nobody else does."""
    try:
        listing = held.pop()
    except IndexError:
        return None
    if listing.server is server and listing.serial == server.serial:
        return listing
    held.append(listing)
    return None


def _is_current(opened: Opened, inode: Inode) -> bool:
    """Whether an open source has not changed since, as far as is known."""
    if not opened.current:
        return False
    if inode.is_at_home(opened.server):
        return stamps(opened.attributes) == stamps(inode.attributes)
    return same_object(opened.attributes, inode.attributes)


def _stat(server: Server, inode: Inode, opened: Opened | None) -> os.stat_result:
    """The attributes of an inode; of the open file itself if there is one, for it may have lost its name."""
    if opened is not None and opened.server is server and opened.current and inode.is_at_home(server):
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
