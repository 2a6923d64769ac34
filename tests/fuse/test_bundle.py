"""Bundles as the native engine streams them: what is in one costs no request, and a bad one costs nothing."""

import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orioncache.release import bundling
from orioncache.release.bundle import Bundle, place
from orioncache.release.bundling import Piece
from orioncache.release.content import open_manifest
from tests.fuse import kinds
from tests.fuse.conftest import RunningCache, released
from tests.program import COMMAND
from tests.waiting import wait_until

BLOCK, PAGE = 128 << 10, 4096
CONTENT = {
    "bin/large": random.Random(1).randbytes(20 * BLOCK + 777),
    "lib/text": b"a line of text\n" * 20_000,
    "lib/deep/er/small": b"small",
}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release whose bundle has all of the small files and every other half block of the large one."""
    top = tmp_path_factory.mktemp("bundle")
    for name, content in CONTENT.items():
        (top / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (top / "tree" / name).write_bytes(content)
    # A second name for a file that is in the bundle, in a directory that is not.
    (top / "tree/other").mkdir()
    os.link(top / "tree/lib/text", top / "tree/other/name")
    made = released(top / "tree", top / "store", "--digest=blake2b")
    _bundle(made)
    return made


def _bundle(release: Path) -> None:
    manifest = open_manifest(release)

    def inode(path: str) -> int:
        number = 0
        for name in path.encode().split(b"/"):
            number = manifest.lookup(number, name)
        return number

    pieces = [Piece(inode("lib/deep/er/small"), 0, PAGE, 0), Piece(inode("lib/text"), 0, 1 << 20, 1)]
    pieces += [
        Piece(inode("bin/large"), at, BLOCK // 2, 2 + at)
        for at in range(0, len(CONTENT["bin/large"]) - BLOCK, BLOCK)
    ]
    bundling.write(release, manifest, "default", pieces, boots=1)


@pytest.fixture
def copy(release: Path, tmp_path: Path) -> Path:
    subprocess.run(["cp", "-a", release, tmp_path / "copy"], check=True)
    return tmp_path / "copy"


Serve = Callable[..., RunningCache]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Serves releases with the native engine, with ``expected`` warnings."""
    running: list[RunningCache] = []

    def start(*sources: Path, options: tuple[str, ...] = (), expected: tuple[str, ...] = ()) -> RunningCache:
        point = tmp_path / f"m{len(running)}"
        # These are releases already, which the kind of a plain tree leaves as they are.
        cache = RunningCache(
            list(sources), point, ["--read-timeout=1s", "--read-around=0", *options], kinds.NATIVE_LIVE
        )
        cache.expected = list(expected)
        running.append(cache)
        return cache

    yield start
    for cache in running:
        cache.end()
    assert not [line for cache in running for line in cache.complaints()]


def _reads(cache: RunningCache) -> int:
    return int(cache.status()["fuse"]["upcalls"].get("read", 0))


def _streamed(cache: RunningCache) -> dict[str, int]:
    wait_until(lambda: cache.status()["bundle"]["ended_at"] > 0, "the stream has ended")
    return dict(cache.status()["bundle"])


def _check_content(cache: RunningCache) -> None:
    for name, content in CONTENT.items():
        assert (cache.path / name).read_bytes() == content


def test_what_is_in_the_bundle_costs_no_request(release: Path, serve: Serve) -> None:
    cache = serve(release)
    found = _streamed(cache)
    index = Bundle(place(release, "default"))
    assert (found["frames"], found["landed"], found["failed"]) == (len(index.frames), len(index.frames), 0)
    assert found["stored_bytes"] == index.raw_bytes
    assert found["packed_bytes"] == index.packed_bytes
    assert (cache.path / "lib/deep/er/small").read_bytes() == b"small"
    assert (cache.path / "other/name").read_bytes() == CONTENT["lib/text"]
    descriptor = os.open(cache.path / "bin/large", os.O_RDONLY)
    try:
        for at in range(0, len(CONTENT["bin/large"]) - BLOCK, BLOCK):
            assert os.pread(descriptor, BLOCK // 2, at) == CONTENT["bin/large"][at : at + BLOCK // 2]
        assert _reads(cache) == 0
    finally:
        os.close(descriptor)
    _check_content(cache)


def test_the_kernel_reads_ahead_again_when_the_stream_has_ended(release: Path, serve: Serve) -> None:
    cache = serve(release)
    _streamed(cache)
    number = os.stat(cache.path).st_dev
    setting = Path(f"/sys/class/bdi/{os.major(number)}:{os.minor(number)}/read_ahead_kb")
    if not os.access(setting, os.W_OK):
        pytest.skip("/sys is not ours to write")
    wait_until(lambda: setting.read_text() == "1024\n", "readahead is wide")


def test_readers_during_the_stream_get_the_right_bytes(copy: Path, serve: Serve) -> None:
    """Again and again: what they find, in the frame, on its way or in the page cache, differs each time."""
    for _ in range(8):
        cache = serve(copy)
        _check_content(cache)
        assert cache.status()["fuse"]["reads_in_flight"] == 0
        cache.end()


def test_off_means_off(release: Path, serve: Serve) -> None:
    for options in (("--bundle=off",), ("--bundle=another",)):
        cache = serve(release, options=options)
        _check_content(cache)
        assert cache.status()["bundle"]["frames"] == 0
        assert _reads(cache) > 0


def _spoil(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: Bundle(path).frames[1].offset + 100])


def _of_another(path: Path) -> None:
    _spoil(path, 80)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: _spoil(path, 0), "no bundle"),
        (lambda path: _spoil(path, 8), "version"),
        (lambda path: _spoil(path, 700), "broken"),
        (lambda path: path.write_bytes(path.read_bytes()[:300]), "no bundle"),
        (_of_another, "another release"),
    ],
)
def test_a_bundle_that_cannot_be_used_is_named_and_missed_by_nobody(
    damage: Callable[[Path], None], said: str, copy: Path, serve: Serve
) -> None:
    damage(place(copy, "default"))
    cache = serve(copy, expected=(said,))
    _check_content(cache)
    wait_until(lambda: any(said in event["text"] for event in cache.status()["events"]), "an event tells")
    assert cache.status()["bundle"]["frames"] == 0


@pytest.mark.parametrize("damage", [lambda path: _spoil(path, Bundle(path).frames[1].offset + 9), _cut])
def test_a_frame_that_one_server_lacks_comes_from_the_other(
    damage: Callable[[Path], None], release: Path, copy: Path, serve: Serve
) -> None:
    damage(place(copy, "default"))
    cache = serve(copy, release, expected=("bundles/default.bundle",))
    found = _streamed(cache)
    assert (found["landed"], found["failed"]) == (found["frames"], 0)
    _check_content(cache)


def test_a_frame_that_nobody_has_is_read_by_blocks(copy: Path, serve: Serve) -> None:
    path = place(copy, "default")
    _spoil(path, Bundle(path).frames[0].offset + 9)
    cache = serve(copy, expected=("bundles/default.bundle",))
    found = _streamed(cache)
    assert (found["landed"], found["failed"]) == (found["frames"] - 1, 1)
    _check_content(cache)


def test_with_a_key_only_a_signed_bundle_is_used(copy: Path, tmp_path: Path, serve: Serve) -> None:
    subprocess.run([*COMMAND, "release", "keygen", tmp_path / "key"], check=True)
    store = tmp_path / "store"
    tree = tmp_path / "tree"
    for name, content in CONTENT.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(content)
    made = released(tree, store, "--digest=blake2b")
    sign = [*COMMAND, "release", "sign", store, "tree", "1", "--key", tmp_path / "key"]
    subprocess.run(sign, check=True)
    _bundle(made)
    key = f"--key={tmp_path / 'key.pub'}"
    cache = serve(made, options=(key,), expected=("not signed",))
    _check_content(cache)
    wait_until(lambda: any("not signed" in e["text"] for e in cache.status()["events"]), "an event tells")
    cache.end()
    subprocess.run(sign, check=True)
    cache = serve(made, options=(key,))
    assert _streamed(cache)["landed"] > 0
    _check_content(cache)
