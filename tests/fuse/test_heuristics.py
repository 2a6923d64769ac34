"""Heuristics beside the native engine: what they want comes in time, and bad ones cost nothing."""

import contextlib
import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fuse import kinds
from tests.fuse.conftest import RunningCache, StartCache, released
from tests.program import COMMAND
from tests.waiting import wait_until

BLOCK = 128 << 10
# Servers here are directories: no round trip would be worth it.
ALWAYS = "scheduler:trip=0"

pytestmark = pytest.mark.kinds(kinds.NATIVE_RELEASE)

HEURISTICS = '''
from orioncache.prefetch.interface import Candidate, Heuristic

class Next(Heuristic):
    """All blocks of what was read, for certain, once."""
    name = "next"
    seen = set()
    def on_access(self, access, view):
        if access.inode not in self.seen:
            self.seen.add(access.inode)
            yield from (Candidate(block, 1.0, 0.0) for block in view.blocks(access.inode))

class Raises(Heuristic):
    name = "raises"
    def on_access(self, access, view):
        raise ValueError("of no use")

class Loops(Heuristic):
    name = "loops"
    def on_access(self, access, view):
        while True:
            pass

class Floods(Heuristic):
    name = "floods"
    def on_access(self, access, view):
        while True:
            yield Candidate(0, 1.0, 0.0)
'''


@pytest.fixture
def heuristics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package of a user's, installed where the cache finds it."""
    packages = tmp_path / "packages"
    about = packages / "users-1.dist-info"
    about.mkdir(parents=True)
    (packages / "users.py").write_text(HEURISTICS)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: users\nVersion: 1\n")
    lines = [f"{name} = users:{name.title()}" for name in ("next", "raises", "loops", "floods")]
    (about / "entry_points.txt").write_text("\n".join(["[orioncache.heuristics]", *lines, ""]))
    monkeypatch.setenv("PYTHONPATH", str(packages))
    # Under sanitizers the command sets its own, for the instrumented library.
    before = list(COMMAND)
    COMMAND[:] = [
        f"{word}{os.pathsep}{packages}" if word.startswith("PYTHONPATH=") else word for word in before
    ]
    yield
    COMMAND[:] = before


@pytest.fixture
def content() -> bytes:
    return random.Random(8).randbytes(12 * BLOCK + 5)


@pytest.fixture
def tree(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "tree"
    path.mkdir()
    (path / "large").write_bytes(content)
    (path / "other").write_bytes(content[::-1])
    return path


def _counts(cache: RunningCache, name: str) -> dict[str, Any]:
    found: dict[str, Any] = (cache.status()["prefetch"].get("heuristics") or {}).get(name, {})
    return found


def _read(path: Path, offset: int, length: int) -> bytes:
    """Reads without the kernel's readahead, or any page cache."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        return os.pread(descriptor, length, offset)
    finally:
        os.close(descriptor)


@pytest.mark.usefixtures("heuristics")
def test_what_is_wanted_comes_before_it_is_asked_for(
    start_cache: StartCache, tree: Path, content: bytes
) -> None:
    cache = start_cache(tree, options=[f"--heuristics=next,{ALWAYS}", "--read-around=0", "--trace=on"])
    assert _read(cache.path / "large", 0, 4096) == content[:4096]
    wait_until(lambda: _counts(cache, "next").get("issued") == 12, "all other blocks depart")
    wait_until(lambda: cache.status()["fetch"]["flights"] == 0, "they land")
    assert (cache.path / "large").read_bytes() == content
    wait_until(lambda: _counts(cache, "next")["useful"] == 12, "their use is seen")
    counts = _counts(cache, "next")
    assert counts["useful_bytes"] == len(content) - BLOCK
    assert (counts["late"], counts["failed"], counts["wasted"], counts["cut_off"]) == (0, 0, 0, "")
    fetch = cache.status()["fetch"]
    assert (fetch["demand_blocks"], fetch["ahead_blocks"], fetch["ahead_used"]) == (1, 12, 12)
    shown = subprocess.run(
        [*COMMAND, "status", str(cache.socket)], capture_output=True, text=True, check=True
    ).stdout
    assert "next: 12 fetched, 12 useful" in shown


@pytest.mark.usefixtures("heuristics")
@pytest.mark.parametrize(
    ("name", "why"),
    [("raises", "it raised ValueError: of no use"), ("loops", "processor time"), ("floods", "1024")],
)
def test_one_that_misbehaves_is_cut_off_and_the_rest_goes_on(
    start_cache: StartCache, tree: Path, content: bytes, name: str, why: str
) -> None:
    cache = start_cache(tree, options=[f"--heuristics={name},next,{ALWAYS}", "--read-around=0"])
    cache.expected = [f"heuristic {name} was cut off: "]
    for number in range(4):  # one that floods has three strikes
        assert _read(cache.path / "other", number * BLOCK, 10) == content[::-1][number * BLOCK :][:10]
    wait_until(lambda: why in _counts(cache, name).get("cut_off", ""), "it is cut off")
    assert _read(cache.path / "large", 0, 4096) == content[:4096]
    wait_until(lambda: _counts(cache, "next")["issued"] > 12, "the other one works")
    assert any(cache.expected[0] in event["text"] for event in cache.status()["events"])
    assert (cache.path / "large").read_bytes() == content


@pytest.mark.usefixtures("heuristics")
def test_flights_to_a_server_that_has_nothing_end(
    start_cache: StartCache, tree: Path, content: bytes, tmp_path: Path
) -> None:
    cache = start_cache(tree, options=[f"--heuristics=next,{ALWAYS}", "--read-around=0"])
    assert _read(cache.path / "other", 0, 10) == content[::-1][:10]
    wait_until(lambda: _counts(cache, "next").get("issued", 0) > 0, "something departs")
    cache.expected = [
        "Stale file handle",
        "No such file",
        "no good copy",
        "pack ends too early",
        "Input/output",
    ]
    for pack in (cache.sources[0] / "packs").iterdir():
        os.truncate(pack, 0)
    with contextlib.suppress(OSError):  # nobody has it
        _read(cache.path / "large", 5 * BLOCK, 10)
    wait_until(lambda: cache.status()["fetch"]["flights"] == 0, "no flight is left")
    wait_until(
        lambda: not any(each["in_flight"] for each in cache.status()["prefetch"]["servers"]), "nor thought so"
    )


def test_without_a_round_trip_that_is_worth_it_nothing_is_done(
    start_cache: StartCache, tree: Path, content: bytes
) -> None:
    cache = start_cache(tree, options=["--heuristics=sequential,elf,script"])
    assert (cache.path / "large").read_bytes() == content
    time.sleep(0.5)  # it would have had the time
    assert cache.status()["prefetch"] == {"state": "waits", "chosen": "sequential,elf,script"}


def test_heuristics_are_set_by_tables_of_a_file_too(
    start_cache: StartCache, tree: Path, tmp_path: Path
) -> None:
    config = tmp_path / "cache.toml"
    config.write_text(
        '[heuristics.sequential]\nwindow = "1M"\n[heuristics.scheduler]\ntrip = 0\nbudget = "8M"\n'
    )
    cache = start_cache(tree, options=[f"--config={config}"])
    wait_until(lambda: cache.status()["prefetch"]["state"] == "runs", "it runs")
    assert cache.status()["prefetch"]["chosen"] == "sequential:window=1M,scheduler:trip=0:budget=8M"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "there is no heuristic 'nonsense'"),
        ("elf:depth=x", "elf:depth: 'x' is no number"),
        ("elf:depths=1", "elf: unknown tunable 'depths'"),
        ("elf,scheduler:cap=much", "scheduler:cap: 'much' is no size"),
        ("elf,,", "is no heuristic's name"),
    ],
)
def test_a_wrong_choice_is_one_line(kind: str, tree: Path, tmp_path: Path, text: str, message: str) -> None:
    del kind
    release = released(tree, tmp_path / "store")
    (tmp_path / "m").mkdir()
    command = [*COMMAND, "mount", str(release), str(tmp_path / "m"), f"--heuristics={text}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.kinds(kinds.PYTHON_RELEASE, kinds.NATIVE_LIVE)
def test_where_none_can_run_that_is_said(start_cache: StartCache, tree: Path) -> None:
    cache = start_cache(tree, options=["--heuristics=elf"])
    cache.expected = ["no heuristics run"]
    assert any("no heuristics run" in event["text"] for event in cache.status()["events"])


def test_without_a_choice_there_are_none(start_cache: StartCache, tree: Path) -> None:
    assert start_cache(tree).status()["prefetch"] is None
