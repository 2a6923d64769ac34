"""Trees to measure on: always the same for the same sizes, and shaped like a distribution's root."""

import dataclasses
import os
import random
from collections.abc import Iterator
from pathlib import Path

KIB = 1 << 10
MIB = 1 << 20

# One symlink for so many files, a level of directories more with this chance; about what a Debian root has.
FILES_PER_SYMLINK = 12
FILES_PER_DIRECTORY = 25
DEEPER = 0.75
DEEPEST = 10

# Files of a root: half are below 4 KiB, a few are large (a log-normal law fits).
MEDIAN_BYTES = 3.5 * KIB
SPREAD_OF_BYTES = 1.6
LARGEST_BYTES = 512 * KIB

PAGE_FILE_BYTES = 2 * MIB
BIG_FILES = 8
POOL_BYTES = 8 * MIB
PIECE = 64


@dataclasses.dataclass(frozen=True)
class Tree:
    """What is in a tree; paths are relative to it.

    Attributes:
        path: its root.
        files: small ones, in the tree's order.
        symlinks: all of them, each of which leads to a file.
        pages: files for random reads, :data:`PAGE_FILE_BYTES` each.
        big: files for sequential reads.
        program: a static executable.
        size: bytes in all files.
    """

    path: Path
    files: list[str]
    symlinks: list[str]
    pages: list[str]
    big: list[str]
    program: str
    size: int


def grow(path: Path, program: Path, *, files: int, page_files: int, big_bytes: int) -> Tree:
    """Makes a tree.

    Args:
        path: an empty directory.
        program: a static executable, to be copied into the tree.
        files: how many small ones.
        page_files: how many files for random reads.
        big_bytes: size of each of the :data:`BIG_FILES` big files.
    """
    dice = random.Random(1)
    pool = _pool(dice)
    small: list[str] = []
    symlinks: list[str] = []
    size = 0
    for directory in _directories(dice):
        (path / directory).mkdir(parents=True, exist_ok=True)
        for _ in range(min(FILES_PER_DIRECTORY, files - len(small))):
            name = f"{directory}/{dice.choice(('lib', 'module', 'index', 'page'))}-{len(small)}.bin"
            length = min(LARGEST_BYTES, int(dice.lognormvariate(0, SPREAD_OF_BYTES) * MEDIAN_BYTES) + 1)
            size += _write(path / name, pool, length, dice)
            small.append(name)
            if len(small) % FILES_PER_SYMLINK == 0:
                link = f"{directory}/link-{len(symlinks)}"
                (path / link).symlink_to(name.rpartition("/")[2])
                symlinks.append(link)
        if len(small) >= files:
            break
    (path / "data").mkdir()
    pages = [f"data/pages-{number}" for number in range(page_files)]
    big = [f"data/big-{number}" for number in range(BIG_FILES)]
    for name in pages:
        size += _write(path / name, pool, PAGE_FILE_BYTES, dice)
    for name in big:
        size += _write(path / name, pool, big_bytes, dice)
    (path / "bin").mkdir()
    copy = path / "bin/probe"
    copy.write_bytes(program.read_bytes())
    copy.chmod(0o755)
    return Tree(path, small, symlinks, pages, big, "bin/probe", size + copy.stat().st_size)


def _directories(dice: random.Random) -> Iterator[str]:
    """Directories without end, of all depths, neighbours one after the other."""
    at: list[str] = []
    number = 0
    while True:
        while at and dice.random() > DEEPER:
            at.pop()
        if len(at) == DEEPEST:
            at = at[:2]
        at.append(f"{dice.choice(('usr', 'share', 'python3', 'include', 'doc'))}{number}")
        number += 1
        yield "/".join(at)


def _pool(dice: random.Random) -> bytes:
    """Bytes that lz4 halves, about."""
    words = [dice.randbytes(PIECE) for _ in range(POOL_BYTES // PIECE)]
    return b"".join(dice.choice(words[:64]) if dice.random() < 0.5 else word for word in words)


def _write(path: Path, pool: bytes, length: int, dice: random.Random) -> int:
    """Fills a file from the pool, from another place each time, so that hardly a block is there twice."""
    with path.open("wb") as file:
        left = length
        while left > 0:
            start = dice.randrange(POOL_BYTES)
            left -= file.write(pool[start : start + left])
    return length


def plant(path: Path, count: int, content: bytes) -> None:
    """Makes many files as quickly as can be: 1,000 to a directory, all with the same size.

    Args:
        path: an empty directory.
        count: how many files.
        content: each file has it with its number behind; without it files are empty.
    """
    for first in range(0, count, 1000):
        directory = os.open(_made(path / f"directory-{first // 1000}"), os.O_RDONLY | os.O_DIRECTORY)
        try:
            for number in range(first, min(count, first + 1000)):
                if not content:
                    os.mknod(f"file-{number}.txt", 0o644, dir_fd=directory)
                    continue
                fd = os.open(f"file-{number}.txt", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=directory)
                os.write(fd, content + b"%08d" % number)
                os.close(fd)
        finally:
            os.close(directory)


def _made(path: Path) -> Path:
    path.mkdir(parents=True)
    return path
