"""The rest of a block follows its second part into the page cache, and only then."""

import mmap
import os
import random
import time
from pathlib import Path

import pytest

from tests.fuse import kinds
from tests.fuse.conftest import RunningCache, StartCache

BLOCK = 128 << 10
PAGE = 4096
BLOCKS = 5

pytestmark = pytest.mark.kinds(kinds.NATIVE_RELEASE)


@pytest.fixture
def content() -> bytes:
    """A file's: some blocks, and a part of one."""
    return random.Random(20261124).randbytes(BLOCKS * BLOCK + 3 * PAGE + 17)


@pytest.fixture
def cache(tmp_path: Path, content: bytes, start_cache: StartCache) -> RunningCache:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_bytes(content)
    return start_cache(tmp_path / "tree")


def _reads(cache: RunningCache) -> int:
    return int(cache.status()["fuse"]["upcalls"].get("read", 0))


def _open(cache: RunningCache, flags: int = 0) -> int:
    descriptor = os.open(cache.path / "file", os.O_RDONLY | flags)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
    return descriptor


def test_one_part_brings_no_more(cache: RunningCache, content: bytes) -> None:
    descriptor = _open(cache)
    try:
        for block in range(BLOCKS):
            assert os.pread(descriptor, PAGE, block * BLOCK) == content[block * BLOCK :][:PAGE]
        time.sleep(0.3)
        before = _reads(cache)
        for block in range(BLOCKS):
            os.pread(descriptor, PAGE, block * BLOCK + PAGE)
        assert _reads(cache) - before == BLOCKS
    finally:
        os.close(descriptor)


def test_two_parts_bring_the_rest(cache: RunningCache, content: bytes) -> None:
    descriptor = _open(cache)
    try:
        for begin in range(0, len(content), BLOCK):
            for page in (0, 2):
                os.pread(descriptor, PAGE, begin + page * PAGE)
        held: dict[str, int] = {}
        for _ in range(100):
            held = cache.status()["cache"]
            if held["raw_blocks"] == 0:
                break
            time.sleep(0.05)
        assert held["raw_blocks"] == 0, "what the kernel has whole is still kept"
        before = _reads(cache)
        found = b"".join(os.pread(descriptor, PAGE, at) for at in range(0, len(content), PAGE))
        assert found == content
        assert _reads(cache) == before
    finally:
        os.close(descriptor)


def test_what_the_kernel_does_not_keep_is_not_pushed(cache: RunningCache, content: bytes) -> None:
    descriptor = _open(cache, os.O_DIRECT)
    try:
        with mmap.mmap(-1, PAGE) as buffer:
            for at in range(0, BLOCK, PAGE):
                assert os.preadv(descriptor, [buffer], at) == PAGE
                assert buffer[:] == content[at : at + PAGE]
        assert _reads(cache) >= BLOCK // PAGE
        time.sleep(0.2)
        other = _open(cache)
        before = _reads(cache)
        os.pread(other, PAGE, 20 * PAGE)
        os.close(other)
        assert _reads(cache) - before == 1
    finally:
        os.close(descriptor)
