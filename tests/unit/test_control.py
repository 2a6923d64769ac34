"""What `orioncache status` prints, and which socket it asks."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orioncache.cli.status import lines
from orioncache.control import client, places, server
from orioncache.control.server import ControlServer
from orioncache.errors import UserError
from orioncache.store import BlockStore

STATUS: dict[str, Any] = {
    "version": "1",
    "pid": 7,
    "mountpoint": "/mnt/one",
    "uptime_s": 3725.0,
    "engine": "python",
    "mode": "live",
    "servers": [
        {
            "source": "/srv/a",
            "state": "suspect",
            "current": False,
            "calls": 9,
            "reads": 1234,
            "bytes": 5 << 20,
            "errors": 2,
            "timeouts": 1,
            "latency_ms": {"p50": 0.25, "p95": 12.0},
        }
    ],
    "cache": BlockStore(1 << 20, 0).statistics().as_dict(),
    "fuse": {"upcalls": {"read": 3, "lookup": 1000}},
    "events": [{"time": 0.0, "severity": "warning", "text": "/srv/a failed"}],
}


@pytest.fixture
def sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(places, "SOCKETS", str(tmp_path))
    monkeypatch.setattr(places.os, "geteuid", lambda: 0)
    return tmp_path


@pytest.fixture
def one(sockets: Path) -> Iterator[Path]:
    with ControlServer(str(sockets / "one.sock"), lambda: STATUS) as server:
        yield Path(server.path)


def test_status_as_text() -> None:
    text = "\n".join(lines(STATUS))
    for part in (
        "/mnt/one",
        "1 h 2 min",
        "/srv/a",
        "suspect",
        "1,234",
        "5.0 MiB",
        "12.0 ms",
        "lookup 1,000, read 3",
        "! /srv/a failed",
    ):
        assert part in text


def test_status_tells_why_a_server_is_not_good_and_what_failover_did() -> None:
    server = {
        **STATUS["servers"][0],
        "number": 4,
        "state": "dead",
        "reason": "no answer for 2 s",
        "draining": True,
        "hedges": 12,
        "resent": 3,
    }
    failover = {
        "switches": 2,
        "hedges": 12,
        "hedges_won": 5,
        "resent": 3,
        "stalls": 1,
        "longest_stall_ms": 250.0,
        "waiting": 7,
        "extra_reads_pct": 0.5,
    }
    text = lines({**STATUS, "servers": [server], "failover": failover, "daemon": {"restarts": 2}})
    assert "! its daemon died 2 times, and another one took its place" in text
    assert any("4  /srv/a  dead, draining" in line for line in text)
    assert "  4 is dead: no answer for 2 s" in text
    said = "failover: 2 switches, 12 reads hedged (5 won), 3 sent again; 1 stall, the longest 0.25 s"
    assert said in text
    assert "! 7 reads wait: no server answers" in text


def test_status_tells_of_a_bundle_if_there_is_one() -> None:
    counts = {
        "frames": 60,
        "landed": 58,
        "failed": 2,
        "ended_at": 1,
        "packed_bytes": 5 << 20,
        "stored_bytes": 9 << 20,
    }
    text = "\n".join(lines({**STATUS, "bundle": counts}))
    assert "bundle: all read, 58 of 60 frames, 2 failed; 5.0 MiB read, 9.0 MiB given to the kernel" in text
    assert "bundle" not in "\n".join(lines({**STATUS, "bundle": dict.fromkeys(counts, 0)}))


def test_only_cache_is_found(one: Path) -> None:
    assert client.find(None) == STATUS
    assert client.find("/mnt/one") == STATUS
    assert client.find("/mnt/../mnt/one/") == STATUS
    assert client.find(str(one)) == STATUS


def test_none_and_several_are_errors(sockets: Path) -> None:
    with pytest.raises(UserError, match="no cache is running"):
        client.find(None)
    other = {**STATUS, "mountpoint": "/mnt/two"}
    with (
        ControlServer(str(sockets / "one.sock"), lambda: STATUS),
        ControlServer(str(sockets / "two.sock"), lambda: other),
    ):
        with pytest.raises(UserError, match="2 caches are running: /mnt/one, /mnt/two"):
            client.find(None)
        assert client.find("/mnt/two") == other
        with pytest.raises(UserError, match="no cache is running on /mnt/three"):
            client.find("/mnt/three")


def test_socket_is_its_owners_alone(one: Path) -> None:
    assert one.stat().st_mode & 0o777 == 0o600


def test_socket_in_use_is_not_taken_over(one: Path) -> None:
    with pytest.raises(UserError, match="another cache"), ControlServer(str(one), lambda: STATUS):
        pass
    assert client.status(str(one)) == STATUS


def test_socket_that_nobody_listens_on_is_taken_over(sockets: Path) -> None:
    path = sockets / "stale.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with ControlServer(str(path), lambda: STATUS):
        assert client.status(str(path)) == STATUS
    assert not path.exists()


def test_what_is_no_socket_is_not_removed(sockets: Path) -> None:
    path = sockets / "file.sock"
    path.write_text("mine")
    with pytest.raises(UserError), ControlServer(str(path), lambda: STATUS):
        pass
    assert path.read_text() == "mine"


def test_bad_requests_do_not_end_it(one: Path) -> None:
    for request in (b"[" * 4000, b"\xff\xfe\n", b"{}\n", b'{"op": 1}\n', b"x" * 10_000):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(one))
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
    assert client.status(str(one)) == STATUS


def test_failing_status_does_not_end_it(sockets: Path, caplog: pytest.LogCaptureFixture) -> None:
    answers = iter([None, STATUS])

    def status() -> dict[str, object]:
        answer = next(answers)
        if answer is None:
            raise RuntimeError("a bug")
        return answer

    path = str(sockets / "x.sock")
    with ControlServer(path, status):
        with pytest.raises(UserError):
            client.status(path)
        assert client.status(path) == STATUS
    assert "a bug" in caplog.text


def test_silent_cache_is_given_a_second(sockets: Path) -> None:
    release = threading.Event()
    path = str(sockets / "x.sock")

    def status() -> dict[str, object]:
        release.wait()
        return STATUS

    with ControlServer(path, status):
        started = time.monotonic()
        with pytest.raises(UserError, match="no answer within 1 s"):
            client.status(path)
        assert time.monotonic() - started < 2.5
        release.set()


def test_socket_path_is_short_and_its_own() -> None:
    long = "/" + "x" * 300
    assert len(places.socket_path(long).encode()) < 100
    assert places.socket_path("/a/root") != places.socket_path("/b/root")


def test_a_trace_follows_its_line(sockets: Path) -> None:
    data = bytes(range(256)) * 20_000
    path = str(sockets / "x.sock")
    with ControlServer(path, lambda: STATUS, trace=lambda: ({"bytes": len(data)}, data)):
        assert client.trace(path) == data
        assert client.status(path) == STATUS


def test_a_trace_that_nobody_reads_ends(sockets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "TRACE_TIMEOUT", 0.2)
    path = str(sockets / "x.sock")
    data = bytes(8 << 20)
    with (
        ControlServer(path, lambda: STATUS, trace=lambda: ({"bytes": len(data)}, data)),
        socket.socket(socket.AF_UNIX) as silent,
    ):
        silent.connect(path)
        silent.sendall(b'{"op": "trace"}\n')
        assert client.status(path) == STATUS


def test_no_trace_is_told(one: Path) -> None:
    with pytest.raises(UserError, match="records no trace") as told:
        client.trace(str(one))
    assert "--trace=on" in told.value.mend
