"""What is open on a server: files, and directories that are being listed."""

import contextlib
import errno
import os
import queue
from collections.abc import Container, Iterator
from typing import TYPE_CHECKING

from orioncache.upstream.pool import progress

if TYPE_CHECKING:
    from orioncache.upstream.server import Server


class ReplacedError(OSError):
    """Something else stands where a file was: ESTALE, so that the kernel looks its name up again."""

    def __init__(self) -> None:
        super().__init__(errno.ESTALE, os.strerror(errno.ESTALE))


class ReplicaDiffersError(OSError):
    """A server holds something else than the one that was asked before: its content must not be mixed in."""

    def __init__(self) -> None:
        super().__init__(errno.ESTALE, "the servers' copies differ")


class OpenPath:
    """An O_PATH descriptor of a directory that closes when nobody uses it any more; that asks no server."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class Opened:
    """A file open for reading; closes when nobody uses it any more, in the server's closing thread.

    Attributes:
        server: where it is open.
        serial: of the server's mount on which it is open.
        fd: the descriptor.
        attributes: what fstat said when it was opened.
    """

    __slots__ = ("__weakref__", "_closing", "attributes", "fd", "serial", "server")

    def __init__(
        self, server: "Server", fd: int, attributes: os.stat_result, closing: "queue.SimpleQueue[int | None]"
    ) -> None:
        self.server = server
        self.serial = server.serial
        self.fd = fd
        self.attributes = attributes
        self._closing = closing

    def __del__(self) -> None:
        # Closing a file on NFS asks the server: not in the thread that happens to drop the last reference.
        self._closing.put(self.fd)

    @property
    def current(self) -> bool:
        """Whether it can be read: after its server was mounted anew, it leads nowhere."""
        return self.serial == self.server.serial

    def read(self, offset: int, length: int) -> tuple[bytes, os.stat_result]:
        """Bytes from ``offset``, fewer only at the file's end, and the attributes after reading. Blocks."""
        data = os.pread(self.fd, length, offset)
        progress()
        while 0 < len(data) < length:
            more = os.pread(self.fd, length - len(data), offset + len(data))
            if not more:
                break
            data += more
            progress()
        return data, os.fstat(self.fd)


class Listing:
    """A directory being read from its beginning; used by one thread at a time."""

    def __init__(self, server: "Server", fd: int) -> None:
        self.server = server
        self.serial = server.serial
        self._directory = OpenPath(fd)
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
            progress()
            if len(batch) == count:
                break
        return batch
