"""Releases that are broken, hostile, incomplete or of other people: refused, or EIO in that place alone."""

import errno
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash

from tests.fuse import kinds
from tests.fuse.conftest import RunningCache, released
from tests.program import COMMAND
from tests.waiting import wait_until

BLOCK = 128 << 10
# native/manifest.h: the header's parts, and the sections' table.
DIGEST_AT, SECTIONS_AT = 480, 56
INODES, DIRENTS, EXTENTS, BLOCKS, BYTES = 0, 1, 2, 3, 8

ENGINES = ("native", "python")
releases = pytest.mark.kinds(kinds.NATIVE_RELEASE, kinds.PYTHON_RELEASE)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release with three files of known content, a directory and a symlink."""
    top = tmp_path_factory.mktemp("good")
    tree = top / "tree"
    (tree / "directory" / "below").mkdir(parents=True)
    for number in range(3):
        (tree / f"file{number}").write_bytes(bytes([65 + number]) * 1000 + os.urandom(3 * BLOCK))
    (tree / "directory" / "inside").write_bytes(b"inside")
    (tree / "link").symlink_to("file0")
    return released(tree, top / "store")


@pytest.fixture
def copy(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "copy"))


def _mount(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, "mount", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def _section(manifest: bytes, number: int) -> tuple[int, int]:
    offset, count = struct.unpack_from("<QQ", manifest, SECTIONS_AT + 16 * number)
    return offset, count


def _name_at(manifest: bytes, name: bytes) -> int:
    """The entry of a directory that has this name: its place in the file."""
    start, count = _section(manifest, DIRENTS)
    text, _ = _section(manifest, BYTES)
    for at in range(start, start + 12 * count, 12):
        offset, _, length = struct.unpack_from("<IIH", manifest, at)
        if manifest[text + offset : text + offset + length] == name:
            return at
    raise AssertionError(name)


def _inode_at(manifest: bytes, name: bytes) -> int:
    (number,) = struct.unpack_from("<I", manifest, _name_at(manifest, name) + 4)
    return _section(manifest, INODES)[0] + 64 * number


def _rewrite(release: Path, change: Callable[[bytearray], object], *, digest: bool = True) -> None:
    """Changes a manifest, and makes its own digest right again."""
    manifest = bytearray((release / "manifest").read_bytes())
    change(manifest)
    if digest:
        found = xxhash.xxh3_128_digest(bytes(manifest[:DIGEST_AT] + manifest[512:]))
        manifest[DIGEST_AT:512] = found.ljust(32, b"\0")
    (release / "manifest").write_bytes(manifest)


def _flip(manifest: bytearray) -> None:
    manifest[1000] ^= 1


def _no_magic(manifest: bytearray) -> None:
    manifest[0] ^= 1


def _cut(manifest: bytearray) -> None:
    del manifest[-64:]


def _almost_nothing(manifest: bytearray) -> None:
    del manifest[100:]


def _newer(manifest: bytearray) -> None:
    struct.pack_into("<I", manifest, 8, 2)


def _section_outside(manifest: bytearray) -> None:
    struct.pack_into("<Q", manifest, SECTIONS_AT, len(manifest) + 8)


def _too_many(manifest: bytearray) -> None:
    struct.pack_into("<Q", manifest, SECTIONS_AT + 8, 1 << 60)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("damage", "digest"),
    [
        (_flip, False),
        (_no_magic, True),
        (_cut, True),
        (_almost_nothing, False),
        (_newer, True),
        (_section_outside, True),
        (_too_many, True),
    ],
)
def test_a_broken_manifest_is_refused_in_one_line(
    engine: str, damage: Callable[[bytearray], object], digest: bool, copy: Path, tmp_path: Path
) -> None:
    _rewrite(copy, damage, digest=digest)
    point = tmp_path / "point"
    point.mkdir()
    done = _mount(f"--engine={engine}", copy, point)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 2, done.stderr
    assert lines[0].startswith("orioncache: error: ")
    assert lines[1].startswith("  mend: ")
    assert f" {point} " not in Path("/proc/self/mountinfo").read_text()


def _hostile_name(name: bytes) -> Callable[[bytearray], object]:
    def change(manifest: bytearray) -> None:
        offset, _, length = struct.unpack_from("<IIH", manifest, _name_at(manifest, b"below"))
        text, _ = _section(manifest, BYTES)
        assert length == len(name)
        manifest[text + offset : text + offset + length] = name

    return change


def _cycle(manifest: bytearray) -> None:
    # directory/below is the root once more.
    struct.pack_into("<I", manifest, _name_at(manifest, b"below") + 4, 0)


def _no_such_inode(manifest: bytearray) -> None:
    struct.pack_into("<I", manifest, _name_at(manifest, b"below") + 4, 0xFFFFFF)


@releases
@pytest.mark.parametrize(
    "damage", [_cycle, _no_such_inode, _hostile_name(b"be/ow"), _hostile_name(b"be\0ow")]
)
def test_a_hostile_entry_costs_its_directory_alone(
    damage: Callable[[bytearray], object], copy: Path, tmp_path: Path, kind: str
) -> None:
    _rewrite(copy, damage)
    cache = _serve(kind, tmp_path, copy)
    try:
        below = cache.path / "directory" / "below"
        for attempt in (os.lstat, os.listdir):
            with pytest.raises(OSError) as error:
                attempt(below)
            assert error.value.errno in (errno.EIO, errno.ENOENT, errno.ESTALE)
        assert (cache.path / "directory" / "inside").read_bytes() == b"inside"
        assert (cache.path / "link").read_bytes()[:3] == b"AAA"
    finally:
        cache.end()


@releases
@pytest.mark.parametrize("size", [1 << 63, (1 << 64) - 1, 1 << 62])
def test_an_impossible_size_costs_its_file_alone(size: int, copy: Path, tmp_path: Path, kind: str) -> None:
    _rewrite(copy, lambda manifest: struct.pack_into("<Q", manifest, _inode_at(manifest, b"file1"), size))
    cache = _serve(kind, tmp_path, copy)
    try:
        with (
            pytest.raises(OSError, match=r"Input/output|File too large"),
            (cache.path / "file1").open("rb", buffering=0) as file,
        ):
            while file.read(BLOCK):
                pass
        assert (cache.path / "file0").read_bytes()[:3] == b"AAA"
    finally:
        cache.end()


def _serve(kind: str, tmp_path: Path, *sources: Path, options: tuple[str, ...] = ()) -> RunningCache:
    """A cache over directories that are releases already."""
    live = f"{kinds.engine(kind)}-live"
    cache = RunningCache(list(sources), tmp_path / "m", ["--read-timeout=1s", *options], live)
    cache.expected = ["block", "manifest", "left out", "reading from", "failed", "pack", "release"]
    return cache


def _pack(release: Path) -> Path:
    (pack,) = (release / "packs").iterdir()
    return pack


def _spoil(release: Path, name: bytes, at: int) -> None:
    """Flips a bit of a file's content in the pack, which gets an inode of its own."""
    pack = _pack(release)
    content = bytearray(pack.read_bytes())
    content[content.index(name * 1000) + at] ^= 4
    pack.unlink()
    pack.write_bytes(content)


@releases
def test_a_block_that_is_wrong_on_one_server_comes_from_the_other(
    good: Path, copy: Path, tmp_path: Path, kind: str
) -> None:
    _spoil(copy, b"B", 500)
    cache = _serve(kind, tmp_path, copy, good)
    try:
        read = (cache.path / "file1").read_bytes()
        assert read[:1000] == b"B" * 1000
        assert len(read) == 1000 + 3 * BLOCK
        servers = cache.status()["servers"]
        assert servers[0]["mismatches"] > 0
        assert servers[1]["bytes"] > 0
        wait_until(lambda: any("/file1" in e["text"] for e in cache.status()["events"]), "an event tells")
    finally:
        cache.end()


@releases
def test_a_block_that_is_wrong_everywhere_is_an_error_of_that_read_alone(
    copy: Path, tmp_path: Path, kind: str
) -> None:
    _spoil(copy, b"B", 500)
    cache = _serve(kind, tmp_path, copy)
    try:
        descriptor = os.open(cache.path / "file1", os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output"):
                os.pread(descriptor, 100, 0)
        assert len(os.pread(descriptor, 4096, BLOCK)) == 4096
        os.close(descriptor)
        assert (cache.path / "file0").read_bytes()[:1000] == b"A" * 1000
        assert (cache.path / "file2").read_bytes()[:1000] == b"C" * 1000
        assert cache.status()["fuse"]["reads_in_flight"] == 0
    finally:
        cache.end()


@releases
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_pack_that_one_server_lacks_comes_from_the_other(
    damage: str, good: Path, copy: Path, tmp_path: Path, kind: str
) -> None:
    pack = _pack(copy)
    content = pack.read_bytes()
    pack.unlink()
    if damage == "cut":
        pack.write_bytes(content[: len(content) // 2])
    cache = _serve(kind, tmp_path, copy, good)
    try:
        for number in range(3):
            assert len((cache.path / f"file{number}").read_bytes()) == 1000 + 3 * BLOCK
        assert cache.status()["servers"][1]["bytes"] > 0
    finally:
        cache.end()


@releases
def test_servers_that_are_bad_in_different_places_are_good_together(
    good: Path, copy: Path, tmp_path: Path, kind: str
) -> None:
    """One's pack ends too early, the other's first blocks are damaged: each block has one good copy."""
    other = Path(shutil.copytree(good, tmp_path / "other"))
    _spoil(other, b"A", 500)
    pack = _pack(copy)
    content = pack.read_bytes()
    pack.unlink()
    pack.write_bytes(content[: content.index(b"B" * 1000)])
    cache = _serve(kind, tmp_path, copy, other)
    try:
        for letter, number in ((b"A", 0), (b"B", 1), (b"C", 2)):
            read = (cache.path / f"file{number}").read_bytes()
            assert read[:1000] == letter * 1000
            assert len(read) == 1000 + 3 * BLOCK
    finally:
        cache.end()


@pytest.mark.parametrize("engine", ENGINES)
def test_many_packs_need_no_more_descriptors_than_the_hard_limit(engine: str, tmp_path: Path) -> None:
    """A version with new content brings a pack of its own; the soft limit shall not end their reading."""
    (tmp_path / "tree").mkdir()
    for number in range(12):
        (tmp_path / "tree" / f"file{number}").write_bytes(os.urandom(1000))
        release = _build_version(tmp_path, str(number))
    assert len(list((release / "packs").iterdir())) == 12
    point = tmp_path / "point"
    point.mkdir()
    limited = ["prlimit", "--nofile=28:4096", *COMMAND, "mount", f"--engine={engine}", release, point]
    subprocess.run(limited, check=True, timeout=60)
    try:
        for number in range(12):
            expected = (tmp_path / "tree" / f"file{number}").read_bytes()
            assert (point / f"file{number}").read_bytes() == expected
    finally:
        subprocess.run(["umount", point], check=True)


def _build_version(top: Path, version: str) -> Path:
    command = [
        *COMMAND,
        "release",
        "build",
        top / "tree",
        top / "store",
        "--name=tree",
        f"--version={version}",
    ]
    subprocess.run(command, check=True, capture_output=True)
    return top / "store/releases/tree" / version


@releases
def test_a_server_with_another_release_is_left_out(good: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file0").write_bytes(b"something else")
    other = released(tmp_path / "tree", tmp_path / "store")
    cache = _serve(kind, tmp_path, good, other)
    try:
        assert (cache.path / "file0").read_bytes()[:3] == b"AAA"
        wait_until(
            lambda: any("left out" in event["text"] for event in cache.status()["events"]), "it is left out"
        )
    finally:
        cache.end()


@pytest.mark.parametrize("engine", ENGINES)
def test_only_what_the_key_has_signed_is_served(engine: str, tmp_path: Path) -> None:
    def orion(*arguments: str | Path) -> None:
        subprocess.run([*COMMAND, *map(str, arguments)], check=True)

    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(b"signed")
    point = tmp_path / "point"
    point.mkdir()
    for name in ("ours", "theirs"):
        orion("release", "keygen", tmp_path / name)
    release = released(tmp_path / "tree", tmp_path / "store", "--digest=blake2b")
    command = (f"--engine={engine}", f"--key={tmp_path / 'ours.pub'}")

    refused = _mount(*command, release, point)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 2)
    assert "not signed" in refused.stderr
    orion("release", "sign", tmp_path / "store", "tree", "1", "--key", tmp_path / "theirs")
    refused = _mount(*command, release, point)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 2)
    assert "signature" in refused.stderr
    refused = _mount(*command, tmp_path / "tree", point)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 2)
    for options in (["--verify=off"], []):
        if not options:
            orion("release", "sign", tmp_path / "store", "tree", "1", "--key", tmp_path / "ours")
        done = _mount(*command, *options, release, point)
        assert done.returncode == 0, done.stderr
        assert (point / "file").read_bytes() == b"signed"
        subprocess.run(["umount", point], check=True)


@releases
def test_a_plain_tree_beside_a_release_is_left_out(good: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "tree").mkdir()
    cache = _serve(kind, tmp_path, tmp_path / "tree", good)
    try:
        assert (cache.path / "file0").read_bytes()[:3] == b"AAA"
        wait_until(
            lambda: any("is no release" in event["text"] for event in cache.status()["events"]),
            "it is left out",
        )
    finally:
        cache.end()
