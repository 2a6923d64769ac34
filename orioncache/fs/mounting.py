"""Mounting and unmounting, and what must be so before."""

import errno
import os
import socket
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

from orioncache.errors import UserError
from orioncache.fs import native_release
from orioncache.native import mount as native_mount

FUSE_DEVICE = "/dev/fuse"
FUSERMOUNT = "fusermount3"
FILESYSTEM = "fuse.orioncache"


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
            f"{path} is a mount point of {mounted[1]} already",
            f"umount -l {path}, or choose another directory",
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


def open_device() -> int | None:
    """A descriptor to be mounted; None: fusermount3 has to open it.

    Raises:
        UserError: there is none.
    """
    return native_release.open_device() if os.geteuid() == 0 else None


def mount(source: str, path: str, device: int | None = None) -> int:
    """Mounts on a path that :func:`check` has approved, and returns the descriptor that requests come from.

    Root mounts by itself and for all users. Others have fusermount3 do it, and get a mount for themselves.

    Args:
        source: its name.
        path: where.
        device: of :func:`open_device`; None: one is opened.

    Raises:
        UserError: it cannot be mounted there.
    """
    if device is None and (device := open_device()) is None:
        return _fusermount(source, path)
    try:
        native_mount.mount(source, path, device)
    except OSError as error:
        mends = {
            errno.ENODEV: "the kernel has no FUSE: modprobe fuse, or build it with CONFIG_FUSE_FS",
            errno.EPERM: "run it as root; in a container, with CAP_SYS_ADMIN",
        }
        mend = mends.get(error.errno or 0, "choose another directory")
        raise UserError(f"cannot mount on {path}: {error.strerror}", mend) from None
    return device


def unmount(path: str) -> None:
    """Takes the topmost mount from a path, even while somebody uses it.

    Raises:
        OSError: nothing is mounted there, or it is not ours.
    """
    if os.geteuid() == 0:
        native_mount.unmount(path)
    elif subprocess.run([FUSERMOUNT, "-u", "-z", "--", path], check=False).returncode:
        raise PermissionError(errno.EPERM, f"{FUSERMOUNT} -u failed")


def _fusermount(source: str, path: str) -> int:
    """The device of a mount by fusermount3, which hands it over through a socket (libfuse's lib/mount.c)."""
    ours, its = socket.socketpair()
    with ours, its:
        options = f"ro,default_permissions,noatime,subtype=orioncache,fsname={_escaped(source)}"
        try:
            done = subprocess.run(
                [FUSERMOUNT, "-o", options, "--", path],
                env={**os.environ, "_FUSE_COMMFD": str(its.fileno())},
                pass_fds=[its.fileno()],
                check=False,
            )
        except FileNotFoundError:
            raise UserError(f"there is no {FUSERMOUNT}", "apt-get install fuse3, or run it as root") from None
        if done.returncode:
            mend = "its message is above; or run it as root"
            raise UserError(f"{FUSERMOUNT} cannot mount on {path}", mend)
        _, devices, _, _ = socket.recv_fds(ours, 1, 1)
    os.set_inheritable(devices[0], False)
    return devices[0]


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


def is_mounted(path: str) -> bool:
    """Whether the topmost mount on a path is one of ours; that file system is not asked."""
    mounted = _mounted_there(path)
    return mounted is not None and mounted[1] == FILESYSTEM


def _unescaped(field: bytes) -> bytes:
    """A path in mountinfo has space, tab, newline and backslash as octal numbers."""
    for character in b" \t\n#\\":
        field = field.replace(b"\\%03o" % character, bytes((character,)))
    return field
