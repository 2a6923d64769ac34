"""One server: a mounted directory that is read only relative to descriptors taken at the start.

The functions that ask the source block, perhaps for ever if it is a dead NFS mount. They are work for
:meth:`Server.submit`, which has them done in threads; everything else here returns at once.
"""

import collections
import contextlib
import errno
import itertools
import os
import queue
import stat
import threading
import time
import weakref
from collections.abc import Callable

from orioncache.errors import UserError
from orioncache.mounts import NFS_TYPES, filesystem_type
from orioncache.upstream.member import Member
from orioncache.upstream.opened import Listing, Opened, OpenPath, ReplacedError
from orioncache.upstream.place import Place
from orioncache.upstream.pool import Job, Pool, progress

# Descriptors of directories that are kept open, for each server.
DIRECTORIES = 2048

# Bytes that a probe reads.
PROBED = 512

# Each mount of each server has a number of its own.
_serials = itertools.count()


def _nothing() -> None:
    return None


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


class _Mounted:
    """One mount of a server, from its root descriptor on; another one after it was mounted anew.

    Attributes:
        root: the descriptor.
        is_nfs: whether reads shall pass by the page cache, which would hold everything twice.
        directories: those that are open, the one used last at the end; under ``lock``.
        closing: descriptors of files to close; None ends the thread that does, once all are closed.
        opened: how many files were opened; under ``lock``.
        readers, askers, probers: threads for file content, for all else, and for probes.
    """

    def __init__(
        self, root: OpenPath, name: str, threads: int, clock: Callable[[], float], *, is_nfs: bool
    ) -> None:
        self.root = root
        self.is_nfs = is_nfs
        self.directories: collections.OrderedDict[Place, OpenPath] = collections.OrderedDict()
        self.lock = threading.Lock()
        self.closing: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self.opened = 0
        self.readers = Pool(f"read-{name}", threads, clock)
        self.askers = Pool(f"ask-{name}", threads, clock)
        self.probers = Pool(f"probe-{name}", 1, clock)
        threading.Thread(target=self._close_files, name=f"close-{name}", daemon=True).start()

    @property
    def pools(self) -> tuple[Pool, Pool, Pool]:
        """All its threads."""
        return self.readers, self.askers, self.probers

    def pool(self, job: Job) -> Pool:
        """The threads for a job."""
        return self.probers if job.probe else self.readers if job.reading else self.askers

    def close(self) -> None:
        """Ends its threads, each when the kernel lets it go."""
        for pool in self.pools:
            pool.close()
        self.closing.put(None)

    def _close_files(self) -> None:
        closed, ending = 0, False
        while not ending or closed < self.opened:
            fd = self.closing.get()
            if fd is None:
                ending = True
                continue
            # NFS reports late errors of other calls here, and there is nobody left to tell.
            with contextlib.suppress(OSError):
                os.close(fd)
            closed += 1


class Server(Member):
    """One of the directories that hold the tree. The methods that block are for ``work`` alone."""

    def __init__(
        self,
        source: str,
        index: int,
        readers: int,
        proc: ProcPaths,
        *,
        root: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Opens the directory; all later calls are relative to it.

        Args:
            source: a directory.
            index: its rank in the order that the user gave.
            readers: how many threads may read from it at once; as many again may ask for attributes and
                names.
            proc: how to reach our own descriptors.
            root: its descriptor, if it is open already; it is taken over.
            clock: seconds.

        Raises:
            UserError: there is no such directory.
        """
        super().__init__(source, index, clock)
        self._proc = proc
        self._readers = readers
        try:
            opened = OpenPath(
                os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) if root is None else root
            )
        except OSError as error:
            raise UserError(
                f"{source}: {error.strerror}", "a source is a directory, or where NFS is mounted"
            ) from None
        self.serial = self.birth = next(_serials)
        is_nfs = filesystem_type(os.fstat(opened.fd).st_dev) in NFS_TYPES
        self._mounted = _Mounted(opened, str(index), readers, clock, is_nfs=is_nfs)
        self._before: list[_Mounted] = []
        # A file that is open for others is good for probes, too.
        self._probed: Callable[[], Opened | None] = _nothing
        self._abandoned = 0

    def replace(self, root: int) -> None:
        """It was mounted anew: from now on this descriptor is its root; it is taken over."""
        old = self._mounted
        # Nothing is asked of the descriptor here, and a node's /proc may be out of reach by now.
        fresh = _Mounted(OpenPath(root), str(self.index), self._readers, self.clock, is_nfs=old.is_nfs)
        self._abandoned += sum(pool.abandoned for pool in old.pools)
        self._before = [one for one in (*self._before, old) if any(pool.stuck for pool in one.pools)]
        self._probed = _nothing
        self._mounted = fresh
        self.serial = next(_serials)
        old.close()

    def close(self) -> None:
        """Ends its threads, each when the kernel lets it go."""
        self._mounted.close()

    def submit(self, job: Job) -> None:
        """Has a job done by one of the threads for its kind."""
        self._mounted.pool(job).submit(job)

    def drop(self, job: Job) -> None:
        """Nobody wants the answer to a job any more."""
        if job.serial == self.serial:
            self._mounted.pool(job).drop(job)

    @property
    def pending(self) -> int:
        """Questions that it has not answered yet."""
        return self._mounted.readers.busy + self._mounted.askers.busy

    @property
    def stuck(self) -> int:
        """Threads that were given up and have not come back."""
        return sum(pool.stuck for mounted in (self._mounted, *self._before) for pool in mounted.pools)

    @property
    def abandoned(self) -> int:
        """Threads that were given up so far."""
        return self._abandoned + sum(pool.abandoned for pool in self._mounted.pools)

    def give_up(self, before: float) -> None:
        """Gives up threads that have been in a question since before then."""
        for pool in self._mounted.pools:
            self.timeouts += pool.give_up(before)

    @property
    def is_nfs(self) -> bool:
        """Whether it is a mount of an NFS server."""
        return self._mounted.is_nfs

    @property
    def directory(self) -> int:
        """The root's O_PATH descriptor; to ask anything of it blocks."""
        return self._mounted.root.fd

    # What follows blocks.

    def probe(self) -> None:
        """Asks for something small that no cache of this machine answers."""
        opened = self._probed()
        if opened is None or not opened.current or not opened.attributes.st_size:
            opened = None
        if opened is None or not self.is_nfs:
            # Of other file systems the kernel may have the bytes.
            os.fstatvfs(self.directory)
        if opened is None:
            return
        try:
            os.pread(opened.fd, PROBED, 0)
        except OSError as error:
            # Perhaps the file is gone, which is none of the server's faults.
            if error.errno != errno.ESTALE:
                raise
            self._probed = _nothing

    def stat(self, place: Place) -> os.stat_result:
        """The attributes of what stands there; of a symlink itself."""
        if place.parent is None:
            return os.fstat(self.directory)
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
        mounted = self._mounted
        parent = self._directory(place.parent)
        flags = os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
        found = os.open(place.name, flags, dir_fd=parent.fd)
        progress()
        try:
            attributes = os.fstat(found)
            if not stat.S_ISREG(attributes.st_mode):
                raise ReplacedError
            fd = self._open_anew(found, direct=mounted.is_nfs)
            progress()
            with mounted.lock:
                mounted.opened += 1
            opened = Opened(self, fd, attributes, mounted.closing)
        finally:
            os.close(found)
        self._probed = weakref.ref(opened)
        return opened

    def begin_listing(self, place: Place) -> Listing:
        """Begins to read a directory."""
        directory = self._directory(place)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        return Listing(self, os.open(b".", flags, dir_fd=directory.fd))

    def statvfs(self) -> os.statvfs_result:
        """The file system's figures."""
        return os.fstatvfs(self.directory)

    def forget_directories(self) -> None:
        """Forgets which directories are open, after one of them turned out to be stale."""
        mounted = self._mounted
        with mounted.lock:
            mounted.directories.clear()

    def _open_anew(self, found: int, *, direct: bool) -> int:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY
        if direct:
            try:
                return os.open(self._proc.of(found), flags | os.O_DIRECT)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
        return os.open(self._proc.of(found), flags)

    def _xattr_path(self, place: Place) -> tuple[OpenPath, bytes, bool]:
        """A directory to hold on to while the path is used, the path, and whether to follow its last part.

        The last part is a name, not followed, so that nothing has to be opened and symlinks have attributes
        too; but the root's is the link in /proc.
        """
        if place.parent is None:
            root = self._mounted.root
            return root, self._proc.of(root.fd), True
        directory = self._directory(place.parent)
        return directory, self._proc.below(directory.fd, place.name), False

    def _directory(self, place: Place) -> OpenPath:
        """A directory's descriptor, opened from its nearest ancestor that is open."""
        mounted = self._mounted
        missing = []
        with mounted.lock:
            at: Place = place
            while True:
                directory = mounted.root if at.parent is None else mounted.directories.get(at)
                if directory is not None:
                    if at.parent is not None:
                        mounted.directories.move_to_end(at)
                    break
                missing.append(at)
                assert at.parent is not None
                at = at.parent
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        for at in reversed(missing):
            directory = OpenPath(os.open(at.name, flags, dir_fd=directory.fd))
            progress()
            with mounted.lock:
                mounted.directories[at] = directory
                while len(mounted.directories) > DIRECTORIES:
                    mounted.directories.popitem(last=False)
        return directory
