"""What is asked of the source, how much is kept, and what happens when the source changes."""

import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from tests.fuse import kinds
from tests.fuse.conftest import RunningCache, StartCache
from tests.waiting import wait_until

BLOCK = 128 << 10


def _file(path: Path, length: int) -> str:
    content = os.urandom(length)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return hashlib.blake2b(content).hexdigest()


def _digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes()).hexdigest()


def _bytes_from_source(cache: RunningCache) -> int:
    return int(cache.status()["servers"][0]["bytes"])


def test_readers_of_the_same_cold_file_share_each_read(tmp_path: Path, start_cache: StartCache) -> None:
    length = 24 << 20
    expected = _file(tmp_path / "tree" / "file", length)
    cache = start_cache(tmp_path / "tree")
    barrier = threading.Barrier(8)
    digests: list[str] = []

    def read() -> None:
        # Past the page cache, which would share reads by itself.
        found = hashlib.blake2b()
        descriptor = os.open(cache.path / "file", os.O_RDONLY | os.O_DIRECT)
        barrier.wait()
        with open(descriptor, "rb", buffering=0) as file:
            while piece := file.read(1 << 20):
                found.update(piece)
        digests.append(found.hexdigest())

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert digests == [expected] * 8
    assert _bytes_from_source(cache) == length
    assert cache.status()["fuse"]["reads_in_flight"] == 0


@kinds.keeps_all_blocks
def test_second_reading_asks_no_server(tmp_path: Path, start_cache: StartCache) -> None:
    expected = _file(tmp_path / "tree" / "file", 9_999_999)
    cache = start_cache(tmp_path / "tree")
    assert _digest(cache.path / "file") == expected
    cold = _bytes_from_source(cache)
    cache.drop_page_cache()
    reads = cache.status()["fuse"]["upcalls"]["read"]
    assert _digest(cache.path / "file") == expected
    assert cache.status()["fuse"]["upcalls"]["read"] > reads
    assert _bytes_from_source(cache) == cold == 9_999_999


@kinds.keeps_all_blocks
def test_equal_content_is_kept_once(tmp_path: Path, start_cache: StartCache) -> None:
    _file(tmp_path / "tree" / "one", 8 * BLOCK)
    (tmp_path / "tree" / "two").write_bytes((tmp_path / "tree" / "one").read_bytes())
    cache = start_cache(tmp_path / "tree")
    assert _digest(cache.path / "one") == _digest(cache.path / "two")
    assert cache.status()["cache"]["raw_blocks"] == 8


def test_budget_is_held(tmp_path: Path, start_cache: StartCache) -> None:
    digests = {f"f{number}": _file(tmp_path / "tree" / f"f{number}", 6 << 20) for number in range(6)}
    cache = start_cache(tmp_path / "tree", options=["--cache-size=4M", "--compressed-size=3M"])
    for _ in range(2):
        for name, expected in digests.items():
            assert _digest(cache.path / name) == expected
            held = cache.status()["cache"]
            assert held["raw_bytes"] <= 4 << 20
            assert held["packed_bytes"] <= 3 << 20
        cache.drop_page_cache()
    assert cache.kind == kinds.NATIVE_RELEASE or cache.status()["cache"]["evictions"] > 0


@pytest.mark.parametrize("block", ["4K", "64K", "1M"])
def test_any_block_size_gives_the_same_bytes(block: str, tmp_path: Path, start_cache: StartCache) -> None:
    expected = {
        name: _file(tmp_path / "tree" / name, length)
        for name, length in (("a", 3_000_001), ("b", 4096), ("c", 5))
    }
    cache = start_cache(tmp_path / "tree", options=[f"--block-size={block}"])
    for name, digest in expected.items():
        assert _digest(cache.path / name) == digest


def test_readahead_is_wide(tmp_path: Path, start_cache: StartCache) -> None:
    (tmp_path / "tree").mkdir()
    cache = start_cache(tmp_path / "tree")
    device = cache.path.stat().st_dev
    setting = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    assert setting.read_text().strip() == "1024"


@kinds.live
def test_changed_file_is_seen_after_the_ttl(tmp_path: Path, start_cache: StartCache) -> None:
    _file(tmp_path / "tree" / "file", 3 * BLOCK)
    cache = start_cache(tmp_path / "tree", options=["--attr-ttl=0.3"])
    _digest(cache.path / "file")
    for length in (3 * BLOCK, 3 * BLOCK + 5, BLOCK - 1, 0, 7):
        expected = _file(tmp_path / "tree" / "file", length)
        wait_until(
            lambda expected=expected: _digest(cache.path / "file") == expected, "the new content is shown", 5
        )
        assert (cache.path / "file").stat().st_size == length


@kinds.live
def test_unchanged_file_keeps_its_pages(tmp_path: Path, start_cache: StartCache) -> None:
    expected = _file(tmp_path / "tree" / "file", 3 * BLOCK)
    cache = start_cache(tmp_path / "tree", options=["--attr-ttl=0"])
    for _ in range(2):
        assert _digest(cache.path / "file") == expected
    reads = cache.status()["fuse"]["upcalls"]["read"]
    assert _digest(cache.path / "file") == expected
    assert cache.status()["fuse"]["upcalls"]["read"] == reads


@kinds.live
def test_names_come_and_go(tmp_path: Path, start_cache: StartCache) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    cache = start_cache(tree, options=["--attr-ttl=0.2"])
    assert not (cache.path / "late").exists()
    (tree / "late").write_bytes(b"here")
    wait_until((cache.path / "late").exists, "the new name is shown", 5)
    assert os.listdir(cache.path) == ["late"]
    (tree / "late").unlink()
    (tree / "late").mkdir()
    wait_until((cache.path / "late").is_dir, "the directory is shown", 5)
    (tree / "late").rmdir()
    wait_until(lambda: not (cache.path / "late").exists(), "the name is gone", 5)
    assert os.listdir(cache.path) == []


@kinds.live
def test_attributes_are_believed_for_the_ttl(tmp_path: Path, start_cache: StartCache) -> None:
    _file(tmp_path / "tree" / "file", 5)
    cache = start_cache(tmp_path / "tree", options=["--attr-ttl=60"])
    before = (cache.path / "file").stat()
    (tmp_path / "tree" / "file").chmod(0o600)
    assert (cache.path / "file").stat() == before
    calls = cache.status()["servers"][0]["calls"]
    for _ in range(50):
        (cache.path / "file").stat()
    assert cache.status()["servers"][0]["calls"] == calls


@kinds.live
def test_replaced_file_stays_readable_where_it_is_open(tmp_path: Path, start_cache: StartCache) -> None:
    tree = tmp_path / "tree"
    old = _file(tree / "file", 20 * BLOCK)
    cache = start_cache(tree, options=["--attr-ttl=0.2"])
    with (cache.path / "file").open("rb", buffering=0) as file:
        first = file.read(10)
        new = _file(tree / "next", 20 * BLOCK + 1)
        (tree / "next").rename(tree / "file")
        wait_until(lambda: _digest(cache.path / "file") == new, "the new file is shown", 5)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert hashlib.blake2b(first + file.read()).hexdigest() == old
        assert os.fstat(file.fileno()).st_size == 20 * BLOCK


@kinds.live
def test_inode_number_given_to_another_kind_of_file(tmp_path: Path, start_cache: StartCache) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    cache = start_cache(tree, options=["--attr-ttl=0.1"])
    for round_ in range(10):
        (tree / "thing").write_bytes(b"file")
        wait_until((cache.path / "thing").is_file, "a file is shown", 5)
        (tree / "thing").unlink()
        (tree / "thing").symlink_to(f"target-{round_}")
        wait_until((cache.path / "thing").is_symlink, "a symlink is shown", 5)
        assert os.readlink(cache.path / "thing") == f"target-{round_}"
        (tree / "thing").unlink()


@kinds.live
def test_directory_renamed_on_the_source(tmp_path: Path, start_cache: StartCache) -> None:
    tree = tmp_path / "tree"
    (tree / "old" / "deep").mkdir(parents=True)
    expected = _file(tree / "old" / "deep" / "file", 1000)
    cache = start_cache(tree, options=["--attr-ttl=0.1"])
    assert _digest(cache.path / "old" / "deep" / "file") == expected
    (tree / "old").rename(tree / "new")
    wait_until((cache.path / "new" / "deep" / "file").exists, "the new name is shown", 5)
    assert _digest(cache.path / "new" / "deep" / "file") == expected
    wait_until(lambda: not (cache.path / "old").exists(), "the old name is gone", 5)


@kinds.live
def test_upcall_costs_are_counted(tmp_path: Path, start_cache: StartCache) -> None:
    _file(tmp_path / "tree" / "file", 10)
    cache = start_cache(tmp_path / "tree")
    started = time.monotonic()
    _digest(cache.path / "file")
    status = cache.status()
    assert status["uptime_s"] >= 0
    assert {"lookup", "open", "read"} <= set(status["fuse"]["upcalls"])
    latency = status["servers"][0]["latency_ms"]
    assert 0 < latency["p50"] <= latency["p95"] < 1000 * (time.monotonic() - started + status["uptime_s"])
