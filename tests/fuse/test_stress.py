"""Many readers, little memory and random access: every byte is right, and nothing is left behind."""

import errno
import hashlib
import json
import mmap
import multiprocessing
import os
import random
import resource
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cgroup import memory_group
from tests.fuse import kinds
from tests.fuse.conftest import RunningCache, StartCache
from tests.program import IS_SANITIZED
from tests.waiting import wait_until

SEED = int(os.environ.get("ORION_SEED", "20261123"))
# Seconds of mixed load; half an hour is ORION_SOAK=1800.
SOAK = float(os.environ.get("ORION_SOAK", "10"))
BLOCK = 128 << 10
MIB = 1 << 20
LARGE = 24 * MIB + 12345
# For readers, their page cache and the daemon's blocks, where the tree has some 90 MiB.
LITTLE_MEMORY = 48 * MIB
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


def _has_landed(cache: RunningCache) -> None:
    """No read waits for anything, and no block is on its way; what nobody waits for may take a moment."""
    assert cache.status()["fuse"]["reads_in_flight"] == 0
    wait_until(lambda: not cache.status().get("fetch", {}).get("flights"), "all flights have landed", 5)


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
        if chance.random() < 0.05:
            assert sorted(os.listdir(top)) == names
            assert (top / name).stat().st_size == size
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


def _load(top: Path, source: Path, threads: int, seconds: float, seed: int) -> int:
    """So many threads of random access; says how many accesses they made."""
    ends = time.monotonic() + seconds
    with ThreadPoolExecutor(threads) as pool:
        runs = [
            pool.submit(_random_access, top, source, seed + number, lambda: time.monotonic() < ends)
            for number in range(threads)
        ]
        return sum(run.result() for run in runs)


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
    assert _load(cache.path, source, 6, 4, SEED) > 60
    _has_landed(cache)
    digest = hashlib.sha256((cache.path / "large").read_bytes()).digest()
    assert digest == hashlib.sha256((source / "large").read_bytes()).digest()


@releases
@pytest.mark.skipif(IS_SANITIZED, reason="sanitizers take memory of their own")
def test_a_node_short_of_memory_goes_on(source: Path, start_cache: StartCache) -> None:
    """Pages are dropped all the time, and fetched again; every byte is right, and nobody is killed."""
    cache = start_cache(source, options=SMALL_BUDGETS)

    def read() -> None:
        group.take(os.getpid())
        _load(cache.path, source, 3, 4, SEED)

    with memory_group() as group:
        group.limit(LITTLE_MEMORY)
        group.take(cache.daemon())
        reader = multiprocessing.get_context("fork").Process(target=read)
        try:
            reader.start()
            reader.join(60)
            assert reader.exitcode == 0
            assert group.times_at_limit() > 0, "there was memory enough"
            assert group.killed() == 0
            _has_landed(cache)
            digest = hashlib.sha256((cache.path / "large").read_bytes()).digest()
            assert digest == hashlib.sha256((source / "large").read_bytes()).digest()
        finally:
            reader.kill()
            cache.end()


FIO_JOBS = """
[global]
filename=data
size=24m
verify=crc32c
verify_interval=4k
verify_fatal=1
verify_state_save=0
direct=0
runtime=3
[sequential]
rw=read
bs=64k
[random]
rw=randread
bs=4k
numjobs=3
[mapped]
rw=randread
bs=4k
ioengine=mmap
[large]
rw=randread
bs=1m
[direct]
rw=randread
bs=4k
direct=1
"""


@pytest.mark.skipif(shutil.which("fio") is None, reason="fio is not installed")
def test_fio_verifies_what_it_reads(tmp_path: Path, start_cache: StartCache) -> None:
    """Each 4 KiB has a checksum of its own and its place in it; seven jobs read at the same time."""
    tree = tmp_path / "tree"
    tree.mkdir()
    write = ["fio", "--name=write", "--filename=data", "--rw=write", "--bs=4k", "--size=24m"]
    subprocess.run([*write, "--verify=crc32c", "--do_verify=0"], cwd=tree, check=True, capture_output=True)
    cache = start_cache(tree, options=SMALL_BUDGETS)
    (tmp_path / "jobs").write_text(FIO_JOBS)
    read = ["fio", "--output-format=json", tmp_path / "jobs"]
    done = subprocess.run(read, cwd=cache.path, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = json.loads(done.stdout[done.stdout.index("{") :])["jobs"]
    assert len(jobs) == 7
    for job in jobs:
        assert job["error"] == 0
        assert job["read"]["total_ios"] > 0
    _has_landed(cache)


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
    _has_landed(cache)


def _resources(pid: int) -> tuple[int, int, int]:
    """A process's resident memory in KiB, its descriptors and its threads."""
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
    )
    return int(fields["VmRSS"].split()[0]), len(os.listdir(f"/proc/{pid}/fd")), int(fields["Threads"])


@pytest.mark.timeout(SOAK * 3 + 120)
def test_a_long_mixed_load_leaves_nothing_behind(source: Path, start_cache: StartCache) -> None:
    cache = start_cache(source, options=["--cache-size=8M", "--compressed-size=4M"])

    # The first half fills caches and allocators; the second may add next to nothing.
    done = _load(cache.path, source, 4, SOAK / 2, SEED)
    warm = _resources(cache.daemon())
    done += _load(cache.path, source, 4, SOAK / 2, SEED + 100)
    after = _resources(cache.daemon())
    print(f"{cache.kind}: {done} reads in {SOAK:.0f} s; KiB resident, descriptors, threads: {warm}, {after}")
    # The interpreter's allocator needs some room to breathe; one leaked block in a hundred reads is far more.
    assert after[0] - warm[0] < 16 * 1024, (warm, after)
    assert after[1] <= warm[1] + 8, (warm, after)
    assert after[2] <= warm[2] + 8, (warm, after)
    _has_landed(cache)
