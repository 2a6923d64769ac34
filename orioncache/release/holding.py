"""Keeps releases that are mounted on their own server from being removed there."""

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterable, Sequence

from orioncache.errors import UserError
from orioncache.mounts import NFS_TYPES, filesystem_type
from orioncache.release.detect import MANIFEST

TRIES, PAUSE = 5, 0.02  # seconds between two


def hold(sources: Iterable[tuple[str, int]]) -> list[int]:
    """Locks the manifests of releases on local file systems, shared; ``release remove`` asks for that lock.

    Blocks, where a source is on a server that does not answer.

    Args:
        sources: the path of each, for messages, and a descriptor of its directory; O_PATH is enough.

    Returns:
        Descriptors: the locks last as long as they are open.

    Raises:
        UserError: one is just being removed.
    """
    held = []
    for source, directory in sources:
        if filesystem_type(os.fstat(directory).st_dev) in NFS_TYPES:
            continue
        fd = os.open(MANIFEST, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
        try:
            _share(fd)
            held.append(fd)
        except BlockingIOError:
            os.close(fd)
            raise UserError(f"{source} is being removed", "mount another version") from None
        except OSError:
            # A file system without locks: nobody can ask.
            os.close(fd)
    return held


def _share(fd: int) -> None:
    """Locks a manifest. Who looks whether it is in use locks it alone for a moment, which means nothing."""
    for _ in range(TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(PAUSE)
        else:
            return
    fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)


def hold_meanwhile(sources: Sequence[str]) -> None:
    """Does :func:`hold` in a thread of its own, until the process ends: a dead server delays nobody."""

    def work() -> None:
        for source in sources:
            with contextlib.suppress(OSError, UserError):
                directory = os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                hold([(source, directory)])
                os.close(directory)

    threading.Thread(target=work, name="hold", daemon=True).start()
