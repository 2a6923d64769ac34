"""Which server is asked, for how long, and what happens when it fails. Servers are local directories."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from orioncache.events import Events
from orioncache.upstream import (
    Place,
    ProcPaths,
    ReplacedError,
    ReplicaDiffersError,
    Server,
    ServerState,
    UpstreamSet,
    rank,
)
from tests.waiting import wait_until

NAMES = ("a", "b", "c")
PATIENCE = 0.3


@pytest.fixture
def servers(tmp_path: Path) -> list[Server]:
    for name in NAMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(name.encode())
    return [Server(str(tmp_path / name), index, 2, ProcPaths()) for index, name in enumerate(NAMES)]


def _set(servers: list[Server]) -> UpstreamSet:
    return UpstreamSet(servers, PATIENCE, Events())


def _failing(numbers: dict[int, int]) -> Callable[[Server], str]:
    def work(server: Server) -> str:
        if server.index in numbers:
            raise OSError(numbers[server.index], os.strerror(numbers[server.index]))
        return server.source[-1]

    return work


def test_rank_puts_suspects_last_and_the_current_first(servers: list[Server]) -> None:
    a, b, c = servers
    assert rank(servers, a) == [a, b, c]
    assert rank(servers, c) == [c, a, b]
    a.state = ServerState.SUSPECT
    assert rank(servers, a) == [b, c, a]
    b.state = c.state = ServerState.SUSPECT
    assert rank(servers, b) == [b, a, c]


@pytest.mark.parametrize("number", [errno.EIO, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN])
async def test_next_server_takes_over_and_stays(servers: list[Server], number: int) -> None:
    upstreams = _set(servers)
    server, answer = await upstreams.call(_failing({0: number}))
    assert (server.index, answer) == (1, "b")
    assert upstreams.current is servers[1]
    assert servers[0].state is ServerState.SUSPECT
    # It would work again, but is not asked.
    assert (await upstreams.call(_failing({})))[1] == "b"


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.ENODATA, errno.EINVAL])
async def test_answers_about_the_file_are_answers(servers: list[Server], number: int) -> None:
    upstreams = _set(servers)
    with pytest.raises(OSError) as caught:
        await upstreams.call(_failing({0: number}))
    assert caught.value.errno == number
    assert upstreams.current is servers[0]
    assert servers[0].state is ServerState.UP


async def test_first_failure_stands_if_all_fail(servers: list[Server]) -> None:
    upstreams = _set(servers)
    with pytest.raises(OSError) as caught:
        await upstreams.call(_failing({0: errno.EIO, 1: errno.ENOTCONN, 2: errno.EHOSTDOWN}))
    assert caught.value.errno == errno.EIO
    assert [server.errors for server in servers] == [1, 1, 1]
    assert (await upstreams.call(_failing({})))[1] == "a"
    assert servers[0].state is ServerState.UP


async def test_differing_copy_costs_no_trust(servers: list[Server]) -> None:
    upstreams = _set(servers)

    def work(server: Server) -> str:
        if server.index < 2:
            raise ReplicaDiffersError
        return "c"

    assert (await upstreams.call(work))[1] == "c"
    assert [server.state for server in servers] == [ServerState.UP] * 3
    assert upstreams.current is servers[0]


async def test_hung_server_is_left_after_its_time_and_gets_its_thread_back(servers: list[Server]) -> None:
    upstreams = _set(servers)
    release = threading.Event()
    asked: list[int] = []

    def work(server: Server) -> str:
        asked.append(server.index)
        if server.index == 0:
            release.wait()
        return server.source[-1]

    with trio.fail_after(10):
        for _ in range(3):
            # All of its threads get stuck one by one; then there is none left to wait in.
            servers[0].state = ServerState.UP
            upstreams.current = servers[0]
            assert (await upstreams.call(work))[1] == "b"
        assert asked.count(0) == 2
        assert servers[0].timeouts == 3
        release.set()
        servers[0].state = ServerState.UP
        upstreams.current = servers[0]
        while (await upstreams.call(work))[1] != "a":
            servers[0].state = ServerState.UP
            upstreams.current = servers[0]


async def test_busy_server_is_not_dead(servers: list[Server]) -> None:
    upstreams = _set(servers)
    finished: list[str] = []

    def work(server: Server) -> str:
        threading.Event().wait(PATIENCE / 3)
        return server.source[-1]

    async def ask() -> None:
        finished.append((await upstreams.call(work, reading=True))[1])

    async with trio.open_nursery() as nursery:
        for _ in range(16):
            nursery.start_soon(ask)
    assert finished == ["a"] * 16
    assert servers[0].timeouts == 0


async def test_only_server_is_waited_for(servers: list[Server]) -> None:
    upstreams = _set(servers[:1])

    def work(_: Server) -> str:
        threading.Event().wait(2 * PATIENCE)
        return "late"

    assert (await upstreams.call(work))[1] == "late"


async def test_cancelled_caller_costs_no_thread(servers: list[Server]) -> None:
    for _ in range(10):
        with trio.CancelScope() as scope:
            scope.cancel()
            await servers[0].call(lambda _: None, patience=PATIENCE)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(
                    lambda: servers[0].call(lambda server: server.stat(Place()), patience=PATIENCE)
                )


def test_symlink_on_the_way_is_not_followed(servers: list[Server], tmp_path: Path) -> None:
    (tmp_path / "a" / "way").symlink_to(tmp_path / "b")
    way = Place(Place(), b"way")
    assert servers[0].read_link(way) == os.fsencode(tmp_path / "b")
    with pytest.raises(NotADirectoryError):
        servers[0].stat(Place(way, b"file"))
    with pytest.raises(ReplacedError):
        servers[0].open(way)


@pytest.mark.parametrize("kind", ["fifo", "directory", "symlink"])
def test_only_regular_files_are_opened(kind: str, servers: list[Server], tmp_path: Path) -> None:
    path = tmp_path / "a" / "thing"
    {"fifo": lambda: os.mkfifo(path), "directory": path.mkdir, "symlink": lambda: path.symlink_to("file")}[
        kind
    ]()
    with pytest.raises(ReplacedError):
        servers[0].open(Place(Place(), b"thing"))


def test_opened_file_is_closed_when_nobody_uses_it(servers: list[Server]) -> None:
    opened = servers[0].open(Place(Place(), b"file"))
    assert opened.read(0, 100)[0] == b"a"
    path = Path(f"/proc/self/fd/{opened.fd}")
    assert path.exists()
    del opened
    wait_until(lambda: not path.exists(), "the descriptor is closed", 5)


def test_listing_leaves_out_what_is_known(servers: list[Server], tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / "a" / f"f{number}").touch()
    first = servers[0].begin_listing(Place()).next(7, frozenset())
    known = frozenset(name for name, _ in first)
    rest = servers[0].begin_listing(Place()).next(100, known)
    assert len(first) == 7
    assert sorted(known | {name for name, _ in rest}) == sorted(os.listdir(os.fsencode(tmp_path / "a")))
    assert not known & {name for name, _ in rest}
