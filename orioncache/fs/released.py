"""The tree of a release: names and attributes from its manifest, content from its packs on the servers."""

import collections
import errno
import os
import stat
import threading
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from orioncache.events import Events
from orioncache.fs.reader import BlockReader
from orioncache.native import DIGEST_SIZE, digests
from orioncache.release.detect import PACKS, pack_name
from orioncache.release.format import HAS_ACLS, HAS_XATTRS, NAME_MAX
from orioncache.release.manifest import Block, Manifest
from orioncache.upstream import Opened, Place, ReplicaDiffersError, Server, UpstreamSet

# A release never changes: as good as for ever, in seconds.
FOR_EVER = 1e9
DIRECTORY_SIZE = 4096
STATFS_BLOCK = 4096
# Packs that are kept open, for each server.
OPEN_PACKS = 64

# A read of so many bytes takes a round trip and no more.
SMALL = 64 << 10

_PACKS_PLACE = Place(Place(), PACKS.encode())


class ReleasedNode(NamedTuple):
    """A node, made anew whenever it is asked for: the manifest is all the state there is.

    Attributes:
        number: the inode's number in the manifest, and one, because the kernel's root is 1.
        attributes: what users see.
    """

    number: int
    attributes: os.stat_result


class _Figures(NamedTuple):
    """What statvfs says."""

    f_blocks: int
    f_files: int
    f_bsize: int = STATFS_BLOCK
    f_frsize: int = STATFS_BLOCK
    f_bfree: int = 0
    f_bavail: int = 0
    f_ffree: int = 0
    f_favail: int = 0
    f_namemax: int = NAME_MAX


class ReleaseTree:
    """A :class:`~orioncache.fs.tree.Tree` that asks servers for content alone, and believes none of them.

    Attributes:
        manifest: everything but the content.
        has_xattrs, has_acls: as the manifest says.
        generation: from its digest.
    """

    def __init__(
        self, manifest: Manifest, upstreams: UpstreamSet, reader: BlockReader, events: Events
    ) -> None:
        self.manifest = manifest
        self.has_xattrs = bool(manifest.header.flags & HAS_XATTRS)
        self.has_acls = bool(manifest.header.flags & HAS_ACLS)
        self.generation = int.from_bytes(manifest.header.digest[:8], "little")
        self._upstreams = upstreams
        self._reader = reader
        self._events = events
        self._condemned: set[int] = set()
        self._packs_lock = threading.Lock()
        self._packs: collections.OrderedDict[tuple[int, int], Opened] = collections.OrderedDict()

    @property
    def inodes(self) -> int:
        """How many inodes there are: no count is kept of those that the kernel knows."""
        return self.manifest.inodes

    def get(self, number: int) -> ReleasedNode:
        """The node that the kernel means; ESTALE if there is none."""
        inode = self.manifest.inode(number - 1)
        directory = stat.S_ISDIR(inode.mode)
        stamp = inode.mtime * 1_000_000_000 + inode.mtime_nsec
        allocated = self.manifest.allocated(number - 1)
        attributes = os.stat_result(
            (
                *(inode.mode, number, 0, inode.nlink, inode.uid, inode.gid),
                *(DIRECTORY_SIZE if directory else inode.size, inode.mtime, inode.mtime, inode.mtime),
            ),
            {
                "st_atime_ns": stamp,
                "st_mtime_ns": stamp,
                "st_ctime_ns": stamp,
                "st_rdev": inode.rdev,
                "st_blksize": self.manifest.header.block_size,
                "st_blocks": -(-allocated // 512),
            },
        )
        return ReleasedNode(number, attributes)

    def count(self, inode: ReleasedNode) -> None:
        """Nothing is kept for a node."""

    def release(self, inode: ReleasedNode) -> None:
        """Nothing is kept for a node."""

    def forget(self, number: int, lookups: int) -> None:
        """Nothing is kept for a node."""

    def lifetime(self, _: ReleasedNode | None) -> float:
        """For ever, also that there is no such name."""
        return FOR_EVER

    def parent(self, inode: ReleasedNode) -> ReleasedNode:
        """The directory that holds a directory."""
        return self.get(self.manifest.inode(inode.number - 1).parent + 1)

    def shown_number(self, inode: ReleasedNode) -> int:
        """The number that users shall see."""
        return inode.number

    async def lookup(self, parent: ReleasedNode, name: bytes) -> ReleasedNode | None:
        """What has this name in a directory; None if nothing has."""
        try:
            return self.get(self.manifest.lookup(parent.number - 1, name) + 1)
        except FileNotFoundError:
            return None

    async def refresh(self, inode: ReleasedNode) -> None:
        """Nothing changes."""

    async def target(self, inode: ReleasedNode) -> bytes:
        """A symlink's target."""
        return self.manifest.target(inode.number - 1)

    async def xattr(self, inode: ReleasedNode, name: bytes) -> bytes:
        """The value of an extended attribute."""
        return self.manifest.xattr(inode.number - 1, name)

    async def xattrs(self, inode: ReleasedNode) -> list[bytes]:
        """The names of the extended attributes."""
        return self.manifest.xattrs(inode.number - 1)

    async def statvfs(self) -> _Figures:
        """The file system's figures: full, as it takes no more."""
        return _Figures(-(-self.manifest.header.content_bytes // STATFS_BLOCK), self.manifest.inodes)

    async def open(self, inode: ReleasedNode) -> bool:
        """There is nothing to open, as content is found by its digest; what the kernel has cached holds."""
        if not stat.S_ISREG(inode.attributes.st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return True

    def open_directory(self, inode: ReleasedNode) -> "ReleasedDirectory":
        """Opens a directory."""
        return ReleasedDirectory(self, inode)

    def close(self, inode: ReleasedNode) -> None:
        """Nothing was opened."""

    async def read(self, inode: ReleasedNode, offset: int, length: int) -> bytes | memoryview:
        """Bytes of a file; fewer than asked for only at its end."""
        end = min(offset + length, inode.attributes.st_size)
        return await self._reader.read(_Content(self, inode.number - 1), offset, end)

    def stored(self, key: bytes) -> bytes | None:
        """A block, if it is here."""
        return self._reader.store.get(key)

    async def fetch(self, number: int, blocks: Sequence[tuple[int, Block]]) -> list[bytes | OSError]:
        """Reads blocks that follow each other in a pack, each from the first server that has a good copy.

        Args:
            number: the inode's, for messages.
            blocks: each with its number in the file.

        Returns:
            For each the bytes, or EIO if no server has a good copy.
        """
        good: dict[int, bytes] = {}
        tried: list[str] = []

        def work(server: Server) -> int:
            """Reads what is still missing; says how many bytes."""
            missing = [(at, block) for at, block in blocks if at not in good]
            # All at once, or after a server that gave some of them damaged: each by itself.
            runs = [missing] if len(missing) == len(blocks) else [[one] for one in missing]
            tried.append(server.source)
            count = 0
            for run in runs:
                count += self._read_run(server, number, run, good)
            if len(good) < len(blocks):
                raise ReplicaDiffersError
            return count

        failure = errno.EIO
        try:
            small = sum(block.length for _, block in blocks) <= SMALL
            server, count = await self._upstreams.call(work, reading=True, small=small)
            server.reads += 1
            server.bytes_read += count
        except OSError as error:
            if error.errno != errno.ESTALE:
                failure = error.errno or errno.EIO
        for at, block in blocks:
            if at in good:
                self._reader.store.put(good[at], _key(block))
            else:
                servers = ", ".join(dict.fromkeys(tried)) or "any"
                self._events.warning(
                    f"block {at} of {self._path(number)} cannot be read: no good copy on {servers}"
                )
        return [good[at] if at in good else OSError(failure, os.strerror(failure)) for at, _ in blocks]

    def _read_run(
        self, server: Server, number: int, run: Sequence[tuple[int, Block]], good: dict[int, bytes]
    ) -> int:
        """Reads blocks that follow each other, and keeps those that are what the manifest says. Blocks."""
        begin = run[0][1].offset
        length = run[-1][1].offset + run[-1][1].length - begin
        data = self._read_pack(server, run[0][1].pack, begin, length)
        for at, block in run:
            part = data[block.offset - begin :][: block.length]
            if digests.digest(self.manifest.header.digest_kind, part) == block.digest:
                good[at] = part
            else:
                self._damaged(server, number, at, block, part)
        return len(data)

    def _read_pack(self, server: Server, pack: int, offset: int, length: int) -> bytes:
        """Bytes of a pack, fewer if it is shorter than the manifest says. Blocks."""
        key = server.serial, pack
        with self._packs_lock:
            opened = self._packs.get(key)
        if opened is not None:
            try:
                return opened.read(offset, length)[0]
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise
        identity, _ = self.manifest.pack(pack)
        try:
            opened = server.open(Place(_PACKS_PLACE, pack_name(identity)), follow=True)
        except FileNotFoundError:
            # This server's trouble alone: the next one may have it.
            self._condemn(server, f"it has no pack {identity.hex()}", pack=identity.hex())
            raise ReplicaDiffersError from None
        with self._packs_lock:
            self._packs[key] = opened
            if len(self._packs) > OPEN_PACKS * len(self._upstreams.servers):
                self._packs.popitem(last=False)
        return opened.read(offset, length)[0]

    def _damaged(self, server: Server, number: int, at: int, block: Block, part: bytes) -> None:
        """A server gave something else than the manifest says: that is proof enough."""
        assert block.digest is not None
        server.mismatches += 1
        path = self._path(number)
        got = digests.digest(self.manifest.header.digest_kind, part).hex()
        expected = block.digest.hex()
        self._condemn(
            server,
            f"block {at} of {path} is damaged: its digest is {got}, not {expected}",
            path=path,
            block=at,
            expected=expected,
            got=got,
        )

    def _condemn(self, server: Server, reason: str, **proof: str | int) -> None:
        """Has a server quarantined; one proof is enough."""
        if server.serial not in self._condemned:
            self._condemned.add(server.serial)
            self._upstreams.quarantine(server, reason, **proof)

    def _path(self, number: int) -> str:
        try:
            return "/" + self.manifest.path(number).decode(errors="backslashreplace")
        except OSError:
            return f"inode {number}"


class ReleasedDirectory:
    """A directory that is being listed; positions are those of the manifest.

    Attributes:
        inode: the directory.
    """

    def __init__(self, tree: ReleaseTree, inode: ReleasedNode) -> None:
        self.inode = inode
        self._tree = tree

    async def entry(self, position: int, *, rewind: bool) -> tuple[int, bytes, ReleasedNode] | None:
        """The entry at a position; None at the end."""
        try:
            entry = self._tree.manifest.entry(self.inode.number - 1, position)
        except FileNotFoundError:
            return None
        return position, entry.name, self._tree.get(entry.inode + 1)


class _Content:
    """What a file holds; for :class:`~orioncache.fs.reader.BlockReader`."""

    def __init__(self, tree: ReleaseTree, number: int) -> None:
        self._tree = tree
        self._number = number
        self._blocks: dict[int, Block] = {}

    def key(self, number: int) -> Hashable:
        """As :class:`~orioncache.fs.reader.Content` has it."""
        return _key(self._block(number))

    def stored(self, number: int) -> bytes | None:
        """As :class:`~orioncache.fs.reader.Content` has it; a hole is always here."""
        block = self._block(number)
        return bytes(block.length) if block.digest is None else self._tree.stored(_key(block))

    def follows(self, one: int, other: int) -> bool:
        """As :class:`~orioncache.fs.reader.Content` has it."""
        behind, before = self._block(one), self._block(other)
        return behind.pack == before.pack and behind.offset == before.offset + before.length

    async def fetch(self, numbers: Sequence[int]) -> list[bytes | OSError]:
        """As :class:`~orioncache.fs.reader.Content` has it."""
        return await self._tree.fetch(self._number, [(number, self._block(number)) for number in numbers])

    def _block(self, number: int) -> Block:
        if number not in self._blocks:
            self._blocks[number] = self._tree.manifest.block(self._number, number)
        return self._blocks[number]


def _key(block: Block) -> bytes:
    """A block's name in the store."""
    assert block.digest is not None, "a hole is not stored"
    return block.digest[:DIGEST_SIZE]
