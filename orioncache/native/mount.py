"""mount(2) and umount2(2) for FUSE, by the native library."""

import os

from orioncache.native._orion import lib


def mount(source: str, path: str, device: int) -> None:
    """Mounts a descriptor of /dev/fuse, read-only and for all users.

    Raises:
        OSError: as mount(2).
    """
    _check(lib.orion_mount(os.fsencode(source), os.fsencode(path), device))


def unmount(path: str) -> None:
    """Takes the topmost mount from a path, even while somebody uses it.

    Raises:
        OSError: nothing is mounted there, or we are not root.
    """
    _check(lib.orion_unmount(os.fsencode(path)))


def open_readahead(path: str) -> int:
    """A descriptor of how far the kernel reads ahead on a mount; negative: it cannot be set.

    Asks the mount for its attributes: another thread must be answering.
    """
    return int(lib.orion_readahead_open(os.fsencode(path)))


def widen_readahead(path: str) -> bool:
    """Lets the kernel read ahead as much as it may ask for at once; whether it could be set.

    Asks the mount for its attributes: another thread must be answering.
    """
    return int(lib.orion_widen_readahead(os.fsencode(path))) == 0


def _check(result: int) -> None:
    if result:
        raise OSError(-result, os.strerror(-result))
