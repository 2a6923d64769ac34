"""The mount of a pyfuse3 session, without the help of a program where we are root."""

import contextlib
import os
from collections.abc import Sequence

import pyfuse3

from orioncache.errors import UserError
from orioncache.fs import mounting
from orioncache.fs.operations import Operations
from orioncache.native import mount as native_mount


class Mount:
    """The mount of one pyfuse3 session; there can only be one in a process.

    Attributes:
        path: the mount point.
    """

    def __init__(self, operations: Operations, sources: Sequence[str], path: str) -> None:
        """Mounts; requests are answered once ``pyfuse3.main()`` runs.

        As root we mount by ourselves and hand libfuse the descriptor: libfuse 3.14 fails with ``max_read``
        otherwise, and a node has no fusermount3. Other users get a mount that only they can use.

        Raises:
            UserError: it cannot be mounted there.
        """
        self.path = path
        self._by_us = os.geteuid() == 0
        source = ",".join(sources)
        if not self._by_us:
            options = {
                "ro",
                "default_permissions",
                "noatime",
                "subtype=orioncache",
                f"fsname={_escaped(source)}",
            }
            try:
                pyfuse3.init(operations, path, options)
            except RuntimeError:
                raise UserError(
                    f"fusermount3 cannot mount on {path}", "its message is above; or run it as root"
                ) from None
            return
        try:
            device = native_mount.mount(source, path)
        except OSError as error:
            raise UserError(f"cannot mount on {path}: {error.strerror}", mounting.mend(error)) from None
        try:
            pyfuse3.init(operations, f"/dev/fd/{device}", set())
        except BaseException:
            self.detach()
            raise

    def widen_readahead(self) -> bool:
        """Lets the kernel read as far ahead as it may; whether it could be set. Blocks; after INIT."""
        return native_mount.widen_readahead(self.path)

    def detach(self) -> None:
        """Takes the mount away, if it is still there; whoever still uses it gets errors from now on."""
        if self._by_us and mounting.is_mounted(self.path):
            with contextlib.suppress(OSError):
                native_mount.unmount(self.path)

    def close(self) -> None:
        """Ends the session."""
        self.detach()
        pyfuse3.close(unmount=not self._by_us)


def _escaped(source: str) -> str:
    return source.replace("\\", "\\\\").replace(",", "\\,")
