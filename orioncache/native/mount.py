"""mount(2) and umount2(2) for FUSE, by the native library."""

import os

from orioncache.native._orion import ffi, lib


def mount(source: str, path: str) -> int:
    """Mounts, read-only and for all users, and returns the device's descriptor.

    Raises:
        OSError: as mount(2), or as opening /dev/fuse did.
    """
    device = ffi.new("int *")
    _check(lib.orion_mount(os.fsencode(source), os.fsencode(path), device))
    return int(device[0])


def unmount(path: str) -> None:
    """Takes the topmost mount from a path, even while somebody uses it.

    Raises:
        OSError: nothing is mounted there, or we are not root.
    """
    _check(lib.orion_unmount(os.fsencode(path)))


def widen_readahead(path: str) -> bool:
    """Lets the kernel read ahead as much as it may ask for at once; whether it could be set.

    Asks the mount for its attributes: another thread must be answering.
    """
    return int(lib.orion_widen_readahead(os.fsencode(path))) == 0


def _check(result: int) -> None:
    if result:
        raise OSError(-result, os.strerror(-result))
