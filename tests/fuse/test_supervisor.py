"""The daemon is killed, at any moment, and nobody who uses the mount notices more than a pause."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from orioncache.control import client
from orioncache.control.places import socket_path
from orioncache.fs.supervisor import DEATHS
from tests.fuse import kinds
from tests.fuse.conftest import RunningCache, StartCache, released
from tests.fuse.readers import READERS, readers
from tests.fuse.test_bundle import CONTENT, release  # noqa: F401
from tests.program import COMMAND, IS_SANITIZED
from tests.waiting import wait_until

KILLS = 20
# Seconds of the longest read, lookup or listing.
PAUSE = 1.0

native_release = pytest.mark.kinds(kinds.NATIVE_RELEASE)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small files, large ones, holes, links and directories."""
    tree = tmp_path_factory.mktemp("supervised") / "tree"
    for folder in range(4):
        (tree / f"d{folder}").mkdir(parents=True)
        for number in range(8):
            (tree / f"d{folder}" / f"small{number}").write_bytes(os.urandom(random.randrange(1, 60000)))
        (tree / f"d{folder}" / "large").write_bytes(os.urandom(3 << 20))
        (tree / f"d{folder}" / "link").symlink_to("large")
        with (tree / f"d{folder}" / "holes").open("wb") as file:
            file.seek(1 << 20)
            file.write(b"end")
    return tree


def _kill(cache: RunningCache, number: signal.Signals = signal.SIGKILL) -> None:
    """Kills the daemon, and waits until there is another."""
    daemon = _child(cache)
    os.kill(daemon, number)
    wait_until(
        lambda: _child(cache) not in {0, daemon} or cache.process.poll() is not None,
        "another daemon is there",
    )


def _child(cache: RunningCache) -> int:
    """The newest child of the supervisor; 0: it has none just now."""
    pid = cache.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    # In the order of their birth; numbers begin again from below.
    return int(children[-1]) if children else 0


def _need_resend(cache: RunningCache) -> None:
    if not cache.status()["daemon"]["resend"]:
        pytest.skip("this kernel cannot send requests again (Linux 6.9 can)")


def _size(pid: int) -> tuple[int, int]:
    """Open files, and bytes of memory, whoever else has them as well."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    (resident,) = (int(line.split()[1]) for line in lines if line.startswith("Rss:"))
    return len(os.listdir(f"/proc/{pid}/fd")), resident << 10


@native_release
def test_readers_notice_no_kill(tree: Path, start_cache: StartCache) -> None:
    cache = start_cache(tree)
    cache.expected = ["the daemon had died"]
    _need_resend(cache)
    with readers(tree, cache.path) as found:
        time.sleep(0.5)
        _kill(cache)
        before = _size(cache.process.pid)
        for _ in range(KILLS - 1):
            time.sleep(random.uniform(0, 0.3))
            _kill(cache)
        wait_until(lambda: _size(cache.process.pid)[0] == before[0], "it holds as many files as before", 5)
        after = _size(cache.process.pid)
    assert [reader["errors"] for reader in found] == [[]] * READERS
    assert all(reader["operations"] > 100 for reader in found)
    status = cache.status()
    assert status["daemon"]["restarts"] == KILLS
    assert status["daemon"]["supervised"] is True
    assert any("SIGKILL" in event["text"] for event in status["events"])
    assert after[1] <= before[1] + (256 << 10)
    if not IS_SANITIZED:
        assert max(reader["longest"] for reader in found) <= PAUSE


@native_release
def test_a_restart_needs_no_server(tree: Path, start_cache: StartCache) -> None:
    """And it serves what was served, whatever the server has by now."""
    cache = start_cache(tree)
    cache.expected = ["the daemon had died", "is left out", "is suspect", "failed"]
    (cache.sources[0] / "manifest").unlink()
    (cache.sources[0] / "manifest").write_bytes(b"of another release")
    _kill(cache)
    for path in tree.rglob("*"):
        found = cache.path / path.relative_to(tree)
        assert found.lstat().st_size == path.lstat().st_size or path.is_dir()
        assert not path.is_dir() or sorted(os.listdir(path)) == sorted(os.listdir(found))
    assert cache.status()["release"]["version"] == "1"


@native_release
def test_who_falls_over_its_own_feet_is_given_up(tree: Path, start_cache: StartCache) -> None:
    cache = start_cache(tree)
    cache.expected = ["the daemon had died", "given up"]
    for _ in range(DEATHS):
        _kill(cache, signal.SIGABRT)
    assert cache.process.wait(timeout=20) == 1
    assert f"died {DEATHS} times (signal 6 (SIGABRT)): the mount is given up" in cache.log()
    with pytest.raises(OSError, match="not connected"):
        os.listdir(cache.path)
    assert not cache.socket.exists()


@native_release
def test_who_waits_for_its_end_gets_it(tree: Path, start_cache: StartCache) -> None:
    """A signal that comes when no daemon can take it ends the mount all the same."""
    cache = start_cache(tree)
    daemon = _child(cache)
    os.kill(daemon, signal.SIGSTOP)
    cache.process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    os.kill(daemon, signal.SIGKILL)
    assert cache.process.wait(timeout=20) == 1
    assert f" {cache.path} " not in Path("/proc/self/mountinfo").read_text()


def test_a_daemon_outlives_its_supervisor(tree: Path, tmp_path: Path) -> None:
    point = tmp_path / "point"
    point.mkdir()
    made = released(tree, tmp_path / "store")
    subprocess.run([*COMMAND, "mount", str(made), str(point)], check=True)
    try:
        status = client.status(socket_path(str(point)))
        assert status["daemon"]["supervised"] is True
        stat = Path(f"/proc/{status['pid']}/stat").read_text()
        os.kill(int(stat.rpartition(")")[2].split()[1]), signal.SIGKILL)
        wait_until(
            lambda: client.status(socket_path(str(point)))["daemon"]["supervised"] is False,
            "the supervisor is gone",
        )
        assert (point / "d0/large").read_bytes() == (tree / "d0/large").read_bytes()
    finally:
        subprocess.run(["umount", point], check=True)
    wait_until(lambda: not Path(f"/proc/{status['pid']}").exists(), "the daemon has ended")


def test_a_bundle_goes_on(release: Path, tmp_path: Path) -> None:  # noqa: F811
    """Killed at once, and again and again, while it streams: what comes is right, and all of it comes."""
    cache = RunningCache([release], tmp_path / "m", ["--read-around=0"], kinds.NATIVE_LIVE)
    try:
        _need_resend(cache)
        for _ in range(KILLS):
            _kill(cache)
            time.sleep(random.uniform(0, 0.01))
        wait_until(lambda: cache.status()["bundle"]["ended_at"] > 0 or not _streams(cache), "the stream ends")
        for name, content in CONTENT.items():
            assert (cache.path / name).read_bytes() == content
        assert cache.status()["daemon"]["restarts"] == KILLS
    finally:
        assert cache.end() == 0


def _streams(cache: RunningCache) -> bool:
    return bool(cache.status()["bundle"]["began_at"])
