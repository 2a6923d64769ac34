"""A boot without a bundle is sent to a receiver, which makes one, and the next boot streams it."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from orioncache.release.bundle import place
from tests.fuse import kinds
from tests.fuse.conftest import RunningCache, released
from tests.program import COMMAND
from tests.waiting import wait_until

pytestmark = pytest.mark.kinds(kinds.NATIVE_LIVE)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/wanted").write_bytes(bytes(range(256)) * 4000)
    (tmp_path / "tree/other").write_bytes(b"never read")
    return released(tmp_path / "tree", tmp_path / "store", "--digest=blake2b")


class Receiving:
    """``orioncache profile serve --once`` on a port that the kernel chose."""

    def __init__(self, store: Path, *options: str) -> None:
        command = [*COMMAND, "profile", "serve", store, "--listen=127.0.0.1:0", "--once", "--json", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.url = f"http://127.0.0.1:{self.next()['port']}/"

    def next(self) -> dict[str, object]:
        assert self.process.stdout is not None
        return dict(json.loads(self.process.stdout.readline()))


@pytest.fixture
def receiving(release: Path, tmp_path: Path) -> Iterator[Receiving]:
    found = Receiving(tmp_path / "store")
    yield found
    found.process.kill()
    found.process.wait(timeout=20)


def start(release: Path, path: Path, url: str, after: str = "1s") -> RunningCache:
    options = [f"--upload={url}", f"--upload-after={after}", "--bundle=kiosk"]
    return RunningCache([release], path, options, kinds.NATIVE_LIVE)


def state(cache: RunningCache) -> str:
    return str(cache.status()["upload"]["state"])


def test_the_next_boot_streams_what_the_first_one_read(
    release: Path, receiving: Receiving, tmp_path: Path
) -> None:
    cache = start(release, tmp_path / "first", receiving.url)
    try:
        assert cache.status()["bundle"]["frames"] == 0
        (cache.path / "wanted").read_bytes()
        wait_until(lambda: state(cache) == "sent", "it is sent")
    finally:
        cache.end()
    assert not cache.complaints()
    assert receiving.next()["event"] == "received"
    assert receiving.next()["event"] == "learned"
    assert receiving.process.wait(timeout=20) == 0
    assert place(release, "kiosk").is_file()

    cache = start(release, tmp_path / "second", receiving.url, after="2s")
    try:
        wait_until(lambda: cache.status()["bundle"]["ended_at"] > 0, "the stream has ended")
        assert cache.status()["bundle"]["stored_bytes"] == 256 * 4000
        (cache.path / "wanted").read_bytes()
        assert cache.status()["fuse"]["upcalls"].get("read", 0) == 0
        wait_until(lambda: state(cache) == "not sent", "nothing of a boot with a bundle is sent")
    finally:
        cache.end()
    assert not cache.complaints()


def test_a_degraded_boot_is_not_sent(release: Path, receiving: Receiving, tmp_path: Path) -> None:
    for pack in (release / "packs").iterdir():
        pack.unlink()
    cache = start(release, tmp_path / "m", receiving.url)
    try:
        with pytest.raises(OSError, match="Input/output error"):
            (cache.path / "wanted").read_bytes()
        wait_until(lambda: state(cache) == "not sent", "it is given up")
        assert "degraded" in cache.status()["upload"]["text"]
    finally:
        cache.end()
    assert not list((tmp_path / "store").glob("learned/**/*.trace"))


def test_nobody_listens(release: Path, tmp_path: Path) -> None:
    """The mount serves on and ends at once, though attempts are still to come."""
    cache = start(release, tmp_path / "m", "http://127.0.0.1:1/", "0s")
    try:
        wait_until(lambda: state(cache) in ("sending", "not sent"), "it is tried")
        assert len((cache.path / "wanted").read_bytes()) == 256 * 4000
    finally:
        assert cache.end() == 0
