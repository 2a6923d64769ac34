"""One server and its threads, and sets of real ones. Servers are local directories; for policy see
test_upstream_policy.py.
"""

import errno
import os
import threading
from pathlib import Path

import pytest
import trio

from orioncache.events import Events
from orioncache.upstream import Place, Policy, ProcPaths, ReplacedError, Server, UpstreamSet
from orioncache.upstream.pool import GIVEN_UP_MOST
from tests.waiting import wait_until

NAMES = ("a", "b", "c")
PATIENCE = 5.0


@pytest.fixture
def servers(tmp_path: Path) -> list[Server]:
    for name in NAMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(name.encode())
    return [Server(str(tmp_path / name), index, 2, ProcPaths()) for index, name in enumerate(NAMES)]


async def test_hung_thread_is_given_up_and_replaced_up_to_a_bound(servers: list[Server]) -> None:
    hung, asked = threading.Event(), []

    def work(server: Server) -> None:
        asked.append(server)
        hung.wait()

    server = servers[0]
    with trio.fail_after(10):
        for _ in range(12):
            # Two at a time get stuck; then none is left, until they are given up.
            with pytest.raises(OSError) as caught:
                await server.call(work, patience=0.02, reading=True)
            assert caught.value.errno == errno.ETIMEDOUT
            server.give_up(server.clock() - 0.001)
        assert len(asked) == 2 * GIVEN_UP_MOST + 2
        assert (server.stuck, server.abandoned) == (8, 8)
        # Another kind of question has threads of its own.
        assert (await server.call(lambda s: s.stat(Place()), patience=5)).st_nlink
        hung.set()
        await server.call(lambda _: None, patience=5, reading=True)
        wait_until(lambda: server.stuck == 0, "they are back", 5)


async def test_mounted_anew_it_reads_from_the_new_root(servers: list[Server], tmp_path: Path) -> None:
    server = Server(str(tmp_path / "a"), 77, 2, ProcPaths())
    opened = server.open(Place(Place(), b"file"))
    hung = threading.Event()
    with trio.move_on_after(0.1):
        await server.call(lambda _: hung.wait(), patience=5, reading=True)
    server.replace(os.open(tmp_path / "b", os.O_PATH))
    assert not opened.current
    read = await server.call(lambda s: s.open(Place(Place(), b"file")).read(0, 9), patience=5, reading=True)
    assert read[0] == b"b"
    hung.set()
    del opened
    # What the old mount had is closed, and its threads end.
    wait_until(lambda: _threads("close-77") == 1, "one thread closes files", 5)
    wait_until(lambda: _threads("read-77") <= 1, "one thread reads", 5)


async def test_files_are_read_although_a_server_hangs(servers: list[Server], nursery: trio.Nursery) -> None:
    upstreams = UpstreamSet(servers, Policy(read_timeout=0.5), Events())
    nursery.start_soon(upstreams.run)
    hung = threading.Event()

    def work(server: Server) -> bytes:
        if server is servers[0]:
            hung.wait()
        return server.open(Place(Place(), b"file")).read(0, 9)[0]

    with trio.fail_after(10):
        for _ in range(50):
            server, data = await upstreams.call(work, reading=True)
            assert data == server.source[-1].encode() != b"a"
        await trio.sleep(1.2)
    assert servers[0].abandoned >= 1
    assert servers[0].health.in_trouble
    hung.set()
    with trio.fail_after(10):
        while servers[0].health.in_trouble:  # noqa: ASYNC110
            await trio.sleep(0.02)


async def test_servers_come_and_go_from_other_threads(
    servers: list[Server], tmp_path: Path, nursery: trio.Nursery
) -> None:
    def add(source: str, number: int, root: int) -> Server:
        return Server(source, number, 2, ProcPaths(), root=root)

    upstreams = UpstreamSet(servers[:1], Policy(), Events(), add=add)
    nursery.start_soon(upstreams.run)
    await upstreams.call(lambda server: server.stat(Place()))

    def change() -> None:
        assert upstreams.add(os.open(tmp_path / "b", os.O_PATH), str(tmp_path / "b")) == 1
        assert upstreams.add(os.open(tmp_path / "c", os.O_PATH), "c, by its descriptor") == 2
        upstreams.remove(0)
        upstreams.drain(1, on=True)

    await trio.to_thread.run_sync(change)
    server, data = await upstreams.call(lambda s: s.open(Place(Place(), b"file")).read(0, 9)[0])
    assert (server.index, data) == (2, b"c")
    shown = upstreams.statistics()["servers"]
    assert isinstance(shown, list)
    assert [(one["source"][-1], one["draining"], one["current"]) for one in shown] == [
        ("b", True, False),
        ("r", False, True),
    ]


def _threads(name: str) -> int:
    return sum(thread.name == name for thread in threading.enumerate())


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
