"""Many readers, little memory and random access: every byte is right, and nothing is left behind."""

import errno
import hashlib
import mmap
import os
import random
import resource
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fuse import kinds
from tests.fuse.conftest import StartCache

SEED = int(os.environ.get("ORION_SEED", "20261123"))
# Seconds of mixed load; half an hour is ORION_SOAK=1800.
SOAK = float(os.environ.get("ORION_SOAK", "10"))
BLOCK = 128 << 10
MIB = 1 << 20
LARGE = 24 * MIB + 12345
SMALL_BUDGETS = ["--cache-size=1M", "--compressed-size=1M"]

releases = pytest.mark.kinds(kinds.NATIVE_RELEASE, kinds.PYTHON_RELEASE)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files from nothing to many blocks; some compress and some do not."""
    top = tmp_path_factory.mktemp("stress") / "tree"
    top.mkdir()
    chance = random.Random(SEED)
    (top / "large").write_bytes(chance.randbytes(LARGE))
    (top / "text").write_bytes(b"a line that compresses well\n" * 200_000)
    for number in range(300):
        (top / f"small{number}").write_bytes(chance.randbytes(chance.randrange(3 * BLOCK)))
    return top


def _forget(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _random_access(top: Path, source: Path, seed: int, going: Callable[[], bool]) -> int:
    """Reads and maps random parts, drops pages now and then, compares; says how many times."""
    chance = random.Random(seed)
    names = sorted(path.name for path in source.iterdir())
    done = 0
    while going():
        name = chance.choice([*names, "large", "large", "text"])
        size = (source / name).stat().st_size
        if size == 0:
            assert (top / name).read_bytes() == b""
            continue
        if chance.random() < 0.2:
            _forget(top / name)
        begin = chance.randrange(size)
        length = min(chance.choice([1, 4096, 70_000, MIB]), size - begin)
        with (source / name).open("rb") as file:
            expected = os.pread(file.fileno(), length, begin)
        with (top / name).open("rb") as file:
            if chance.random() < 0.5:
                found = os.pread(file.fileno(), length, begin)
            else:
                with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
                    found = mapped[begin : begin + length]
        assert found == expected, f"{name}: {length} bytes at {begin}, seed {seed}"
        done += 1
    return done


@releases
def test_readers_of_one_cold_block_cost_one_read(source: Path, start_cache: StartCache) -> None:
    cache = start_cache(source, options=["--read-around=0"])
    before = cache.status()["servers"][0]["bytes"]
    barrier = threading.Barrier(8)

    def read(_: int) -> bytes:
        descriptor = os.open(cache.path / "large", os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
            barrier.wait()
            return os.pread(descriptor, 4096, 10 * BLOCK + 4096)
        finally:
            os.close(descriptor)

    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(read, range(8)))
    assert found == {(source / "large").read_bytes()[10 * BLOCK + 4096 :][:4096]}
    assert cache.status()["servers"][0]["bytes"] - before == BLOCK


def test_random_access_under_tiny_budgets(source: Path, start_cache: StartCache) -> None:
    cache = start_cache(source, options=SMALL_BUDGETS)
    ends = time.monotonic() + 4
    with ThreadPoolExecutor(6) as pool:
        runs = [
            pool.submit(_random_access, cache.path, source, SEED + n, lambda: time.monotonic() < ends)
            for n in range(6)
        ]
        counts = [run.result() for run in runs]
    assert min(counts) > 10
    assert cache.status()["fuse"]["reads_in_flight"] == 0
    digest = hashlib.sha256((cache.path / "large").read_bytes()).digest()
    assert digest == hashlib.sha256((source / "large").read_bytes()).digest()


def test_thousands_of_open_files(source: Path, start_cache: StartCache) -> None:
    cache = start_cache(source)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(5000, hard - 100)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], count + 100), hard))
    opened: list[int] = []
    try:
        for number in range(count):
            opened.append(os.open(cache.path / f"small{number % 300}", os.O_RDONLY))
        for number in random.Random(SEED).sample(range(count), 200):
            expected = (source / f"small{number % 300}").read_bytes()[:100]
            assert os.pread(opened[number], 100, 0) == expected
    except OSError as error:
        assert error.errno != errno.EMFILE, "the cache holds a file of its own for each that is open"
        raise
    finally:
        for descriptor in opened:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert cache.status()["fuse"]["reads_in_flight"] == 0


def _resources(pid: int) -> tuple[int, int, int]:
    """A process's resident memory in KiB, its descriptors and its threads."""
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
    )
    return int(fields["VmRSS"].split()[0]), len(os.listdir(f"/proc/{pid}/fd")), int(fields["Threads"])


@pytest.mark.timeout(SOAK * 3 + 120)
def test_a_long_mixed_load_leaves_nothing_behind(source: Path, start_cache: StartCache) -> None:
    cache = start_cache(source, options=["--cache-size=8M", "--compressed-size=4M"])

    def load(seconds: float, seed: int) -> None:
        ends = time.monotonic() + seconds
        with ThreadPoolExecutor(4) as pool:
            for run in [
                pool.submit(_random_access, cache.path, source, seed + n, lambda: time.monotonic() < ends)
                for n in range(4)
            ]:
                run.result()

    # The first half fills caches and allocators; the second may add next to nothing.
    load(SOAK / 2, SEED)
    warm = _resources(cache.process.pid)
    load(SOAK / 2, SEED + 100)
    after = _resources(cache.process.pid)
    assert after[0] - warm[0] < 8 * 1024, (warm, after)
    assert after[1] <= warm[1] + 8, (warm, after)
    assert after[2] <= warm[2] + 8, (warm, after)
    assert cache.status()["fuse"]["reads_in_flight"] == 0
