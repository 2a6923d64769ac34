"""Random operations, the same on the source and on every kind of cache at once: all answers are equal."""

import ctypes
import errno
import mmap
import os
import random
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fuse import kinds
from tests.fuse.conftest import RunningCache

SEED = int(os.environ.get("ORION_SEED", "20261123"))
STEPS = int(os.environ.get("ORION_STEPS", "1500"))
BLOCK = 128 << 10

Answer = object
Operation = Callable[[random.Random, bytes], tuple[str, Callable[[bytes], Answer]]]


@pytest.fixture(scope="module")
def caches(odd_tree: Path, public_directory: Path) -> Iterator[list[RunningCache]]:
    running: list[RunningCache] = []
    try:
        for kind in kinds.ALL:
            running.append(RunningCache([odd_tree], public_directory / f"differential-{kind}", [], kind))
        yield running
    finally:
        for cache in running:
            cache.end()
    assert not [line for cache in running for line in cache.complaints()]


def _paths(top: Path) -> list[bytes]:
    """Everything below, as paths from there, and what is not there."""
    found = [b"."]
    for directory, names, files in os.walk(os.fsencode(top)):
        few = files[:20] if os.path.basename(directory) == b"many" else files
        for name in (*names, *few):
            path = os.path.relpath(os.path.join(directory, name), os.fsencode(top))
            # Longer paths are for system calls that take directories' descriptors (test_everything.py).
            if len(path) < 3000:
                found.append(path)
    missing = [path + b"-not-there" for path in found[1:20]]
    return sorted(found) + missing + [b"x" * 255, b"x" * 256, b"\xff\xfe", b"one/below"]


def _stat(_: random.Random, path: bytes) -> tuple[str, Callable[[bytes], Answer]]:
    def ask(top: bytes) -> Answer:
        had = os.lstat(os.path.join(top, path))
        size = 0 if stat.S_ISDIR(had.st_mode) else had.st_size
        return had.st_mode, had.st_nlink, had.st_uid, had.st_gid, had.st_rdev, size, had.st_mtime_ns

    return "lstat", ask


def _list(_: random.Random, path: bytes) -> tuple[str, Callable[[bytes], Answer]]:
    return "listdir", lambda top: sorted(os.listdir(os.path.join(top, path)))


def _readlink(_: random.Random, path: bytes) -> tuple[str, Callable[[bytes], Answer]]:
    return "readlink", lambda top: os.readlink(os.path.join(top, path))


def _xattrs(_: random.Random, path: bytes) -> tuple[str, Callable[[bytes], Answer]]:
    def ask(top: bytes) -> Answer:
        where = os.path.join(top, path)
        names = os.listxattr(where, follow_symlinks=False)
        return {name: os.getxattr(where, name, follow_symlinks=False) for name in sorted(names)}

    return "xattrs", ask


def _one_xattr(chance: random.Random, path: bytes) -> tuple[str, Callable[[bytes], Answer]]:
    name = chance.choice(["user.small", "user.missing", "trusted.overlay.opaque", "security.capability"])
    return f"getxattr {name}", lambda top: os.getxattr(os.path.join(top, path), name, follow_symlinks=False)


def _open(path: bytes) -> int:
    # Without O_NONBLOCK a FIFO would wait; a device's content is nobody's business here.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "no file")
    return descriptor


def _pread(chance: random.Random, path: bytes) -> tuple[str, Callable[[bytes], Answer]]:
    offset = chance.choice(
        [0, chance.randrange(3 * BLOCK), chance.randrange(1 << 33), BLOCK * chance.randrange(20) - 1]
    )
    length = chance.choice([1, 100, 4096, BLOCK, 2 * BLOCK + 7])

    def ask(top: bytes) -> Answer:
        descriptor = _open(os.path.join(top, path))
        try:
            if chance.random() < 0.3:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            return os.pread(descriptor, length, max(0, offset))
        finally:
            os.close(descriptor)

    return f"pread {length} at {offset}", ask


def _map(chance: random.Random, path: bytes) -> tuple[str, Callable[[bytes], Answer]]:
    share = chance.random()

    def ask(top: bytes) -> Answer:
        descriptor = _open(os.path.join(top, path))
        try:
            size = os.fstat(descriptor).st_size
            if size == 0 or size > 1 << 30:
                return size
            with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as mapped:
                at = int(share * (size - 1))
                return mapped[at : at + 5000]
        finally:
            os.close(descriptor)

    return "mmap", ask


def _statx_is_dont_sync(_: random.Random, path: bytes) -> tuple[str, Callable[[bytes], Answer]]:
    library = ctypes.CDLL(None, use_errno=True)

    def ask(top: bytes) -> Answer:
        buffer = ctypes.create_string_buffer(256)
        # statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_SIZE, …)
        if library.statx(-100, os.path.join(top, path), 0x100 | 0x4000, 0x201, buffer):
            raise OSError(ctypes.get_errno(), "statx")
        return buffer.raw[28:30]  # stx_mode

    return "statx", ask


OPERATIONS: list[Operation] = [
    _stat, _stat, _list, _readlink, _xattrs, _one_xattr, _pread, _pread, _pread, _map, _statx_is_dont_sync,
]  # fmt: skip


def _answer(ask: Callable[[bytes], Answer], top: Path) -> Answer:
    try:
        return ask(os.fsencode(top))
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, error.errno)


def test_all_kinds_answer_as_the_source_does(odd_tree: Path, caches: list[RunningCache]) -> None:
    print(f"ORION_SEED={SEED} ORION_STEPS={STEPS}")
    chance = random.Random(SEED)
    paths = _paths(odd_tree)
    answered = 0
    for step in range(STEPS):
        path = chance.choice(paths)
        what, ask = chance.choice(OPERATIONS)(chance, path)
        expected = _answer(ask, odd_tree)
        answered += not isinstance(expected, str)
        for cache in caches:
            found = _answer(ask, cache.path)
            assert found == expected, f"step {step}: {what} of {path!r} on {cache.kind}"
    assert answered > STEPS // 3
