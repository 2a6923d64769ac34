"""A tree with one of everything that a root may hold, and its comparison with what a mount shows of it."""

import os
import shutil
import socket
import stat
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

MANY = 50_000
DEEP = 60  # directories of 100 bytes in each other: beyond PATH_MAX
GIB = 1 << 30
# <linux/capability.h>: version 2 with the effective bit, and the one capability CAP_NET_RAW.
NET_RAW = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
# <linux/posix_acl_xattr.h>: version 2, then (tag, permissions, id): owner rwx, user 1234 r--, group r-x, mask
# r-x, others none.
ACL = struct.pack(
    "<I" + "HHI" * 5, 2, 1, 7, 0xFFFFFFFF, 2, 4, 1234, 4, 5, 0xFFFFFFFF, 16, 5, 0xFFFFFFFF, 32, 0, 0xFFFFFFFF
)


def build(top: Path) -> Path:
    """Makes the tree at ``top``, as root."""
    top.mkdir()
    for name, length in (("empty", 0), ("one", 1), ("block", 131072), ("over", 131073), ("large", 5_000_003)):
        (top / name).write_bytes(os.urandom(length))
    (top / "zeros").write_bytes(bytes(300_000))
    _links(top)
    _special_files(top)
    _modes(top)
    _xattrs(top)
    _names(top)
    _sparse(top)
    _times(top)
    many = top / "many"
    many.mkdir()
    directory = os.open(many, os.O_RDONLY)
    for number in range(MANY):
        os.close(os.open(f"file-{number:05}", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=directory))
    os.close(directory)
    return top


def _links(top: Path) -> None:
    os.link(top / "large", top / "hard")
    (top / "dir").mkdir()
    os.link(top / "large", top / "dir" / "hard-too")
    (top / "relative").symlink_to("dir/hard-too")
    (top / "absolute").symlink_to("/etc/passwd")
    (top / "dangling").symlink_to("nowhere")
    (top / "long-link").symlink_to("x/" * 2000)
    os.symlink(b"target-\xff\xfe", bytes(top / "raw-link"))
    os.lchown(top / "relative", 12, 34)


def _special_files(top: Path) -> None:
    os.mknod(top / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(top / "high", stat.S_IFBLK | 0o600, os.makedev(259, 70_000))
    os.mkfifo(top / "fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as listening:
        here = Path.cwd()
        os.chdir(top)
        listening.bind("socket")
        os.chdir(here)


def _modes(top: Path) -> None:
    for name, mode in (("setuid", 0o4755), ("setgid", 0o2755), ("unreadable", 0)):
        (top / name).write_bytes(name.encode())
        os.chown(top / name, 1234, 5678)
        (top / name).chmod(mode)
    (top / "sticky").mkdir()
    (top / "sticky").chmod(0o1777)


def _xattrs(top: Path) -> None:
    (top / "attributes").write_bytes(b"with attributes")
    for name, value in (
        ("user.small", b"v"),
        ("user.empty", b""),
        ("trusted.secret", bytes(range(256))),
        ("user.large", b"L" * 3000),
    ):
        os.setxattr(top / "attributes", name, value)
    os.setxattr(top / "relative", "trusted.on-link", b"l", follow_symlinks=False)
    os.setxattr(top / "null", "trusted.on-device", b"d")
    os.setxattr(top / "fifo", "trusted.on-fifo", b"f")
    os.setxattr(top / "dir", "user.on-directory", b"d")
    os.setxattr(top, "user.on-root", b"r")
    shutil.copy("/bin/true", top / "capable")
    os.setxattr(top / "capable", "security.capability", NET_RAW)
    (top / "acl").write_bytes(b"a")
    os.setxattr(top / "acl", "system.posix_acl_access", ACL)
    (top / "acl-dir").mkdir()
    os.setxattr(top / "acl-dir", "system.posix_acl_default", ACL)


def _names(top: Path) -> None:
    raw = os.fsencode(top)
    for name in (
        b"\xff\xfe\x80",
        b"new\nline",
        b"back\\slash",
        b"  ",
        b"-rf",
        b"*",
        "ünïcödé".encode(),
        b"n" * 255,
        b"...",
        b"\x01",
    ):
        with open(raw + b"/" + name, "wb") as file:
            file.write(name)
    directory = os.open(top, os.O_RDONLY)
    for level in range(DEEP):
        name = f"deep-{level:02}-".ljust(100, "d")
        os.mkdir(name, dir_fd=directory)
        below = os.open(name, os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = below
    with open("bottom", "wb", opener=lambda name, flags: os.open(name, flags, dir_fd=directory)) as file:
        file.write(b"down here")
    os.close(directory)


def _sparse(top: Path) -> None:
    with (top / "sparse").open("wb") as file:
        file.truncate(5 * GIB + 12345)
        for offset in (0, 1_000_000, 4 * GIB - 3, 4 * GIB + 131_072, 5 * GIB + 12345 - 6):
            file.seek(offset)
            file.write(b"island")


def _times(top: Path) -> None:
    for name, when in (
        ("old", -123_456_789),
        ("new", 4_000_000_000_123_456_789),
        ("exact", 1_600_000_000_987_654_321),
    ):
        (top / name).touch()
        os.utime(top / name, ns=(when, when))


def walk(top: Path) -> Iterator[tuple[bytes, int, bytes]]:
    """Each entry below ``top``: its path from there, the open directory that it is in, and its name.

    The large directory is not entered: what is in it is alike.
    """

    def visit(directory: int, prefix: bytes) -> Iterator[tuple[bytes, int, bytes]]:
        for text in sorted(os.listdir(directory)):
            name = os.fsencode(text)
            yield prefix + name, directory, name
            is_directory = stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
            if is_directory and name != b"many":
                below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
                try:
                    yield from visit(below, prefix + name + b"/")
                finally:
                    os.close(below)

    directory = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield from visit(directory, b"")
    finally:
        os.close(directory)


def differences(source: Path, shown: Path, *, skip_fields: frozenset[str] = frozenset()) -> list[str]:
    """How ``shown`` differs from ``source``: names, attributes, targets, extended attributes, content."""
    found: list[str] = []
    ours, theirs = walk(source), walk(shown)
    for (path, directory, name), (shown_path, shown_directory, shown_name) in zip(ours, theirs, strict=True):
        if path != shown_path:
            return [*found, f"{path!r} against {shown_path!r}"]
        one, other = _facts(directory, name), _facts(shown_directory, shown_name)
        for fact in one:
            if fact not in skip_fields and one[fact] != other[fact]:
                found.append(f"{path!r}: {fact} is {other[fact]!r}, not {one[fact]!r}")
        if (
            stat.S_ISREG(one["mode"])
            and one["size"] < GIB
            and not _same_content(directory, shown_directory, name)
        ):
            found.append(f"{path!r}: content differs")
    return found


def _facts(directory: int, name: bytes) -> dict[str, object]:
    had = os.stat(name, dir_fd=directory, follow_symlinks=False)
    # System calls for extended attributes know no directory descriptors.
    path = b"/proc/self/fd/%d/%s" % (directory, name)
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return {
        "mode": had.st_mode,
        "ino": had.st_ino,
        "nlink": had.st_nlink,
        "uid": had.st_uid,
        "gid": had.st_gid,
        "rdev": had.st_rdev,
        "size": had.st_size,
        "blocks": had.st_blocks,
        "blksize": had.st_blksize,
        "mtime": had.st_mtime_ns,
        "ctime": had.st_ctime_ns,
        "target": os.readlink(name, dir_fd=directory) if stat.S_ISLNK(had.st_mode) else None,
        "xattrs": {each: os.getxattr(path, each, follow_symlinks=False) for each in names},
    }


def _same_content(one: int, other: int, name: bytes) -> bool:
    descriptors = [os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory) for directory in (one, other)]
    try:
        while True:
            pieces = [os.read(descriptor, 1 << 20) for descriptor in descriptors]
            if pieces[0] != pieces[1]:
                return False
            if not pieces[0]:
                return True
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def run_as(uid: int, command: list[str | Path]) -> subprocess.CompletedProcess[str]:
    """Runs a program as another user, without any group or capability."""
    return subprocess.run(
        command, user=uid, group=uid, extra_groups=[], capture_output=True, text=True, check=False
    )
