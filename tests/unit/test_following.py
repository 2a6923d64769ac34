"""Events over the control socket: those kept, and those that come."""

import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orioncache.cli import events as command
from orioncache.cli import main
from orioncache.control import client, following
from orioncache.control.server import ControlServer
from orioncache.errors import UserError
from orioncache.events import KEPT, Events
from tests.program import COMMAND
from tests.waiting import wait_until


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def path(tmp_path: Path, events: Events) -> Iterator[str]:
    with ControlServer(str(tmp_path / "x.sock"), lambda: {"up": True}, events=events) as server:
        yield server.path


class Reader:
    """A follower in a thread."""

    def __init__(self, path: str, since: int = 0) -> None:
        self.found: list[dict[str, Any]] = []
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self._run, args=[path, since], daemon=True)
        self._thread.start()

    def _run(self, path: str, since: int) -> None:
        for line in client.follow(path, since):
            self.found.append(line)
        self.ended.set()

    def numbers(self) -> list[int]:
        return [line["seq"] for line in self.found if "text" in line]


def raw(path: str, since: int = 0) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    connection.connect(path)
    connection.sendall(json.dumps({"op": "events", "follow": True, "since": since}).encode() + b"\n")
    return connection


def test_events_that_are_kept(path: str, events: Events) -> None:
    for number in range(KEPT + 3):
        events.warning(f"event {number}", "switch", to="/srv/b")
    found = client.events(path, 2)
    assert (len(found["events"]), found["lost"], found["seq"]) == (KEPT, 1, KEPT + 3)
    assert found["events"][0]["fields"] == {"to": "/srv/b"}
    assert client.events(path, KEPT + 3)["events"] == []


def test_a_follower_gets_what_was_and_what_comes_and_holds_up_nobody(path: str, events: Events) -> None:
    events.info("one")
    reader = Reader(path)
    wait_until(lambda: reader.numbers() == [1], "the kept one is there")
    assert reader.found[0] == {"follow": True, "seq": 1, "pid": os.getpid()}
    assert client.status(path) == {"up": True}
    for number in range(200):
        events.info(f"more {number}")
    wait_until(lambda: reader.numbers() == list(range(1, 202)), "all are there, in order")
    assert client.status(path) == {"up": True}


def test_only_what_is_new_to_a_follower(path: str, events: Events) -> None:
    for _ in range(5):
        events.info("old")
    readers = [Reader(path, since) for since in (3, 5, 10**9)]
    wait_until(lambda: all(reader.found for reader in readers), "they are greeted")
    events.info("new")
    wait_until(
        lambda: [reader.numbers() for reader in readers] == [[4, 5, 6], [6], [6]], "each has what it wants"
    )


def test_a_slow_follower_is_told_how_many_it_lost(path: str, events: Events) -> None:
    many = 40 * KEPT
    with raw(path) as slow:
        reader = Reader(path)
        wait_until(lambda: len(reader.found) == 1, "another one follows")
        for number in range(many):
            events.info("x" * 100, "stall", number=number)
        wait_until(lambda: client.events(path)["seq"] == many, "nobody was held up")
        seen = lost = 0
        with slow.makefile("rb") as lines:
            while seen + lost < many:
                line = json.loads(lines.readline())
                lost += line.get("lost", 0)
                if "text" in line:
                    assert line["seq"] == seen + lost + 1
                    seen += 1
    assert lost > KEPT
    assert seen >= KEPT


def test_a_follower_that_reads_nothing_is_sent_away(
    path: str, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "PATIENCE", 0.2)
    monkeypatch.setattr(following, "MOST", 1)
    with raw(path):
        for _ in range(KEPT):
            events.info("x" * 1000)
        wait_until(lambda: _can_follow(path), "its place is free")


def _can_follow(path: str) -> bool:
    try:
        return "follow" in next(client.follow(path))
    except UserError:
        return False


def test_too_many_followers_are_refused_until_one_goes(path: str, events: Events) -> None:
    connections = [raw(path) for _ in range(following.MOST)]
    for connection in connections:
        connection.recv(10)
    with pytest.raises(UserError, match="too many follow"):
        next(client.follow(path))
    connections[0].close()
    wait_until(lambda: _can_follow(path), "one that went makes room, though nothing happens")
    for connection in connections[1:]:
        connection.close()


def test_one_that_says_no_more_still_follows(path: str, events: Events) -> None:
    with raw(path) as quiet:
        quiet.shutdown(socket.SHUT_WR)
        with quiet.makefile("rb") as lines:
            assert json.loads(lines.readline())["follow"]
            events.info("news")
            assert json.loads(lines.readline())["text"] == "news"


def test_followers_end_with_the_cache_after_its_last_event(tmp_path: Path, events: Events) -> None:
    with ControlServer(str(tmp_path / "x.sock"), lambda: {}, events=events) as server:
        reader = Reader(server.path)
        wait_until(lambda: bool(reader.found), "it follows")
        events.info("the last")
    assert reader.ended.wait(10)
    assert reader.numbers() == [1]


def test_the_command_prints_and_filters(
    path: str, events: Events, capsys: pytest.CaptureFixture[str]
) -> None:
    events.info("all is well")
    events.warning("b instead of a", "switch", to="b")
    events.note("error", "stall", "long ago", {}, at=1000.0)
    assert main(["events", path]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[24:] for line in lines] == [
        "  other      all is well",
        "! switch     b instead of a",
        "X stall      long ago",
    ]
    assert main(["events", path, "--kind", "switch", "--json"]) == 0
    (only,) = capsys.readouterr().out.splitlines()
    assert json.loads(only)["fields"] == {"to": "b"}
    assert main(["events", path, "--since", "10m"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(["events", path, "--since", "2"]) == 0
    assert "long ago" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["10x", "yesterday", "25:99", "-3", "", "nans", "2026-13-01"])
def test_no_such_since(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["events", f"--since={text}"])
    assert stop.value.code == 2
    assert "is no number of an event and no time" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["14:30", "14:30:05", "2026-01-31", "2026-01-31T14:30", "1.5h", "3d", "90s"])
def test_times_to_begin_with(text: str) -> None:
    assert command.since(text).time > 0
    assert command.since(text).seq == 0


def test_following_ends_with_ctrl_c_without_a_word(path: str, events: Events) -> None:
    events.info("one")
    with subprocess.Popen(
        [*COMMAND, "events", path, "--follow"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline().endswith("one\n")
        events.warning("two")
        assert child.stdout.readline().endswith("two\n")
        child.send_signal(2)
        out, said = child.communicate(timeout=20)
    assert (child.returncode, out, said) == (130, "", "")


def test_following_finds_a_daemon_that_took_the_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "x.sock")
    first, second = Events(), Events()
    first.info("old 1")
    first.info("old 2")
    second.info("new 1")
    server = ControlServer(path, lambda: {}, events=first)
    server.__enter__()
    lines = command._follow(path, 0)
    assert [next(lines)["text"], next(lines)["text"]] == ["old 1", "old 2"]
    server.__exit__(None, None, None)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with ControlServer(path, lambda: {}, events=second):
        assert next(lines)["text"] == "new 1"
    assert list(lines) == []
    assert "the cache has ended" in capsys.readouterr().err


def test_a_daemon_that_is_gone_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "RESTART", 0.3)
    path = tmp_path / "x.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with pytest.raises(UserError, match="nobody listens"):
        command._comes_back(str(path))
