"""FUSE requests, translated: the work is done by the tree."""

import collections
import errno
import functools
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import pyfuse3
import trio

from orioncache.fs.tree import Directory, Node, Tree

log = logging.getLogger(__name__)

ROOT_NUMBER = 1  # the kernel's

T = TypeVar("T")


def _handler(method: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
    """Counts the requests, and turns errors of the tree into answers.

    A bug costs the request that met it, not the mount: a node would lose its root.
    """
    name = method.__name__

    @functools.wraps(method)
    async def handler(self: "Operations", *args: Any) -> T:  # noqa: ANN401
        self.upcalls[name] += 1
        try:
            return await method(self, *args)
        except pyfuse3.FUSEError:
            raise
        except OSError as error:
            raise pyfuse3.FUSEError(error.errno or errno.EIO) from None
        except Exception:
            log.exception("%s failed", name)
            raise pyfuse3.FUSEError(errno.EIO) from None

    return handler


def _refusal(name: str) -> Callable[..., Awaitable[None]]:
    """The answer to a request that would change something, should one come: the mount is read-only."""

    async def handler(self: "Operations", *_: object) -> None:
        self.upcalls[name] += 1
        raise pyfuse3.FUSEError(errno.EROFS)

    return handler


class Operations(pyfuse3.Operations):  # type: ignore[misc]
    """The handlers of a read-only mount of a :class:`~orioncache.fs.tree.Tree`, of whichever kind.

    Attributes:
        upcalls: how many requests of each kind the kernel has sent.
        ready: set when the kernel has begun to use the mount.
    """

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self, tree: Tree[Any]) -> None:
        super().__init__()
        self.enable_acl = tree.has_acls
        self.upcalls: collections.Counter[str] = collections.Counter()
        self.ready = trio.Event()
        self._tree = tree
        self._files: dict[int, Node] = {}
        self._directories: dict[int, Directory[Any]] = {}
        self._next_handle = 0

    def init(self) -> None:
        """The kernel's first request."""
        self.ready.set()

    @_handler
    async def lookup(self, parent: int, name: bytes, _: object) -> pyfuse3.EntryAttributes:
        """An entry of a directory; one without a number tells the kernel to remember that there is none."""
        inode = await self._tree.lookup(self._tree.get(parent), name)
        if inode is None:
            nothing = pyfuse3.EntryAttributes()
            nothing.st_ino = 0
            nothing.entry_timeout = self._tree.lifetime(None)
            return nothing
        self._tree.count(inode)
        return self._attributes(inode)

    async def forget(self, forgotten: Sequence[tuple[int, int]]) -> None:
        """The kernel dropped inodes from its cache."""
        self.upcalls["forget"] += 1
        for number, lookups in forgotten:
            self._tree.forget(number, lookups)

    @_handler
    async def getattr(self, number: int, _: object) -> pyfuse3.EntryAttributes:
        """The attributes of an inode."""
        inode = self._tree.get(number)
        await self._tree.refresh(inode)
        attributes = self._attributes(inode)
        if number == ROOT_NUMBER:
            # The kernel's number for the root is always 1, but users may see the source's.
            attributes.st_ino = self._tree.shown_number(inode)
        return attributes

    @_handler
    async def readlink(self, number: int, _: object) -> bytes:
        """A symlink's target."""
        return await self._tree.target(self._tree.get(number))

    @_handler
    async def open(self, number: int, flags: int, _: object) -> pyfuse3.FileInfo:
        """Opens a file; the kernel keeps what it has cached of it unless the content changed since."""
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            raise pyfuse3.FUSEError(errno.EROFS)
        inode = self._tree.get(number)
        unchanged = await self._tree.open(inode)
        handle = self._new_handle()
        self._files[handle] = inode
        return pyfuse3.FileInfo(fh=handle, keep_cache=unchanged)

    @_handler
    async def read(self, handle: int, offset: int, size: int) -> bytes | memoryview:
        """Bytes of an open file."""
        return await self._tree.read(self._files[handle], offset, size)

    @_handler
    async def release(self, handle: int) -> None:
        """Closes a file."""
        self._tree.close(self._files.pop(handle))

    @_handler
    async def opendir(self, number: int, _: object) -> int:
        """Opens a directory; the source is asked when it is read."""
        inode = self._tree.get(number)
        handle = self._new_handle()
        self._directories[handle] = self._tree.open_directory(inode)
        return handle

    @_handler
    async def readdir(self, handle: int, start: int, token: pyfuse3.ReaddirToken) -> None:
        """Entries from position ``start`` on, with attributes, as many as fit."""
        await self._reply_entries(self._directories[handle], start, token)

    @_handler
    async def releasedir(self, handle: int) -> None:
        """Closes a directory."""
        self._tree.close(self._directories.pop(handle).inode)

    @_handler
    async def statfs(self, _: object) -> pyfuse3.StatvfsData:
        """The source's figures."""
        figures = await self._tree.statvfs()
        answer = pyfuse3.StatvfsData()
        for field in ("bsize", "frsize", "blocks", "bfree", "bavail", "files", "ffree", "favail", "namemax"):
            setattr(answer, f"f_{field}", getattr(figures, f"f_{field}"))
        return answer

    @_handler
    async def getxattr(self, number: int, name: bytes, _: object) -> bytes:
        """The value of an extended attribute.

        If there are none at all, ENOSYS tells the kernel to ask no more.
        """
        if not self._tree.has_xattrs:
            raise pyfuse3.FUSEError(errno.ENOSYS)
        return await self._tree.xattr(self._tree.get(number), name)

    @_handler
    async def listxattr(self, number: int, _: object) -> list[bytes]:
        """The names of the extended attributes."""
        if not self._tree.has_xattrs:
            raise pyfuse3.FUSEError(errno.ENOSYS)
        return await self._tree.xattrs(self._tree.get(number))

    setattr = _refusal("setattr")
    mknod = _refusal("mknod")
    mkdir = _refusal("mkdir")
    unlink = _refusal("unlink")
    rmdir = _refusal("rmdir")
    symlink = _refusal("symlink")
    rename = _refusal("rename")
    link = _refusal("link")
    write = _refusal("write")
    create = _refusal("create")
    setxattr = _refusal("setxattr")
    removexattr = _refusal("removexattr")

    def _new_handle(self) -> int:
        self._next_handle += 1
        return self._next_handle

    def _attributes(self, inode: Node) -> pyfuse3.EntryAttributes:
        had = inode.attributes
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode.number
        entry.generation = self._tree.generation
        entry.entry_timeout = entry.attr_timeout = self._tree.lifetime(inode)
        entry.st_mode = had.st_mode
        entry.st_nlink = had.st_nlink
        entry.st_uid = had.st_uid
        entry.st_gid = had.st_gid
        entry.st_rdev = had.st_rdev
        entry.st_size = had.st_size
        entry.st_blksize = had.st_blksize
        entry.st_blocks = had.st_blocks
        entry.st_atime_ns = had.st_atime_ns
        entry.st_mtime_ns = had.st_mtime_ns
        entry.st_ctime_ns = had.st_ctime_ns
        return entry

    async def _reply_entries(
        self, directory: Directory[Any], start: int, token: pyfuse3.ReaddirToken
    ) -> None:
        """Replies with entries until the buffer is full. Offsets 0 and 1 are ``.`` and ``..``."""
        tree = self._tree
        offset = start
        while offset < 2:
            # The kernel takes only type and number from these two, and counts no lookup.
            dots = self._attributes(directory.inode)
            inode = directory.inode if offset == 0 else tree.parent(directory.inode)
            dots.st_ino = tree.shown_number(inode)
            if not pyfuse3.readdir_reply(token, b"." * (offset + 1), dots, offset + 1):
                return
            offset += 1
        while True:
            try:
                found = await directory.entry(offset - 2, rewind=start == 0 and offset == 2)
            except OSError:
                if offset > max(start, 2):
                    return  # What was found goes out; the next request meets the error again, or none.
                raise
            if found is None:
                return
            position, name, inode = found
            if not pyfuse3.readdir_reply(token, name, self._attributes(inode), position + 3):
                tree.release(inode)
                return
            tree.count(inode)
            offset = position + 3
