"""The mount of a pyfuse3 session: on the kernel's device, or behind the native engine."""

import contextlib
import logging
import os
from collections.abc import Sequence
from errno import ENOENT

import pyfuse3
import trio

from orioncache.errors import UserError
from orioncache.fs import mounting
from orioncache.fs.operations import Operations
from orioncache.native import mount as native_mount
from orioncache.native.live import LiveSession

# Requests that are worked on at the same time: those that wait for a dead server must not hold up the others.
# And tasks that wait for the next ones.
TASKS = 1000
IDLE_TASKS = 8


def _somebody_waits(record: logging.LogRecord) -> bool:
    """False for a reply whose request is gone, interrupted or with the mount: C says nothing then either."""
    return not record.getMessage().endswith(f"fuse_reply_* failed with {os.strerror(ENOENT)}")


logging.getLogger("pyfuse3").addFilter(_somebody_waits)


class Mount:
    """The mount of one pyfuse3 session; there can only be one in a process.

    We mount by ourselves and hand libfuse a descriptor: libfuse 3.14 fails with ``max_read`` otherwise.

    Attributes:
        path: the mount point.
        native: what stands between the kernel and pyfuse3; None if nothing does.
    """

    def __init__(
        self, operations: Operations, sources: Sequence[str], path: str, native: LiveSession | None
    ) -> None:
        """Mounts; requests are answered once ``pyfuse3.main()`` runs.

        Raises:
            UserError: it cannot be mounted there.
        """
        self.path = path
        self.native = native
        device = mounting.mount(",".join(sources), path)
        try:
            pyfuse3.init(operations, f"/dev/fd/{native.fd if native else device}", set())
            if native:
                native.start(device)
        except BaseException:
            self.detach()
            raise

    async def serve(self) -> None:
        """Answers requests until the mount is gone.

        Raises:
            OSError: the device failed.
        """
        try:
            await pyfuse3.main(min_tasks=IDLE_TASKS, max_tasks=TASKS)
        except* ConnectionAbortedError:
            # The kernel was handing us a request when the mount was forced away.
            pass

    async def ended(self) -> None:
        """Waits until the mount is gone, if pyfuse3 does not see that by itself, and ends pyfuse3."""
        if self.native:
            await trio.lowlevel.wait_readable(self.native.ended_fd)
            self.stop()

    def stop(self) -> None:
        """Has ``serve()`` return."""
        pyfuse3.terminate()

    def widen_readahead(self) -> bool:
        """Lets the kernel read as far ahead as it may; whether it could be set. Blocks; after INIT."""
        return native_mount.widen_readahead(self.path)

    def detach(self) -> None:
        """Takes the mount away, if it is still there; whoever still uses it gets errors from now on."""
        if mounting.is_mounted(self.path):
            with contextlib.suppress(OSError, UserError):
                mounting.unmount(self.path)

    def close(self) -> None:
        """Ends the session."""
        self.detach()
        pyfuse3.close(unmount=False)
        if self.native:
            self.native.close()
