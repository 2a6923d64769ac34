"""Metrics: what a Prometheus server reads of them, and the port that it asks."""

import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from orioncache.cli import main
from orioncache.control import client, listening, scraping
from orioncache.control.metrics import CACHE, CONTENT_TYPE, SERVER, STATES, metrics_of
from orioncache.control.server import ControlServer
from orioncache.errors import UserError
from orioncache.events import Events
from orioncache.options import Options, metrics_place
from orioncache.store import BlockStore
from orioncache.upstream.health import ServerState
from tests.checkout import TOP

SERVER_STATUS: dict[str, Any] = {
    "source": 'odd "name"\\\n',
    "state": "suspect",
    "reason": "its oldest read waits for 0.4 s",
    "draining": False,
    "current": True,
    "reads": 1234,
    "calls": 1300,
    "bytes": 5 << 20,
    "errors": 2,
    "timeouts": 1,
    "mismatches": 3,
    "hedges": 4,
    "hedges_won": 5,
    "resent": 6,
    "switches": 7,
    "stuck": 8,
    "abandoned": 9,
    "pending": 10,
    "latency_ms": {"p50": 0.25, "p95": 12.0, "p99": 40.0, "ewma": 0.5},
}

STATUS: dict[str, Any] = {
    "version": "1.2",
    "pid": 7,
    "mountpoint": "/mnt/one",
    "uptime_s": 3725.5,
    "engine": "native",
    "mode": "release",
    "release": {"name": "debian", "version": "12.8", "digest": "ab"},
    "servers": [SERVER_STATUS, {**SERVER_STATUS, "source": "/srv/b", "state": "good", "current": False}],
    "failover": {
        "switches": 1,
        "hedges": 2,
        "hedges_won": 3,
        "resent": 4,
        "stalls": 5,
        "longest_stall_ms": 250.0,
        "waiting": 6,
        "extra_reads_pct": 1.5,
    },
    "cache": BlockStore(1 << 20, 0).statistics().as_dict(),
    "daemon": {"restarts": 3},
    "fetch": {"flights": 11, "demand_bytes": 12, "ahead_bytes": 13, "failed_blocks": 14},
    "bundle": {"frames": 15, "landed": 16, "failed": 17},
    "fuse": {"upcalls": {"read": 3, "lookup": 1000}, "reads_in_flight": 2},
    "events": [],
}


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """As Prometheus reads them."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def value(text: str, name: str, **labels: str) -> float:
    return samples(text)[f"orioncache_{name}", frozenset(labels.items())]


def test_each_figure_of_a_status_is_a_metric() -> None:
    text = metrics_of(STATUS)
    odd = 'odd "name"\\\n'
    assert value(text, "server_reads_total", server=odd) == 1234
    assert value(text, "server_state", server=odd, state="suspect") == 1
    assert value(text, "server_state", server=odd, state="good") == 0
    assert value(text, "server_state", server="/srv/b", state="good") == 1
    assert value(text, "server_latency_seconds", server="/srv/b", quantile="0.99") == 0.04
    assert value(text, "server_current", server=odd) == 1
    assert value(text, "longest_stall_seconds") == 0.25
    assert value(text, "extra_reads_ratio") == 0.015
    assert value(text, "uptime_seconds") == 3725.5
    assert value(text, "fuse_upcalls_total", op="lookup") == 1000
    assert value(text, "flights_total") == 11
    info = {"version": "1.2", "engine": "native", "mode": "release", "mountpoint": "/mnt/one"}
    assert value(text, "build_info", **info, release="debian 12.8") == 1


def test_every_metric_has_one_help_and_one_type_and_is_named_as_its_kind() -> None:
    text = metrics_of(STATUS)
    names = {f"orioncache_{metric.name}" for metric in CACHE} | {
        f"orioncache_server_{metric.name}" for metric in SERVER
    }
    for name in names:
        assert text.count(f"# TYPE {name} ") == text.count(f"# HELP {name} ") == 1
    for metric in (*CACHE, *SERVER):
        assert metric.name.endswith("_total") == (metric.kind == "counter")
    families = list(text_string_to_metric_families(text))
    assert all(family.type != "unknown" and family.documentation for family in families)
    assert len(families) == len({family.name for family in families})


def test_states_are_those_of_both_engines() -> None:
    source = (TOP / "native/health.c").read_text()
    (names,) = re.findall(r"names\[\] = \{(.*)\};", source)
    assert set(re.findall(r'"(\w+)"', names)) == {*STATES, "removed"}
    assert {state.value for state in ServerState} == set(STATES)


def test_a_status_that_lacks_figures_has_fewer_metrics() -> None:
    plain = {key: STATUS[key] for key in ("version", "mountpoint", "uptime_s", "engine", "cache", "fuse")}
    old = {"source": "/srv/a", "state": "up", "current": True, "reads": 1, "latency_ms": {"p50": 1.0}}
    text = metrics_of({**plain, "mode": "live", "servers": [old], "bundle": None})
    assert value(text, "server_state", server="/srv/a", state="up") == 1
    assert value(text, "server_reads_total", server="/srv/a") == 1
    assert "failover" not in text
    assert "hedges" not in text


def test_the_command_prints_what_the_socket_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ControlServer(str(tmp_path / "x.sock"), lambda: STATUS) as server:
        assert main(["metrics", server.path]) == 0
        assert client.metrics(server.path) == metrics_of(STATUS) == capsys.readouterr().out


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    listening_fd = listening.listen_on_port("127.0.0.1", 0)
    events = Events()
    path = str(tmp_path / "x.sock")
    with ControlServer(path, lambda: STATUS, metrics=listening_fd, events=events):
        (said,) = [event["text"] for event in events.last()]
        yield said.removeprefix("metrics are at ")


def place(url: str) -> tuple[str, int]:
    host, port = url.removeprefix("http://").removesuffix("/metrics").split(":")
    return host, int(port)


def test_the_port_answers_http(url: str) -> None:
    for each in (url, f"{url}?name=x"):
        with urllib.request.urlopen(each, timeout=10) as answer:
            assert answer.headers["Content-Type"] == CONTENT_TYPE
            assert answer.read().decode() == metrics_of(STATUS)
    with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10) as answer:
        assert (answer.status, answer.read()) == (200, b"")


def test_the_port_has_nothing_else(url: str) -> None:
    for path, method, status in (("/", "GET", 404), ("/metrics", "POST", 405), ("/metrics/x", "GET", 404)):
        request = urllib.request.Request(url.replace("/metrics", path), method=method)
        with pytest.raises(urllib.error.HTTPError) as told:
            urllib.request.urlopen(request, timeout=10)
        assert told.value.code == status


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01", b"x" * 100_000, b"\r\n\r\n", b"GET"])
def test_what_is_no_http_costs_nothing(url: str, said: bytes) -> None:
    with socket.create_connection(place(url), timeout=10) as connection:
        try:
            connection.sendall(said)
            connection.shutdown(socket.SHUT_WR)
            assert b" 200 " not in connection.recv(1000)
        except ConnectionError:
            pass
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.status == 200


def test_a_client_that_says_nothing_has_a_bounded_time(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraping, "CLIENT_TIMEOUT", 0.3)
    with socket.create_connection(place(url)), socket.create_connection(place(url)) as drips:
        drips.sendall(b"GET /metrics HTTP/1.1\r\n")
        started = time.monotonic()
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert answer.status == 200
        assert time.monotonic() - started < 5


def test_a_port_in_use_is_told(url: str) -> None:
    host, port = place(url)
    with pytest.raises(UserError, match=f"metrics on 127.0.0.1:{port}: Address already in use"):
        listening.listen_for_metrics(Options(metrics_port=f"{host}:{port}"))
    assert listening.listen_for_metrics(Options()) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("9469", ("127.0.0.1", 9469)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        ("[::1]:9469", ("::1", 9469)),
        (":9469", ("127.0.0.1", 9469)),
    ],
)
def test_places_for_metrics(text: str, expected: tuple[str, int]) -> None:
    assert metrics_place(text) == expected


@pytest.mark.parametrize("text", ["0", "65536", "x", "host:80", "1.2.3.4:", "::1:80", "[::1]", "80:80", "٣"])
def test_no_places_for_metrics(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no port|has no address"):
        metrics_place(text)
