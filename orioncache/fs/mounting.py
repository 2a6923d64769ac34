"""Mounting and unmounting, without the help of a program where we are root."""

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

import pyfuse3

from orioncache.errors import UserError
from orioncache.fs.operations import Operations

# <sys/mount.h>
MS_RDONLY = 1
MS_NOATIME = 1024
MNT_DETACH = 2

FUSE_DEVICE = "/dev/fuse"
FILESYSTEM = "fuse.orioncache"

# Bytes that the kernel asks for at once. INIT alone would leave its readahead at 128 KiB.
READ_BYTES = 1 << 20


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
        device = _open_device()
        options_text = f"fd={device},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other"
        try:
            _mount(source, path, FILESYSTEM, MS_RDONLY | MS_NOATIME, f"{options_text},max_read={READ_BYTES}")
        except OSError as error:
            os.close(device)
            raise UserError(f"cannot mount on {path}: {error.strerror}", _mend(error)) from None
        try:
            pyfuse3.init(operations, f"/dev/fd/{device}", set())
        except BaseException:
            self.detach()
            raise

    def widen_readahead(self) -> bool:
        """Lets the kernel read :data:`READ_BYTES` ahead; whether it could be set. To be done after INIT."""
        device = _device_number(self.path)
        if device is None:
            return False
        try:
            Path(f"/sys/class/bdi/{device}/read_ahead_kb").write_text(
                f"{READ_BYTES >> 10}\n", encoding="ascii"
            )
        except OSError:
            return False
        return True

    def detach(self) -> None:
        """Takes the mount away, if it is still there; whoever still uses it gets errors from now on."""
        if self._by_us and _device_number(self.path) is not None:
            with contextlib.suppress(OSError):
                unmount(self.path)

    def close(self) -> None:
        """Ends the session."""
        self.detach()
        pyfuse3.close(unmount=not self._by_us)


def check(sources: Sequence[str], mountpoint: str) -> str:
    """Looks at what the user gave before anything is done.

    Returns:
        The mount point's real path.

    Raises:
        UserError: it cannot work.
    """
    if not Path(FUSE_DEVICE).exists():
        raise UserError(
            f"there is no {FUSE_DEVICE}",
            "modprobe fuse; in a container, pass the device in (--device /dev/fuse)",
        )
    real_sources = _check_sources(sources)
    path = _check_mountpoint(mountpoint)
    for source in real_sources:
        if f"{path}/".startswith(f"{source.rstrip('/')}/"):
            raise UserError(
                f"mount point {path} is inside the source {source}", "choose a directory outside of it"
            )
        if source.startswith(f"{path.rstrip('/')}/"):
            raise UserError(f"mount point {path} would hide the source {source}", "choose another directory")
    mounted = _mounted_there(path)
    if mounted is not None and mounted[1].startswith("fuse"):
        raise UserError(
            f"{path} is a mount point of {mounted[1]} already", f"umount {path}, or choose another directory"
        )
    return path


def _check_sources(sources: Sequence[str]) -> list[str]:
    """The sources' real paths."""
    real_sources = []
    for source in sources:
        try:
            mode = Path(source).stat().st_mode
        except OSError as error:
            raise UserError(
                f"source {source}: {error.strerror}", "mount it first, or check its spelling"
            ) from None
        if not stat.S_ISDIR(mode):
            raise UserError(
                f"source {source} is not a directory", "give a directory, or where NFS is mounted"
            )
        if not os.access(source, os.R_OK | os.X_OK):
            raise UserError(f"source {source} cannot be read", "run it as root")
        real_sources.append(os.path.realpath(source))
    if len(set(real_sources)) < len(real_sources):
        raise UserError("a source is given twice", "each source is another server's copy of the same tree")
    return real_sources


def _check_mountpoint(mountpoint: str) -> str:
    """The mount point's real path."""
    try:
        mode = Path(mountpoint).stat().st_mode
    except FileNotFoundError:
        raise UserError(f"mount point {mountpoint} does not exist", f"mkdir -p {mountpoint}") from None
    except OSError as error:
        mend = f"umount -l {mountpoint}" if error.errno == errno.ENOTCONN else "choose another directory"
        raise UserError(f"mount point {mountpoint}: {error.strerror}", mend) from None
    if not stat.S_ISDIR(mode):
        raise UserError(f"mount point {mountpoint} is not a directory", "choose an empty directory")
    return os.path.realpath(mountpoint)


def unmount(path: str) -> None:
    """Takes the topmost mount from a path, even while somebody uses it.

    Raises:
        OSError: nothing is mounted there, or we are not root.
    """
    if _libc.umount2(os.fsencode(path), MNT_DETACH):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


_libc = ctypes.CDLL(None, use_errno=True)


def _mount(source: str, path: str, kind: str, flags: int, options: str) -> None:
    arguments = (
        os.fsencode(source),
        os.fsencode(path),
        kind.encode(),
        ctypes.c_ulong(flags),
        options.encode(),
    )
    if _libc.mount(*arguments):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _open_device() -> int:
    try:
        return os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise UserError(f"cannot open {FUSE_DEVICE}: {error.strerror}", "modprobe fuse") from None


def _mend(error: OSError) -> str:
    mends = {
        errno.ENODEV: "the kernel has no FUSE: modprobe fuse, or build it with CONFIG_FUSE_FS",
        errno.EPERM: "run it as root; in a container, with CAP_SYS_ADMIN",
    }
    return mends.get(error.errno or 0, "choose another directory")


def _escaped(source: str) -> str:
    return source.replace("\\", "\\\\").replace(",", "\\,")


def _mounted_there(path: str) -> tuple[str, str] | None:
    """Device number and type of the topmost mount on a path, without asking that file system."""
    found = None
    with open("/proc/self/mountinfo", "rb") as lines:  # noqa: PTH123
        for line in lines:
            before, _, after = line.partition(b" - ")
            fields = before.split()
            if _unescaped(fields[4]) == os.fsencode(path):
                found = fields[2].decode(), after.split()[0].decode()
    return found


def _device_number(path: str) -> str | None:
    """The device number of the mount on a path, if it is one of ours."""
    mounted = _mounted_there(path)
    return mounted[0] if mounted is not None and mounted[1] == FILESYSTEM else None


def _unescaped(field: bytes) -> bytes:
    """A path in mountinfo has space, tab, newline and backslash as octal numbers."""
    for character in b" \t\n#\\":
        field = field.replace(b"\\%03o" % character, bytes((character,)))
    return field
