"""Servers added, removed and drained by the control socket, with a set of servers that only remembers."""

import contextlib
import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orioncache.cli import main
from orioncache.control import changing, client
from orioncache.control.changing import Changes
from orioncache.control.server import ControlServer
from orioncache.errors import UserError
from tests.waiting import wait_until


class FakeServers:
    """Servers as an engine has them, without an engine."""

    def __init__(self) -> None:
        self.found: dict[int, tuple[int, str]] = {}
        self.drained: set[int] = set()
        self.most = 4

    def add(self, fd: int, source: str) -> int:
        number = next(number for number in range(99) if number not in self.found)
        if number >= self.most:
            os.close(fd)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.found[number] = fd, source
        return number

    def remove(self, number: int) -> None:
        if len(self.found) == 1:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        os.close(self.found.pop(number)[0])

    def drain(self, number: int, on: bool) -> None:
        (self.drained.add if on else self.drained.discard)(number)

    def status(self) -> dict[str, Any]:
        return {
            "mountpoint": "/mnt/one",
            "servers": [
                {
                    "number": number,
                    "source": source,
                    "state": "good",
                    "reason": "",
                    "draining": number in self.drained,
                    "current": number == 0,
                    "reads": 0,
                    "bytes": 0,
                    "errors": 0,
                    "timeouts": 0,
                    "latency_ms": {"p50": 0.0, "p95": 0.0},
                }
                for number, (_, source) in self.found.items()
            ],
        }


def is_open(path: Path) -> bool:
    """Whether this process holds it."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}") == str(path):
                return True
    return False


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[FakeServers]:
    made = FakeServers()
    (tmp_path / "a").mkdir()
    made.add(os.open(tmp_path / "a", os.O_PATH), str(tmp_path / "a"))
    yield made
    for fd, _ in made.found.values():
        os.close(fd)


@pytest.fixture
def changes(servers: FakeServers) -> Changes:
    return Changes(servers, servers.status)


@pytest.fixture
def path(tmp_path: Path, servers: FakeServers, changes: Changes) -> Iterator[str]:
    with ControlServer(str(tmp_path / "x.sock"), servers.status, changes=changes) as server:
        yield server.path


def test_servers_come_and_go(
    path: str, servers: FakeServers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "b").mkdir()
    assert main(["server", "add", path, str(tmp_path / "b")]) == 0
    assert capsys.readouterr().out == f"1 {tmp_path}/b is added\n"
    assert main(["server", "drain", path, "1"]) == 0
    assert servers.drained == {1}
    assert "is drained" in capsys.readouterr().out
    assert main(["server", "list", path]) == 0
    shown = capsys.readouterr().out
    assert f"1  {tmp_path}/b  good, draining" in shown
    assert main(["server", "drain", path, str(tmp_path / "b"), "--off"]) == 0
    assert servers.drained == set()
    assert main(["server", "remove", path, str(tmp_path / "a")]) == 0
    assert [source for _, source in servers.found.values()] == [str(tmp_path / "b")]
    with pytest.raises(UserError, match="is the last server"):
        client.change(path, "server-remove", server="1")


def test_what_cannot_be_added(path: str, servers: FakeServers, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("a")
    for source, said in (
        (tmp_path / "a", "is one of the servers already"),
        (tmp_path / "link", f"is the same directory as {tmp_path}/a"),
        (tmp_path / "none", "No such file or directory"),
        (tmp_path / "file", "Not a directory"),
        ("/mnt/one/x/..", "is what this cache serves"),
        ("x", "is no absolute path"),
        ("10.0.0.1:/srv", "cannot mount 10.0.0.1:/srv"),
    ):
        with pytest.raises(UserError, match=said):
            client.change(path, "server-add", source=str(source))
    for request in ({}, {"source": 1}, {"source": ""}, {"source": "a\0b"}):
        with pytest.raises(UserError, match="wants the key source"):
            client.change(path, "server-add", **request)
    assert len(servers.found) == 1
    servers.most = 1
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match="as many servers as there can be"):
        client.change(path, "server-add", source=str(tmp_path / "b"))
    wait_until(lambda: not is_open(tmp_path / "b"), "no descriptor is left")


def test_servers_that_are_not_there(path: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no server 7") as told:
        client.change(path, "server-remove", server="7")
    assert f"0 {tmp_path}/a" in told.value.mend


def test_hosts_are_mounted_by_who_can(
    path: str, servers: FakeServers, changes: Changes, tmp_path: Path
) -> None:
    (tmp_path / "mounted").mkdir()

    def mount(source: str) -> int:
        if source == "10.0.0.2:/srv":
            raise UserError("10.0.0.2 does not answer", "is it there?")
        return os.open(tmp_path / "mounted", os.O_PATH)

    changes.mount = mount
    assert client.change(path, "server-add", source="10.0.0.1:/srv")["number"] == 1
    with pytest.raises(UserError, match=r"10\.0\.0\.2 does not answer") as told:
        client.change(path, "server-add", source="10.0.0.2:/srv")
    assert told.value.mend == "is it there?"


def test_a_directory_that_does_not_answer_holds_up_nobody(
    path: str, servers: FakeServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, asked = threading.Event(), threading.Event()
    late: list[int] = []

    def hang(source: str) -> int:
        asked.set()
        release.wait(30)
        late.append(os.open(source, os.O_PATH))
        return late[0]

    monkeypatch.setattr(changing, "_open", hang)
    monkeypatch.setattr(changing, "OPENING", 1.0)
    (tmp_path / "b").mkdir()
    told: list[str] = []

    def add() -> None:
        try:
            client.change(path, "server-add", source=str(tmp_path / "b"))
        except UserError as error:
            told.append(error.message)

    thread = threading.Thread(target=add)
    thread.start()
    assert asked.wait(10)
    started = time.monotonic()
    assert len(client.servers(path)["servers"]) == 1
    assert time.monotonic() - started < 0.9
    with pytest.raises(UserError, match="another change"):
        client.change(path, "server-remove", server="0")
    thread.join(10)
    assert "no answer within 1 s" in told[0]
    release.set()
    wait_until(lambda: late and not is_open(tmp_path / "b"), "what came late is closed")
    assert len(servers.found) == 1


def test_threads_that_hang_are_few(changes: Changes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hang(_: str) -> int:
        release.wait(30)
        raise OSError(errno.EIO, "late")

    monkeypatch.setattr(changing, "_open", hang)
    monkeypatch.setattr(changing, "OPENING", 0.05)
    for _ in range(changing.STUCK_MOST):
        with pytest.raises(UserError, match="no answer"):
            changes.do({"op": "server-add", "source": "/b"})
    with pytest.raises(UserError, match="still being opened"):
        changes.do({"op": "server-add", "source": "/b"})
    release.set()

    def works_again() -> bool:
        with pytest.raises(UserError) as told:
            changes.do({"op": "server-add", "source": "/b"})
        return "late" in told.value.message

    wait_until(works_again, "its threads are back")


def test_a_cache_without_changes_says_so(tmp_path: Path) -> None:
    with (
        ControlServer(str(tmp_path / "x.sock"), dict) as server,
        pytest.raises(UserError, match="cannot be changed"),
    ):
        client.change(server.path, "server-remove", server="0")
