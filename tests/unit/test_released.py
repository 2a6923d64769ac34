"""The tree of a release, from servers that are right, damaged, or something else: local directories."""

import errno
import fcntl
import os
import shutil
import stat
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from orioncache.errors import UserError
from orioncache.events import Events
from orioncache.fs.loading import are_releases, load_release, vetting
from orioncache.fs.reader import BlockReader
from orioncache.fs.released import ReleasedNode, ReleaseTree
from orioncache.native import digests
from orioncache.release.holding import hold
from orioncache.store import BlockStore
from orioncache.upstream import Opened, Place, Policy, ProcPaths, Server, ServerState, UpstreamSet
from tests.release_writer import directory, file, seal, symlink, write_manifest, write_release

BLOCK = 4096

# Seconds that this machine, which others use too, may keep us waiting.
BUSY = 1.0
CONTENT = b"".join(bytes([n]) * BLOCK for n in range(1, 20)) + b"the end"
SPARSE = bytes(3 * BLOCK) + b"x" * BLOCK + bytes(100)
TREE = directory(
    {
        b"bin": directory({b"sh": file(CONTENT, 0o755, xattrs={b"user.a": b"1"}), b"link": symlink(b"sh")}),
        b"motd": file(b"hello\n", owner=(1000, 100)),
        b"sparse": file(SPARSE),
        b"empty": file(),
    }
)


class Scene:
    """Copies of one release, and the tree that is read from them."""

    def __init__(self, top: Path, names: Sequence[str] = ("a", "b"), kind: int = digests.XXH3_128) -> None:
        self.manifest, self.pack = write_manifest(TREE, kind=kind)
        self.paths = [write_release(top / name, self.manifest, self.pack) for name in names]
        self.events = Events()
        self.servers = [Server(str(path), n, 4, ProcPaths()) for n, path in enumerate(self.paths)]
        self.store = BlockStore(1 << 20, 0)

    async def open(self, **how) -> ReleaseTree:
        manifest, self.first = await load_release(self.servers, 5.0, self.events, **how)
        self.used = [server for server in self.servers if not server.health.excluded]
        vet = vetting(manifest, self.first)
        self.upstreams = UpstreamSet(self.servers, Policy(give_up=1.0), self.events, vet=vet)
        return ReleaseTree(
            manifest,
            self.upstreams,
            BlockReader(self.store, manifest.header.block_size),
            self.events,
        )

    def pack_of(self, server: int) -> Path:
        (path,) = (self.paths[server] / "packs").iterdir()
        return path

    def damage(self, server: int, offset: int) -> None:
        with self.pack_of(server).open("r+b") as pack:
            pack.seek(offset)
            pack.write(b"\xff")

    def said(self) -> str:
        return "\n".join(event["text"] for event in self.events.last())


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def find(tree: ReleaseTree, path: str) -> ReleasedNode:
    node = tree.get(1)
    for name in path.split("/"):
        found = await tree.lookup(node, name.encode())
        assert found is not None
        node = found
    return node


async def content(tree: ReleaseTree, path: str) -> bytes:
    node = await find(tree, path)
    return bytes(await tree.read(node, 0, node.attributes.st_size + 10))


@pytest.mark.parametrize("kind", digests.KINDS.values(), ids=digests.KINDS)
async def test_everything_is_as_described(tmp_path: Path, kind: int) -> None:
    tree = await Scene(tmp_path, kind=kind).open()
    assert await content(tree, "bin/sh") == CONTENT
    assert await content(tree, "sparse") == SPARSE
    assert await content(tree, "empty") == b""
    motd = await find(tree, "motd")
    had = motd.attributes
    assert (had.st_uid, had.st_gid, had.st_size, stat.S_IMODE(had.st_mode)) == (1000, 100, 6, 0o644)
    assert had.st_mtime_ns == had.st_ctime_ns == had.st_atime_ns == 1_700_000_000_123_456_789
    assert (had.st_ino, had.st_blocks) == (motd.number, 1)
    sparse = await find(tree, "sparse")
    assert sparse.attributes.st_blocks == BLOCK // 512
    assert tree.get(1).attributes.st_size == 4096
    assert await tree.lookup(tree.get(1), b"nothing") is None
    with pytest.raises(NotADirectoryError):
        await tree.lookup(motd, b"x")
    assert await tree.target(await find(tree, "bin/link")) == b"sh"
    sh = await find(tree, "bin/sh")
    assert (await tree.xattrs(sh), await tree.xattr(sh, b"user.a")) == ([b"user.a"], b"1")
    assert tree.parent(await find(tree, "bin")).number == 1
    listing = tree.open_directory(tree.get(1))
    names = []
    while (entry := await listing.entry(len(names), rewind=False)) is not None:
        names.append(entry[1])
    assert names == [b"bin", b"empty", b"motd", b"sparse"]
    assert tree.lifetime(None) > 1e8 < tree.lifetime(motd)
    with pytest.raises(OSError, match="Stale"):
        tree.get(1000)
    with pytest.raises(OSError, match="Invalid"):
        await tree.open(tree.get(1))
    assert await tree.open(motd)


async def test_any_range_is_read(scene: Scene) -> None:
    tree = await scene.open()
    sh = await find(tree, "bin/sh")
    for offset in (0, 1, BLOCK - 1, BLOCK, 5 * BLOCK + 7, len(CONTENT) - 3, len(CONTENT), len(CONTENT) + 9):
        for length in (1, 100, BLOCK, 3 * BLOCK, len(CONTENT)):
            assert bytes(await tree.read(sh, offset, length)) == CONTENT[offset : offset + length]


async def test_a_damaged_block_comes_from_the_next_server(scene: Scene) -> None:
    tree = await scene.open()
    scene.damage(0, scene.pack.index(b"\3" * BLOCK) + 5)
    assert await content(tree, "bin/sh") == CONTENT
    assert [server.mismatches for server in scene.servers] == [1, 0]
    assert f"{scene.servers[0].source} is quarantined: block 2 of /bin/sh is damaged" in scene.said()
    assert scene.servers[1].reads == 1
    assert scene.servers[1].bytes_read == BLOCK


async def test_no_good_copy_costs_that_block_alone(scene: Scene) -> None:
    tree = await scene.open()
    for server in (0, 1):
        scene.damage(server, scene.pack.index(b"\3" * BLOCK) + 5)
    sh = await find(tree, "bin/sh")
    with pytest.raises(OSError) as failed:
        await tree.read(sh, 0, len(CONTENT))
    assert failed.value.errno == errno.EIO
    for server in scene.servers:
        assert server.source in scene.said().splitlines()[-1]
    assert "block 2 of /bin/sh cannot be read" in scene.said()
    assert bytes(await tree.read(sh, 0, 2 * BLOCK)) == CONTENT[: 2 * BLOCK]
    assert bytes(await tree.read(sh, 3 * BLOCK, 1 << 20)) == CONTENT[3 * BLOCK :]
    # Mended on one server: nothing remembers the failure.
    scene.pack_of(1).write_bytes(scene.pack)
    assert await content(tree, "bin/sh") == CONTENT


async def test_a_pack_that_is_missing_or_cut_short(scene: Scene) -> None:
    tree = await scene.open()
    pack = scene.pack_of(0)
    pack.rename(pack.with_name("elsewhere"))
    assert await content(tree, "bin/sh") == CONTENT
    assert "has no pack" in scene.said()
    assert scene.servers[0].health.state is ServerState.QUARANTINED
    scene.servers[0].health.renew(0.0)
    scene.servers[1].health.quarantine(0.0, "so that the first one is asked")
    tree._condemned.clear()
    pack.with_name("elsewhere").rename(pack)
    os.truncate(pack, BLOCK + 9)
    scene.store = tree._reader.store = BlockStore(1 << 20, 0)
    assert await content(tree, "bin/sh") == CONTENT
    assert scene.servers[0].health.state is ServerState.QUARANTINED
    assert scene.said().count("is quarantined") == 2, "one proof is enough"


async def test_a_pack_may_be_a_link(tmp_path: Path) -> None:
    scene = Scene(tmp_path, ["a"])
    pack = scene.pack_of(0)
    pack.rename(tmp_path / "store.pack")
    pack.symlink_to("../../store.pack")
    assert await content(await scene.open(), "bin/sh") == CONTENT


async def test_many_readers_of_a_cold_block_cost_one_read(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = await scene.open()
    reads = []
    real = Opened.read

    def counted(self: Opened, offset: int, length: int) -> tuple[bytes, os.stat_result]:
        reads.append((offset, length))
        return real(self, offset, length)

    monkeypatch.setattr(Opened, "read", counted)
    sh = await find(tree, "bin/sh")
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(tree.read, sh, 0, len(CONTENT))
    assert reads == [(scene.pack.index(CONTENT), len(CONTENT))]
    assert tree._reader.in_flight == 0
    await tree.read(sh, 0, len(CONTENT))
    assert len(reads) == 1


async def test_a_server_that_fails_is_followed_by_the_next(scene: Scene, nursery: trio.Nursery) -> None:
    tree = await scene.open()
    nursery.start_soon(scene.upstreams.run)

    def broken(self: Server, place: object, *, follow: bool = False) -> Opened:
        raise OSError(errno.EHOSTUNREACH, "gone")

    scene.servers[0].open = broken.__get__(scene.servers[0])  # type: ignore[method-assign]
    assert await content(tree, "motd") == b"hello\n"
    assert scene.servers[0].health.state is ServerState.SUSPECT
    scene.servers[1].open = broken.__get__(scene.servers[1])  # type: ignore[method-assign]
    tree._packs.clear()
    with pytest.raises(OSError) as failed:
        await content(tree, "bin/sh")
    assert failed.value.errno == errno.EIO


async def test_a_release_counts_and_a_plain_tree_beside_it_is_left_out(tmp_path: Path) -> None:
    scene = Scene(tmp_path, ["a"])
    (tmp_path / "plain").mkdir()
    plain = Server(str(tmp_path / "plain"), 1, 4, ProcPaths())
    assert await are_releases(scene.servers, 5.0)
    assert not await are_releases([plain], 5.0)
    both = [plain, *scene.servers]
    assert await are_releases(both, 5.0)
    _, first = await load_release(both, 5.0, scene.events)
    assert [first] == scene.servers
    assert plain.health.state is ServerState.QUARANTINED
    assert f"{plain.source} is left out: it is no release" in scene.said()


async def test_a_server_with_another_release_is_left_out(scene: Scene) -> None:
    shutil.rmtree(scene.paths[1])
    write_release(scene.paths[1], *write_manifest(TREE, label="2"))
    scene.servers[1] = Server(str(scene.paths[1]), 1, 4, ProcPaths())
    await scene.open()
    assert scene.used == scene.servers[:1]
    assert "left out: it has another release" in scene.said()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[:700], "it has 700 bytes and should have"),
        (lambda data: data[:100], "cut short"),
        (lambda data: data[:-1] + b"\1", "its digest does not match"),
        (lambda data: data[:8] + b"\2" + data[9:], "version 2 of the format"),
        (lambda data: seal(data[:520] + b"\xff" * 64 + data[584:]), "its root is broken"),
    ],
)
async def test_a_broken_manifest(scene: Scene, damage, words: str) -> None:
    broken = damage(scene.manifest)
    (scene.paths[0] / "manifest").write_bytes(broken)
    tree = await scene.open()
    assert scene.used == scene.servers[1:]
    assert words in scene.said()
    assert await content(tree, "motd") == b"hello\n"
    (scene.paths[1] / "manifest").write_bytes(broken)
    with pytest.raises(UserError, match=words) as refused:
        await scene.open()
    assert "build the release anew" in refused.value.mend


async def test_only_what_is_signed_is_believed(tmp_path: Path) -> None:
    signing = pytest.importorskip("nacl.signing")
    scene = Scene(tmp_path, kind=digests.BLAKE2B_256)
    key = signing.SigningKey(bytes(32))
    public = bytes(key.verify_key)
    with pytest.raises(UserError, match="is not signed") as refused:
        await scene.open(key=public)
    assert "verify=off" in refused.value.mend
    message = b"orion manifest v1\0" + (2).to_bytes(4, "little") + scene.manifest[480:512]
    (scene.paths[1] / "manifest.sig").write_bytes(key.sign(message).signature)
    await scene.open(key=public)
    assert scene.used == scene.servers[1:]
    with pytest.raises(UserError, match="not signed"):
        await scene.open(key=bytes(signing.SigningKey(b"\1" * 32).verify_key))
    await scene.open()


def test_a_release_is_held_while_it_is_mounted(scene: Scene) -> None:
    pairs = [(server.source, server.directory) for server in scene.servers]
    held = hold(pairs)
    with (scene.paths[0] / "manifest").open("rb") as manifest:
        with pytest.raises(BlockingIOError):
            fcntl.flock(manifest, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for fd in held:
            os.close(fd)
        fcntl.flock(manifest, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(UserError, match="is being removed"):
            hold(pairs)


async def test_a_dead_first_server_costs_a_start_a_moment(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung = threading.Event()
    real = Server.open

    def hanging(self: Server, place: Place, *, follow: bool = False) -> Opened:
        if self is scene.servers[0]:
            hung.wait()
        return real(self, place, follow=follow)

    monkeypatch.setattr(Server, "open", hanging)
    try:
        began = trio.current_time()
        tree = await scene.open()
        assert scene.first is scene.servers[1]
        assert trio.current_time() - began < 0.3 + BUSY
        assert await content(tree, "bin/sh") == CONTENT
        assert trio.current_time() - began < 0.6 + BUSY
    finally:
        hung.set()
