"""The live tree against sources that change, fail half-way, or differ. Servers are local directories."""

import errno
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from orioncache.events import Events
from orioncache.fs.directories import OpenDirectory
from orioncache.fs.inodes import SPARE_NUMBERS, Inode
from orioncache.fs.live import LISTED_AT_ONCE, LiveTree
from orioncache.fs.reader import BlockReader
from orioncache.store import BlockStore
from orioncache.upstream import Listing, Opened, Policy, ProcPaths, Server, ServerState, UpstreamSet

BLOCK = 4096
StartTree = Callable[..., Awaitable[tuple[LiveTree, list[Server]]]]


@pytest.fixture
def start_tree(tmp_path: Path, nursery: trio.Nursery) -> StartTree:
    async def start(*names: str, ttl: float = 60.0) -> tuple[LiveTree, list[Server]]:
        servers = [Server(str(tmp_path / name), index, 4, ProcPaths()) for index, name in enumerate(names)]
        events = Events()
        reader = BlockReader(BlockStore(1 << 20, 0), BLOCK)
        upstreams = UpstreamSet(servers, Policy(5.0), events)
        nursery.start_soon(upstreams.run)
        tree = LiveTree(upstreams, reader, ttl, events)
        await tree.start()
        return tree, servers

    return start


async def _lookup(tree: LiveTree, name: str, parent: Inode | None = None) -> Inode:
    inode = await tree.lookup(parent or tree.table.root, name.encode())
    assert inode is not None
    tree.table.count(inode)
    return inode


async def _names(directory: OpenDirectory, start: int = 0) -> list[bytes]:
    found: list[bytes] = []
    position = start
    while (entry := await directory.entry(position, rewind=False)) is not None:
        found.append(entry[1])
        position = entry[0] + 1
    return found


def _fill(path: Path, count: int) -> set[bytes]:
    path.mkdir()
    for number in range(count):
        (path / f"f{number}").touch()
    return {b"f%d" % number for number in range(count)}


async def test_listing_loses_and_repeats_nothing_when_reading_fails(
    tmp_path: Path, start_tree: StartTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _fill(tmp_path / "a", 3 * LISTED_AT_ONCE)
    tree, _ = await start_tree("a")
    directory = OpenDirectory(tree, tree.table.root)
    real = Listing.next
    calls = 0

    def failing(self: Listing, count: int, known: frozenset[bytes]) -> list[tuple[bytes, os.stat_result]]:
        nonlocal calls
        calls += 1
        batch = real(self, count, known)
        if calls == 2:
            raise OSError(errno.EIO, "after it had moved on")
        return batch

    monkeypatch.setattr(Listing, "next", failing)
    first = [entry[1] for n in range(LISTED_AT_ONCE) if (entry := await directory.entry(n, rewind=False))]
    # It answers its next probe, and is asked again: nobody sees the error.
    rest = await _names(directory, LISTED_AT_ONCE)
    assert len(first) + len(rest) == len(expected)
    assert {*first, *rest} == expected


async def test_listing_is_carried_on_by_another_server(
    tmp_path: Path, start_tree: StartTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _fill(tmp_path / "a", 2 * LISTED_AT_ONCE + 7)
    _fill(tmp_path / "b", 2 * LISTED_AT_ONCE + 7)
    tree, servers = await start_tree("a", "b")
    directory = OpenDirectory(tree, tree.table.root)
    first = await directory.entry(0, rewind=False)
    assert first is not None
    real = Listing.next

    def failing(self: Listing, count: int, known: frozenset[bytes]) -> list[tuple[bytes, os.stat_result]]:
        if self.server is servers[0]:
            raise OSError(errno.EIO, "gone")
        return real(self, count, known)

    monkeypatch.setattr(Listing, "next", failing)
    names = await _names(directory)
    assert len(names) == len(expected)
    assert set(names) == expected
    assert servers[0].errors == 1


async def test_going_back_passes_by_names_that_are_gone(tmp_path: Path, start_tree: StartTree) -> None:
    _fill(tmp_path / "a", 2 * LISTED_AT_ONCE)
    tree, _ = await start_tree("a")
    directory = OpenDirectory(tree, tree.table.root)
    names = await _names(directory)
    (tmp_path / "a" / os.fsdecode(names[10])).unlink()
    found = await directory.entry(10, rewind=False)
    assert found is not None
    assert found[:2] == (11, names[11])


async def test_name_removed_while_another_link_stays(tmp_path: Path, start_tree: StartTree) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_bytes(b"content")
    os.link(tmp_path / "a" / "one", tmp_path / "a" / "two")
    tree, _ = await start_tree("a")
    inode = await _lookup(tree, "one")
    assert await _lookup(tree, "two") is inode
    (tmp_path / "a" / "two").unlink()
    # Not ENOENT: the kernel looks the name up that it was given, and that may exist.
    with pytest.raises(OSError) as caught:
        await tree.open(inode)
    assert caught.value.errno == errno.ESTALE
    assert inode.handles == 0
    assert await _lookup(tree, "one") is inode
    await tree.open(inode)
    assert await tree.read(inode, 0, 100) == b"content"


async def test_part_of_a_block_is_never_shown(
    tmp_path: Path, start_tree: StartTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(3 * BLOCK)
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(content)
        os.utime(tmp_path / name / "file", ns=(10**18, 10**18))
    tree, servers = await start_tree("a", "b")
    inode = await _lookup(tree, "file")
    await tree.open(inode)
    real = Opened.read

    def short(self: Opened, offset: int, length: int) -> tuple[bytes, os.stat_result]:
        data, attributes = real(self, offset, length)
        return (data[:-1] if self.server is servers[0] else data), attributes

    monkeypatch.setattr(Opened, "read", short)
    assert await tree.read(inode, 0, len(content)) == content
    assert servers[0].errors == 1
    assert inode.opened is not None
    assert inode.opened.server is servers[1]
    assert tree._upstreams.current is servers[1]


async def test_attributes_that_arrive_late_change_nothing(tmp_path: Path, start_tree: StartTree) -> None:
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "file"
    path.write_bytes(b"old")
    tree, servers = await start_tree("a")
    inode = await _lookup(tree, "file")
    old, asked = inode.attributes, inode.fetched
    path.write_bytes(b"newer")
    await _lookup(tree, "file")
    version = inode.version
    tree.table.remember(tree.table.root, b"file", servers[0], old, asked)
    assert (inode.attributes.st_size, inode.version) == (5, version)


async def test_forgotten_inodes_leave_the_table(tmp_path: Path, start_tree: StartTree) -> None:
    (tmp_path / "a" / "sub").mkdir(parents=True)
    (tmp_path / "a" / "sub" / "file").write_bytes(b"x")
    tree, _ = await start_tree("a")
    sub = await _lookup(tree, "sub")
    for _ in range(3):
        file = await _lookup(tree, "file", sub)
    assert tree.inodes == 3
    tree.forget(file.number, 2)
    assert tree.inodes == 3
    await tree.open(file)
    tree.forget(file.number, 1)
    assert tree.inodes == 3
    tree.close(file)
    assert tree.inodes == 2
    assert file.opened is None
    tree.forget(sub.number, 1)
    tree.forget(1, 1000)
    assert tree.inodes == 1
    with pytest.raises(OSError, match="Stale"):
        tree.table.get(sub.number)


async def test_large_or_taken_numbers_are_folded_and_stay(tmp_path: Path, start_tree: StartTree) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").touch()
    tree, servers = await start_tree("a")
    fields = list((tmp_path / "a" / "file").stat())
    numbers = []
    for _ in range(2):
        fields[1] = (1 << 63) + 12345
        inode = tree.table.remember(tree.table.root, b"file", servers[0], os.stat_result(fields), 0.0)
        tree.table.count(inode)
        numbers.append(inode.number)
        tree.forget(inode.number, 1)
    assert numbers[0] == numbers[1]
    assert SPARE_NUMBERS <= numbers[0] < 2 * SPARE_NUMBERS
    fields[1] = tree.table.root.attributes.st_ino + 1
    other = list(fields)
    other[2] += 1
    one = tree.table.remember(tree.table.root, b"one", servers[0], os.stat_result(fields), 0.0)
    two = tree.table.remember(tree.table.root, b"two", servers[0], os.stat_result(other), 0.0)
    assert one.number == fields[1] != two.number


async def test_file_that_differs_on_the_other_server_is_another_file(
    tmp_path: Path, start_tree: StartTree
) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "same").write_bytes(b"same")
        os.utime(tmp_path / name / "same", ns=(10**18, 10**18))
        (tmp_path / name / "differs").write_bytes(name.encode())
    os.utime(tmp_path / "b" / "differs", ns=(5, 5))
    tree, servers = await start_tree("a", "b", ttl=0.0)
    same, differs = await _lookup(tree, "same"), await _lookup(tree, "differs")
    shown = same.attributes
    servers[0].health.state = ServerState.DEAD
    assert await _lookup(tree, "same") is same
    await tree.refresh(same)
    # What users saw stays: the copy's own number and change time are not shown.
    assert same.attributes is shown
    with pytest.raises(OSError) as caught:
        await tree.refresh(differs)
    assert caught.value.errno == errno.ESTALE
    other = await _lookup(tree, "differs")
    assert other is not differs
    await tree.open(other)
    assert await tree.read(other, 0, 10) == b"b"
