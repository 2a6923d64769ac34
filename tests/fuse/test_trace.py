"""What a mount records: reads as they were asked for, with what became of them; page by page if told so."""

import errno
import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from orioncache.control import client
from orioncache.errors import UserError
from orioncache.trace.format import HIT, LOOKUP, MISS, READ, Record, Trace, decode
from tests.fuse import kinds
from tests.fuse.conftest import RunningCache, StartCache
from tests.program import COMMAND
from tests.waiting import wait_until

BLOCK = 128 << 10
PAGE = 4096

native_release = pytest.mark.kinds(kinds.NATIVE_RELEASE)


@pytest.fixture
def content() -> bytes:
    return random.Random(4).randbytes(3 * BLOCK + 777)


@pytest.fixture
def tree(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "tree"
    (path / "sub").mkdir(parents=True)
    (path / "sub/file").write_bytes(content)
    (path / "small").write_bytes(b"small")
    return path


def _trace(cache: RunningCache) -> Trace:
    return decode(client.trace(str(cache.socket)), "trace")


def _reads(trace: Trace, path: str) -> list[Record]:
    return [record for record in trace.records if record.kind == READ and trace.path(record.inode) == path]


def _read_pages(path: Path, *pages: int) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        for page in pages:
            assert os.pread(descriptor, PAGE, page * PAGE)
    finally:
        os.close(descriptor)


@native_release
def test_reads_are_recorded_as_they_were_asked_for(
    start_cache: StartCache, tree: Path, content: bytes
) -> None:
    cache = start_cache(tree, options=["--trace=on"])
    _read_pages(cache.path / "sub/file", 1, 3 * BLOCK // PAGE, 40)
    # The same block once more, by another program: cat after exec, not the shell that became it.
    shell = f"exec cat {cache.path}/small"
    assert subprocess.run(["sh", "-c", shell], stdout=subprocess.PIPE, check=True).stdout == b"small"
    trace = _trace(cache)
    first, last, second = _reads(trace, "sub/file")
    assert (first.offset, first.length, first.outcome, first.blocks_missed) == (PAGE, PAGE, MISS, 1)
    assert (last.offset, last.length, last.outcome) == (3 * BLOCK, 777, MISS)
    assert (second.offset, second.outcome) == (40 * PAGE, MISS)
    assert {each.pid for each in (first, last, second)} == {os.getpid()}
    assert first.comm == Path("/proc/self/comm").read_text().strip()
    assert 0 < first.wait_ns < 10_000_000_000
    assert trace.started_ns < first.t_ns <= last.t_ns <= second.t_ns
    (small,) = _reads(trace, "small")
    assert (small.comm, small.length, small.outcome) == ("cat", 5, MISS)
    looked_up = {trace.path(record.inode) for record in trace.records if record.kind == LOOKUP}
    assert looked_up == {"sub/file", "small"}
    assert (trace.release, trace.version, trace.lost) == ("tree", "1", 0)
    assert not trace.degraded
    assert not trace.first_touches
    assert trace.manifest_digest.hex() == cache.status()["release"]["digest"]
    assert trace.files[first.inode].size == len(content)
    assert set(trace.digests) == {(first.inode, block) for block in (0, 1, 3)} | {(small.inode, 0)}


@native_release
def test_what_is_in_ram_is_a_hit(start_cache: StartCache, tree: Path) -> None:
    cache = start_cache(tree, options=["--trace=on"])
    _read_pages(cache.path / "sub/file", 32)
    # The kernel forgets the page; the block was not given whole, and is kept.
    cache.drop_page_cache()
    _read_pages(cache.path / "sub/file", 32)
    assert [(record.offset, record.outcome) for record in _reads(_trace(cache), "sub/file")] == [
        (BLOCK, MISS),
        (BLOCK, HIT),
    ]


@native_release
def test_every_first_touch_of_a_page_is_seen(start_cache: StartCache, tree: Path, content: bytes) -> None:
    cache = start_cache(tree, options=["--trace=touch"])
    assert (cache.path / "sub/file").read_bytes() == content
    (cache.path / "sub/file").read_bytes()
    touches = _reads(_trace(cache), "sub/file")
    assert [record.offset for record in touches] == list(range(0, len(content), PAGE))
    assert {record.length for record in touches[:-1]} == {PAGE}
    assert [record.offset for record in touches if record.outcome == MISS] == [0, BLOCK, 2 * BLOCK, 3 * BLOCK]
    assert _trace(cache).first_touches


@native_release
def test_pages_of_a_mapping_are_seen_one_by_one(start_cache: StartCache, tree: Path) -> None:
    cache = start_cache(tree, options=["--trace=touch"])
    code = (
        "import mmap, sys; file = open(sys.argv[1], 'rb'); "
        "mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ); "
        "print(sum(mapped[page * 4096] for page in (5, 70, 6)))"
    )
    subprocess.run([sys.executable, "-c", code, cache.path / "sub/file"], check=True, capture_output=True)
    assert [record.offset // PAGE for record in _reads(_trace(cache), "sub/file")] == [5, 70, 6]


@native_release
def test_the_first_requests_are_kept_and_the_rest_counted(start_cache: StartCache, tree: Path) -> None:
    cache = start_cache(tree, options=["--trace=touch", "--trace-records=10"])
    (cache.path / "sub/file").read_bytes()
    trace = _trace(cache)
    assert len(trace.records) + len(trace.fetches) == 10
    assert trace.lost == 1 + 97 + 4 - 10  # a lookup, 97 pages, 4 blocks
    assert trace.degraded
    assert [record.offset for record in _reads(trace, "sub/file")] == list(range(0, 8 * PAGE, PAGE))


@native_release
def test_a_read_that_fails_is_an_error_and_the_trace_degraded(
    start_cache: StartCache, tree: Path, tmp_path: Path
) -> None:
    cache = start_cache(tree, options=["--trace=on"])
    cache.expected += ["the pack ends too early", "no good copy"]
    (store,) = cache.sources
    # Not removed: packs are open already.
    for pack in (store / "packs").iterdir():
        os.truncate(pack, 0)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        (cache.path / "small").read_bytes()
    trace = _trace(cache)
    assert {record.outcome for record in _reads(trace, "small")} == {3}
    assert trace.degraded


@native_release
def test_a_running_mount_gives_its_trace_to_a_file(
    start_cache: StartCache, tree: Path, tmp_path: Path
) -> None:
    cache = start_cache(tree, options=["--trace=on"])
    (cache.path / "small").read_bytes()
    command = [*COMMAND, "trace", "record", str(cache.path), "-o", str(tmp_path / "a.trace")]
    # The mount point is found by the sockets of this user, and this cache's is elsewhere.
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no cache is running on" in done.stderr
    command[-3:-2] = [str(cache.socket)]
    command += ["--while", "cat", str(cache.path / "sub/file")]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    trace = decode((tmp_path / "a.trace").read_bytes(), "a.trace")
    assert not _reads(trace, "small")
    assert {record.comm for record in _reads(trace, "sub/file")} == {"cat"}


@native_release
def test_a_trace_is_given_while_reads_go_on(start_cache: StartCache, tree: Path) -> None:
    cache = start_cache(tree, options=["--trace=touch"])
    reader = subprocess.Popen(
        [
            *("sh", "-c", 'while dd if="$1" of=/dev/null bs=4k iflag=direct 2>/dev/null; do :; done'),
            *("sh", str(cache.path / "sub/file")),
        ]
    )
    seen = [0]

    def more() -> bool:
        trace = _trace(cache)
        seen.append(len(trace.records) + trace.lost)
        return seen[-1] > seen[1] + 100

    try:
        wait_until(more, "records are added while they are asked for")
    finally:
        reader.send_signal(signal.SIGTERM)
        reader.wait(timeout=20)
    assert seen == sorted(seen)


def test_what_is_not_recorded_is_told(start_cache: StartCache, tree: Path, kind: str) -> None:
    options = [] if kind == kinds.NATIVE_RELEASE else ["--trace=on"]
    cache = start_cache(tree, options=options)
    with pytest.raises(UserError, match="this cache records no trace"):
        client.trace(str(cache.socket))
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(cache.socket))
        connection.sendall(b'{"op": "trace"}\n')
        with connection.makefile("rb") as answer:
            assert answer.read() == b'{"error": "this cache records no trace"}\n'
