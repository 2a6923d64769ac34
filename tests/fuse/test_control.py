"""Events, metrics and changes of servers of caches that serve real mounts."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.checkout import TOP
from tests.fuse import kinds
from tests.fuse.conftest import RunningCache, StartCache, released
from tests.program import COMMAND
from tests.waiting import wait_until

BLOCK = 128 << 10
FILES = 12

releases = pytest.mark.kinds(kinds.NATIVE_RELEASE, kinds.PYTHON_RELEASE)


def orion(*arguments: str | Path, code: int = 0) -> str:
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


def values(text: str) -> dict[str, float]:
    """Metrics by name, without labels; those of several labels are added up."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(FILES):
        (tree / f"file{number}").write_bytes(os.urandom(2 * BLOCK + 100))
    return tree


def test_metrics_of_each_kind_of_cache(start_cache: StartCache, tree: Path) -> None:
    port = free_port()
    cache = start_cache(tree, options=[f"--metrics-port={port}"])
    assert (cache.path / "file1").read_bytes() == (tree / "file1").read_bytes()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        over_http = values(answer.read().decode())
    by_socket = values(orion("metrics", cache.socket))
    assert set(over_http) == set(by_socket)
    assert by_socket["orioncache_server_bytes_total"] >= 2 * BLOCK
    assert by_socket["orioncache_server_state"] == 1
    assert by_socket["orioncache_fuse_upcalls_total"] > 0
    assert "orioncache_cache_misses_total" in by_socket
    (said,) = [line for line in orion("events", cache.socket).splitlines() if "metrics are at" in line]
    assert f":{port}/metrics" in said
    assert f"'{port}'" not in cache.log()


def test_a_port_in_use_is_told_before_anything_is_mounted(tree: Path, tmp_path: Path) -> None:
    point = tmp_path / "point"
    point.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = orion("mount", f"--metrics-port={port}", tree, point, code=1)
    assert f"metrics on 127.0.0.1:{port}: Address already in use" in said
    assert f" {point} " not in Path("/proc/self/mountinfo").read_text()


ON_NODE = """
set -e
mount -t tmpfs none /run
"$0" -m orioncache.node "$1" "$2"
trap 'umount "$2"' EXIT
"$0" -c 'import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=10).read().decode())' \\
  "http://127.0.0.1:$3/metrics"
"$0" -m orioncache events /run/orion/control.sock >&2
"""


def test_a_node_answers_on_its_port_when_it_is_first_asked(tree: Path, tmp_path: Path) -> None:
    source, point, port = released(tree, tmp_path / "store"), tmp_path / "point", free_port()
    point.mkdir()
    environment = {**os.environ, "ORION_METRICS_PORT": str(port), "PYTHONPATH": str(TOP)}
    words = ["unshare", "-m", "sh", "-c", ON_NODE, sys.executable, str(source), str(point), str(port)]
    done = subprocess.run(
        words, env=environment, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert values(done.stdout)["orioncache_build_info"] == 1
    assert f"metrics are at http://127.0.0.1:{port}/metrics" in done.stderr


class Follower:
    """``orioncache events --follow --json`` in a process."""

    def __init__(self, cache: RunningCache, output: Path) -> None:
        self._output = output
        with output.open("wb") as out:
            command = [*COMMAND, "events", "--follow", "--json", str(cache.socket)]
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE)

    def events(self) -> list[dict[str, Any]]:
        lines = self._output.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def kinds(self) -> set[str]:
        return {event["kind"] for event in self.events()}


@pytest.fixture
def pair(tree: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Two copies of one release."""
    first = released(tree, tmp_path / "store")
    for name in ("a", "b"):
        shutil.copytree(first, tmp_path / name)
    return tmp_path / "a", tmp_path / "b"


@pytest.fixture
def cache(pair: tuple[Path, Path], tmp_path: Path, kind: str) -> Iterator[RunningCache]:
    """Over these copies; what it says of a server that fails is expected."""
    live = f"{kinds.engine(kind)}-live"
    found = RunningCache(list(pair), tmp_path / "m", ["--read-timeout=1s"], live)
    yield found
    found.end()


@releases
def test_a_server_that_lies_is_followed(
    cache: RunningCache, pair: tuple[Path, Path], tree: Path, tmp_path: Path
) -> None:
    follower = Follower(cache, tmp_path / "events")
    wait_until(lambda: any("serving" in event["text"] for event in follower.events()), "it follows")
    (pack,) = (pair[0] / "packs").iterdir()
    # Another file of the same length under the same name, whatever is open.
    with pack.open("r+b") as file:
        file.write(bytes(pack.stat().st_size))
    for number in range(FILES):
        name = f"file{number}"
        assert (cache.path / name).read_bytes() == (tree / name).read_bytes()
    wait_until(
        lambda: any(
            event["severity"] != "info" and str(pair[0]) in event["text"] for event in follower.events()
        ),
        "the event comes",
    )
    assert values(orion("metrics", cache.socket))["orioncache_server_mismatches_total"] > 0
    events = follower.events()
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert cache.end() == 0
    assert follower.process.wait(timeout=20) == 0
    assert "ended" in follower.process.stderr.read().decode()
    follower.process.stderr.close()


def read_all(cache: RunningCache, tree: Path) -> None:
    cache.drop_page_cache()
    for number in range(FILES):
        assert (cache.path / f"file{number}").read_bytes() == (tree / f"file{number}").read_bytes()


def states(cache: RunningCache) -> dict[str, tuple[str, bool]]:
    """State of each server, and whether it drains, by its directory's name."""
    found = json.loads(orion("server", "list", cache.socket, "--json"))
    return {Path(each["source"]).name: (each["state"], each["draining"]) for each in found["servers"]}


def test_servers_come_and_go_while_it_reads(
    cache: RunningCache, pair: tuple[Path, Path], tree: Path, tmp_path: Path
) -> None:
    follower = Follower(cache, tmp_path / "events")
    wait_until(lambda: bool(follower.events()), "it follows")
    shutil.copytree(pair[0], tmp_path / "c")
    assert "2 " in orion("server", "add", cache.socket, tmp_path / "c")
    wait_until(lambda: states(cache)["c"][0] == "good", "it was asked, and is good")
    assert "is one of the servers already" in orion("server", "add", cache.socket, tmp_path / "c", code=1)
    orion("server", "drain", cache.socket, pair[0])
    assert states(cache)["a"][1] is True
    read_all(cache, tree)
    orion("server", "drain", cache.socket, "0", "--off")
    orion("server", "remove", cache.socket, pair[1])
    orion("server", "remove", cache.socket, "0")
    assert list(states(cache)) == ["c"]
    assert "is the last server" in orion("server", "remove", cache.socket, "2", code=1)
    read_all(cache, tree)
    assert values(orion("metrics", cache.socket))["orioncache_server_state"] == 1
    orion("server", "add", cache.socket, pair[0])
    assert set(states(cache)) == {"a", "c"}
    texts = [event["text"] for event in follower.events() if event["kind"] == "server"]
    for name, what in (("c", "added"), ("b", "removed"), ("a", "removed"), ("a", "added")):
        assert any(f"/{name} " in text and what in text for text in texts), texts
    assert cache.end() == 0
    assert follower.process.wait(timeout=20) == 0
    follower.process.stderr.close()


@pytest.mark.kinds(kinds.NATIVE_RELEASE, kinds.PYTHON_RELEASE)
def test_a_server_with_another_release_is_quarantined(
    cache: RunningCache, tree: Path, tmp_path: Path
) -> None:
    (tree / "file0").write_bytes(b"new")
    other = released(tree, tmp_path / "other")
    orion("server", "add", cache.socket, other)
    wait_until(lambda: states(cache)["1"][0] == "quarantined", "it is found out")
    (tree / "file0").write_bytes((cache.path / "file0").read_bytes())
    assert (tree / "file0").stat().st_size == 2 * BLOCK + 100
    assert "is quarantined: " in orion("server", "list", cache.socket)
    assert "quarantine" in orion("events", cache.socket, "--kind", "quarantine")


@pytest.mark.kinds(kinds.NATIVE_RELEASE)
def test_a_server_whose_files_go_and_come_back_is_followed(
    cache: RunningCache, pair: tuple[Path, Path], tree: Path, tmp_path: Path
) -> None:
    follower = Follower(cache, tmp_path / "events")
    wait_until(lambda: bool(follower.events()), "it follows")
    (pair[0] / "packs").rename(pair[0] / "gone")
    (pair[0] / "manifest").rename(pair[0] / "gone/manifest")
    read_all(cache, tree)
    wait_until(lambda: {"quarantine", "switch"} <= follower.kinds(), "its probe has found out")
    assert states(cache)["a"][0] == "quarantined"
    assert "0 is quarantined: it is no release" in orion("status", cache.socket)
    (pair[0] / "gone/manifest").rename(pair[0] / "manifest")
    (pair[0] / "gone").rename(pair[0] / "packs")
    # Who serves something else is never asked again, unless somebody says that it is another one now.
    orion("server", "remove", cache.socket, pair[0])
    orion("server", "add", cache.socket, pair[0])
    wait_until(lambda: states(cache)["a"][0] == "good", "it is good again")
    read_all(cache, tree)
    assert cache.end() == 0
    assert follower.process.wait(timeout=20) == 0
    follower.process.stderr.close()


@pytest.mark.kinds(kinds.NATIVE_RELEASE)
def test_followers_and_the_port_survive_the_daemon(
    start_cache: StartCache, tree: Path, tmp_path: Path
) -> None:
    port = free_port()
    cache = start_cache(tree, options=[f"--metrics-port={port}"])
    cache.expected = ["the daemon had died"]
    follower = Follower(cache, tmp_path / "events")
    wait_until(lambda: bool(follower.events()), "it follows")
    pid = cache.status()["pid"]
    os.kill(pid, signal.SIGKILL)
    # Whoever was being answered until now was cut off.
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "it is dead")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        assert values(answer.read().decode())["orioncache_daemon_restarts_total"] == 1
    wait_until(lambda: any("died" in event["text"] for event in follower.events()), "it follows the next one")
    assert cache.status()["pid"] != pid
    assert cache.end() == 0
    assert follower.process.wait(timeout=20) == 0
    follower.process.stderr.close()
