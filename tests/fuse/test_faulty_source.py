"""The servers that other tests have fail: each fault does what it says, and heals."""

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from orioncache.bench.faulty import FaultySource
from tests.waiting import wait_until

CONTENT = os.urandom(100_000)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[FaultySource]:
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/file").write_bytes(CONTENT)
    (tmp_path / "tree/link").symlink_to("sub/file")
    with FaultySource(tmp_path / "tree", tmp_path / "shown") as source:
        yield source


def test_without_faults_it_shows_the_directory(source: FaultySource) -> None:
    assert (source.path / "link").read_bytes() == CONTENT
    assert sorted(os.listdir(source.path)) == ["link", "sub"]
    counters = source.counters()
    assert counters["bytes"] == len(CONTENT)
    assert counters["faults"] == 0


def test_reads_hang_while_attributes_are_answered_and_go_on_when_healed(source: FaultySource) -> None:
    source.tell("hang only=read")
    file, got = source.path / "sub/file", []
    reader = threading.Thread(target=lambda: got.append(file.read_bytes()))
    reader.start()
    wait_until(lambda: source.counters()["waiting"] == 1, "the read hangs", 5)
    assert file.stat().st_size == len(CONTENT)
    source.tell("heal")
    reader.join(5)
    assert got == [CONTENT]


def test_it_lies_as_it_is_told(source: FaultySource) -> None:
    file = source.path / "sub/file"
    source.tell("zeros")
    assert file.read_bytes() == bytes(len(CONTENT))
    source.tell("heal")
    source.tell("corrupt name=sub/")
    lie = file.read_bytes()
    assert len(lie) == len(CONTENT)
    assert lie != CONTENT
    source.tell("heal")
    source.tell("error ECONNRESET only=read percent=50")
    failures = 0
    for _ in range(100):
        try:
            file.read_bytes()
        except ConnectionResetError:
            failures += 1
    assert 10 < failures < 90
    assert source.tell("heal")["faults"] >= failures


def test_killed_it_fails_what_hangs_and_can_come_back(source: FaultySource) -> None:
    source.tell("hang")
    file, got = source.path / "sub/file", []

    def stat() -> None:
        try:
            file.stat()
        except OSError as error:
            got.append(error.errno)

    asker = threading.Thread(target=stat)
    asker.start()
    wait_until(lambda: source.counters()["waiting"] == 1, "the question hangs", 5)
    source.kill()
    asker.join(5)
    assert got in ([errno.ENOTCONN], [errno.ECONNABORTED])
    source.unmount()
    source.start()
    assert file.read_bytes() == CONTENT
