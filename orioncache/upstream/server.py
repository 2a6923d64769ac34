"""One server: a mounted directory that is read only relative to descriptors taken at the start.

The functions that ask the source block, perhaps for ever if it is a dead NFS mount. :meth:`Server.call` runs
them in threads; everything else here returns at once.
"""

import collections
import contextlib
import enum
import errno
import os
import queue
import stat
import threading
import time
from collections.abc import Callable, Container, Iterator
from typing import TypeVar

import trio

from orioncache.errors import UserError
from orioncache.mounts import NFS_TYPES, filesystem_type
from orioncache.upstream.place import Place

T = TypeVar("T")

# Descriptors of directories that are kept open, for each server.
DIRECTORIES = 2048

# Latencies that the quantiles are taken from: the last so many calls.
LATENCIES = 512


class ServerState(enum.Enum):
    """What is believed about a server.

    UP: it answers. SUSPECT: its last call failed or timed out; it is asked after all that are up.
    """

    UP = "up"
    SUSPECT = "suspect"


class ProcPaths:
    """Paths of our own open descriptors, for system calls that take paths only, and for opening them anew.

    Attributes:
        prefix: what stands before a descriptor's number.
    """

    def __init__(self, *, from_working_directory: bool = False) -> None:
        """Finds ``/proc/self/fd``.

        Args:
            from_working_directory: make it the working directory, for a daemon from under which ``/proc``
                will be moved away. To be done after the last fork.
        """
        self.prefix = b"" if from_working_directory else b"/proc/self/fd/"
        if from_working_directory:
            os.chdir("/proc/self/fd")

    def below(self, fd: int, name: bytes) -> bytes:
        """A path of ``name`` in the directory that ``fd`` stands for."""
        return b"%s%d/%s" % (self.prefix, fd, name)

    def of(self, fd: int) -> bytes:
        """A path of what ``fd`` stands for."""
        return b"%s%d" % (self.prefix, fd)


class ReplacedError(OSError):
    """Something else stands where a file was: ESTALE, so that the kernel looks its name up again."""

    def __init__(self) -> None:
        super().__init__(errno.ESTALE, os.strerror(errno.ESTALE))


class _Slot:
    """A limiter for one call that has its slot already; handed to trio, which gives the slot back.

    Invariant: the slot is given back once, when the thread ends, or by :meth:`unless_started`.
    """

    def __init__(self, limiter: trio.CapacityLimiter) -> None:
        self._limiter = limiter
        self._started = False

    async def acquire(self) -> None:
        """Waits for a slot."""
        await self._limiter.acquire_on_behalf_of(self)

    async def acquire_on_behalf_of(self, _: object) -> None:
        """Called by trio just before the thread starts."""
        self._started = True

    def release_on_behalf_of(self, _: object) -> None:
        """Called by trio when the thread has ended, abandoned or not."""
        self._limiter.release_on_behalf_of(self)

    def unless_started(self) -> None:
        """Gives the slot back if trio never took it over."""
        if not self._started:
            self._limiter.release_on_behalf_of(self)


class _Directory:
    """An O_PATH descriptor that closes when nobody uses it any more; that never asks a server."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class Opened:
    """A file open for reading; closes when nobody uses it any more, in the server's closing thread.

    Attributes:
        server: where it is open.
        fd: the descriptor.
        attributes: what fstat said when it was opened.
    """

    __slots__ = ("attributes", "fd", "server")

    def __init__(self, server: "Server", fd: int, attributes: os.stat_result) -> None:
        self.server = server
        self.fd = fd
        self.attributes = attributes

    def __del__(self) -> None:
        # Closing a file on NFS asks the server: not in the thread that happens to drop the last reference.
        self.server.closing.put(self.fd)

    def read(self, offset: int, length: int) -> tuple[bytes, os.stat_result]:
        """Bytes from ``offset``, fewer only at the file's end, and the attributes after reading. Blocks."""
        data = os.pread(self.fd, length, offset)
        while 0 < len(data) < length:
            more = os.pread(self.fd, length - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data, os.fstat(self.fd)


class Listing:
    """A directory being read from its beginning; used by one thread at a time."""

    def __init__(self, server: "Server", fd: int) -> None:
        self.server = server
        self._directory = _Directory(fd)
        self._entries: Iterator[os.DirEntry[str]] = os.scandir(fd)

    def next(self, count: int, known: Container[bytes]) -> list[tuple[bytes, os.stat_result]]:
        """The next names that are not known yet, with their attributes; fewer than ``count`` only at the end.

        Blocks. After an error the listing is of no use any more.
        """
        batch: list[tuple[bytes, os.stat_result]] = []
        for entry in self._entries:
            name = os.fsencode(entry.name)
            if name in known:
                continue
            # A name may go between being listed and being looked at.
            with contextlib.suppress(FileNotFoundError):
                batch.append((name, entry.stat(follow_symlinks=False)))
            if len(batch) == count:
                break
        return batch


class Server:
    """One of the directories that hold the tree.

    Attributes:
        source: the directory's path, as the user gave it.
        index: its rank in the order that the user gave.
        is_nfs: whether reads shall pass by the page cache, which would hold everything twice.
        state: what is believed about it; kept by :class:`~orioncache.upstream.servers.UpstreamSet`.
        calls, reads, bytes_read, errors, timeouts: counts since the start.
        mismatches: blocks of a release that were not what its manifest says.
        closing: descriptors of files to close.
    """

    def __init__(self, source: str, index: int, readers: int, proc: ProcPaths) -> None:
        """Opens the directory; all later calls are relative to it.

        Args:
            source: a directory.
            index: its rank in the order that the user gave.
            readers: how many threads may read from it at once; as many again may ask for attributes and
                names.
            proc: how to reach our own descriptors.

        Raises:
            UserError: there is no such directory.
        """
        self.source = source
        self.index = index
        self.state = ServerState.UP
        try:
            self._root = _Directory(os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as error:
            raise UserError(
                f"{source}: {error.strerror}", "a source is a directory, or where NFS is mounted"
            ) from None
        self.is_nfs = filesystem_type(os.fstat(self._root.fd).st_dev) in NFS_TYPES
        self._proc = proc
        self._directories: collections.OrderedDict[Place, _Directory] = collections.OrderedDict()
        self._directories_lock = threading.Lock()
        self._metadata_threads = trio.CapacityLimiter(readers)
        self._reading_threads = trio.CapacityLimiter(readers)
        self.calls = self.reads = self.bytes_read = self.errors = self.timeouts = self.mismatches = 0
        self._last_end = time.monotonic()
        self._latencies: collections.deque[float] = collections.deque(maxlen=LATENCIES)
        self.closing: queue.SimpleQueue[int] = queue.SimpleQueue()
        threading.Thread(target=self._close_files, name=f"close-{index}", daemon=True).start()

    async def call(self, work: Callable[["Server"], T], *, patience: float, reading: bool = False) -> T:
        """Runs ``work(self)`` in one of this server's threads.

        A call that takes too long is abandoned: its thread stays stuck in the kernel until the mount's own
        timeout ends it, and counts against this server's threads until then. A server has a bounded number of
        them and uses no other's, so a dead one cannot eat them all.

        Args:
            work: what to do; it blocks.
            patience: seconds from when it runs; and how long all threads may be busy without any call's end.
            reading: whether it reads file content, for which there are threads of their own.

        Raises:
            OSError: from ``work``; ETIMEDOUT after ``patience``.
        """
        slot = _Slot(self._reading_threads if reading else self._metadata_threads)
        self.calls += 1
        await self._wait_for(slot, patience)
        try:
            with trio.fail_after(patience):
                return await trio.to_thread.run_sync(
                    self._timed,
                    work,
                    abandon_on_cancel=True,
                    limiter=slot,  # type: ignore[arg-type]  # It is annotated with trio's own class.
                )
        except trio.TooSlowError:
            raise self._too_slow(patience) from None
        finally:
            slot.unless_started()

    async def _wait_for(self, slot: _Slot, patience: float) -> None:
        """Waits for a thread as long as calls end now and then: much to do makes no dead server."""
        asked = time.monotonic()
        while True:
            with trio.move_on_after(patience):
                await slot.acquire()
                return
            if time.monotonic() - max(asked, self._last_end) >= patience:
                raise self._too_slow(patience)

    def _too_slow(self, patience: float) -> OSError:
        self.timeouts += 1
        return OSError(errno.ETIMEDOUT, f"no answer within {patience:g} s")

    def _timed(self, work: Callable[["Server"], T]) -> T:
        started = time.monotonic()
        try:
            return work(self)
        finally:
            self._last_end = time.monotonic()
            self._latencies.append(self._last_end - started)

    def latency_ms(self) -> dict[str, float]:
        """Quantiles ``p50`` and ``p95`` over the last calls that ended, in milliseconds; or zeros."""
        sample = sorted(self._latencies.copy())
        if not sample:
            return {"p50": 0.0, "p95": 0.0}
        return {
            name: round(1000 * sample[int(q * (len(sample) - 1))], 3)
            for name, q in (("p50", 0.5), ("p95", 0.95))
        }

    # What follows blocks, and is for `work` alone.

    def stat(self, place: Place) -> os.stat_result:
        """The attributes of what stands there; of a symlink itself."""
        if place.parent is None:
            return os.fstat(self._root.fd)
        return os.stat(place.name, dir_fd=self._directory(place.parent).fd, follow_symlinks=False)

    def read_link(self, place: Place) -> bytes:
        """A symlink's target."""
        if place.parent is None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return os.readlink(place.name, dir_fd=self._directory(place.parent).fd)

    def list_xattrs(self, place: Place) -> list[bytes]:
        """The names of the extended attributes."""
        directory, path, follow = self._xattr_path(place)
        try:
            return [os.fsencode(name) for name in os.listxattr(path, follow_symlinks=follow)]
        finally:
            del directory

    def get_xattr(self, place: Place, name: bytes) -> bytes:
        """The value of one extended attribute."""
        directory, path, follow = self._xattr_path(place)
        try:
            return os.getxattr(path, name, follow_symlinks=follow)
        finally:
            del directory

    @property
    def directory(self) -> int:
        """The root's O_PATH descriptor; to ask anything of it blocks."""
        return self._root.fd

    def open(self, place: Place, *, follow: bool = False) -> Opened:
        """Opens a regular file. Nothing else is ever opened: opening a device can have effects of its own.

        Args:
            place: where it stands.
            follow: take what a symlink there leads to, instead of refusing it.

        Raises:
            OSError: ESTALE if what stands there is no regular file (any more).
        """
        if place.parent is None:
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        parent = self._directory(place.parent)
        flags = os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
        found = os.open(place.name, flags, dir_fd=parent.fd)
        try:
            attributes = os.fstat(found)
            if not stat.S_ISREG(attributes.st_mode):
                raise ReplacedError
            return Opened(self, self._open_anew(found), attributes)
        finally:
            os.close(found)

    def begin_listing(self, place: Place) -> Listing:
        """Begins to read a directory."""
        directory = self._directory(place)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        return Listing(self, os.open(b".", flags, dir_fd=directory.fd))

    def statvfs(self) -> os.statvfs_result:
        """The file system's figures."""
        return os.fstatvfs(self._root.fd)

    def forget_directories(self) -> None:
        """Forgets which directories are open, after one of them turned out to be stale."""
        with self._directories_lock:
            self._directories.clear()

    def _open_anew(self, found: int) -> int:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY
        if self.is_nfs:
            try:
                return os.open(self._proc.of(found), flags | os.O_DIRECT)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
        return os.open(self._proc.of(found), flags)

    def _xattr_path(self, place: Place) -> tuple[_Directory, bytes, bool]:
        """A directory to hold on to while the path is used, the path, and whether to follow its last part.

        The last part is a name, not followed, so that nothing has to be opened and symlinks have attributes
        too; but the root's is the link in /proc.
        """
        if place.parent is None:
            return self._root, self._proc.of(self._root.fd), True
        directory = self._directory(place.parent)
        return directory, self._proc.below(directory.fd, place.name), False

    def _directory(self, place: Place) -> _Directory:
        """A directory's descriptor, opened from its nearest ancestor that is open."""
        missing = []
        with self._directories_lock:
            at: Place = place
            while True:
                directory = self._root if at.parent is None else self._directories.get(at)
                if directory is not None:
                    if at.parent is not None:
                        self._directories.move_to_end(at)
                    break
                missing.append(at)
                assert at.parent is not None
                at = at.parent
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        for at in reversed(missing):
            directory = _Directory(os.open(at.name, flags, dir_fd=directory.fd))
            with self._directories_lock:
                self._directories[at] = directory
                while len(self._directories) > DIRECTORIES:
                    self._directories.popitem(last=False)
        return directory

    def _close_files(self) -> None:
        while True:
            fd = self.closing.get()
            # NFS reports late errors of other calls here, and there is nobody left to tell.
            with contextlib.suppress(OSError):
                os.close(fd)
