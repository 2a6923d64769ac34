"""Bundles: what is written is what is read, and a reader believes nothing."""

import os
import random
import struct

import lz4.block
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orioncache import native
from orioncache.errors import UserError
from orioncache.native import digests
from orioncache.release import bundling
from orioncache.release.bundle import (
    DIGEST_AT,
    FRAME_MAX,
    HEADER_SIZE,
    PAGE,
    Bundle,
    BundleError,
    bundles,
    check_role,
)
from orioncache.release.bundling import Piece
from orioncache.release.content import Content, open_manifest
from orioncache.release.verify import bundle_problems
from orioncache.simulate.stream import read_frames
from tests.release_writer import directory, file, write_manifest, write_release

BLOCK = 128 << 10
RNG = random.Random(5)
FILES = {
    b"noise": RNG.randbytes(5 * BLOCK + 1234),
    b"text": b"line of text\n" * 30_000,
    b"short": b"x" * 100,
    b"holes": RNG.randbytes(BLOCK) + bytes(2 * BLOCK) + RNG.randbytes(BLOCK),
    b"empty": b"",
    b"zeros": RNG.randbytes(PAGE) + bytes(BLOCK - PAGE),
}
INODES = {name: number for number, name in enumerate(FILES, start=1)}


def make(where, kind=digests.XXH3_128):
    root = directory({name: file(content) for name, content in FILES.items()})
    return write_release(where, *write_manifest(root, kind=kind, block_size=BLOCK))


@pytest.fixture(params=digests.KINDS.values(), ids=digests.KINDS)
def release(tmp_path, request):
    return make(tmp_path / "release", request.param)


def write(release, pieces, role="default", boots=1):
    return bundling.write(release, open_manifest(release), role, pieces, boots)


def piece(name, offset, length, t_us=0):
    return Piece(INODES[name], offset, length, t_us)


def problems(release, path, key=None):
    with Content(release, open_manifest(release)) as content:
        return list(bundle_problems(path, content, key))


SOME = [
    piece(b"noise", 3 * BLOCK, BLOCK, 500),
    piece(b"text", 0, 40 * PAGE, 100),
    piece(b"noise", 0, 3 * BLOCK, 300),
    piece(b"noise", PAGE, 2 * PAGE, 600),  # is there already
    piece(b"short", 0, PAGE, 200),  # reaches beyond the file
    piece(b"holes", BLOCK - PAGE, BLOCK, 700),  # a page, then a hole
    piece(b"noise", 5 * BLOCK, BLOCK, 800),  # the tail
    piece(b"zeros", PAGE, 4 * PAGE, 900),
    piece(b"empty", 0, PAGE, 900),
]


def test_what_is_written_is_what_the_release_has_in_order_of_time(release):
    written = write(release, SOME, boots=3)

    bundle = Bundle(written.path)
    found = [(chunk.inode, chunk.offset, data) for chunk, data in bundle.contents()]
    names = {number: name for name, number in INODES.items()}
    for inode, offset, data in found:
        assert FILES[names[inode]][offset : offset + len(data)] == data
    order = list(dict.fromkeys(names[inode] for inode, _, _ in found))
    assert order == [b"text", b"short", b"noise", b"holes", b"zeros"]
    lengths = {name: sum(len(d) for i, _, d in found if names[i] == name) for name in order}
    assert lengths == {
        b"text": 40 * PAGE, b"short": 100, b"noise": 4 * BLOCK + 1234, b"holes": PAGE, b"zeros": 4 * PAGE,
    }  # fmt: skip
    assert written.holes == BLOCK - PAGE
    assert (bundle.role, bundle.boots) == ("default", 3)
    assert bundle.raw_bytes == written.raw_bytes == sum(lengths.values())
    assert bundle.size == written.size == written.path.stat().st_size
    assert [frame.t_us for frame in bundle.frames] == sorted(frame.t_us for frame in bundle.frames)
    assert bundle.frames[0].t_us == 100
    assert problems(release, written.path) == []
    assert bundles(release) == [written.path]


def test_the_simulator_streams_the_frames_of_its_own_release_alone(release):
    bundle = Bundle(write(release, SOME).path)
    frames, index = read_frames(bundle.path, bundle.manifest.hex())
    assert [frame.packed for frame in frames] == [frame.packed for frame in bundle.frames]
    assert index == bundle.frames[0].offset
    with pytest.raises(UserError, match="belongs to another release"):
        read_frames(bundle.path, bytes(len(bundle.manifest)).hex())


def test_frames_are_lz4_blocks_of_at_most_256_kib_or_stored(release):
    bundle = Bundle(write(release, SOME).path)
    data = bundle.path.read_bytes()
    assert len(bundle.frames) == 3
    assert [frame.raw for frame in bundle.frames[:-1]].count(FRAME_MAX) >= 1
    for number, frame in enumerate(bundle.frames):
        packed = data[frame.offset : frame.offset + frame.packed]
        raw = (
            packed if frame.packed == frame.raw else lz4.block.decompress(packed, uncompressed_size=frame.raw)
        )
        assert raw == bundle.raw(number)
        assert digests.digest(bundle.digest_kind, raw) == frame.digest[: len(bundle.digest)]


def test_pages_of_zeros_that_are_stored_are_a_frame_like_any_other(release):
    bundle = Bundle(write(release, [piece(b"zeros", PAGE, 4 * PAGE)]).path)
    (frame,) = bundle.frames
    assert 1 <= frame.packed < frame.raw == 4 * PAGE
    assert bundle.raw(0) == bytes(4 * PAGE)


def test_the_same_pieces_give_the_same_bytes(tmp_path):
    first = write(make(tmp_path / "1"), SOME).path.read_bytes()
    assert first == write(make(tmp_path / "2"), SOME).path.read_bytes()


def test_pieces_that_follow_each_other_become_one_chunk(tmp_path):
    pages = [piece(b"noise", at * PAGE, PAGE, at) for at in range(20)]
    (chunk,) = Bundle(write(make(tmp_path / "r"), pages).path).chunks
    assert (chunk.offset, chunk.length) == (0, 20 * PAGE)


def test_nothing_to_write_is_a_mistake_and_leaves_nothing(tmp_path):
    release = make(tmp_path / "r")
    for pieces in ([], [Piece(99, 0, PAGE, 0)], [Piece(0, 0, PAGE, 0)], [piece(b"holes", BLOCK, BLOCK)]):
        with pytest.raises(UserError, match="nothing of what role"):
            write(release, pieces)
    assert bundles(release) == []


def test_a_damaged_block_is_not_bundled(tmp_path):
    release = make(tmp_path / "r")
    (pack,) = (release / "packs").iterdir()
    data = bytearray(pack.read_bytes())
    data[100] ^= 1
    pack.write_bytes(data)
    with pytest.raises(UserError, match="noise: a block of it does not have its digest"):
        write(release, SOME)
    assert bundles(release) == []


@pytest.mark.parametrize("role", ["", ".", "a/b", "A", "a\n", "x" * 64, "..", "ä"])
def test_what_is_no_role(role):
    with pytest.raises(UserError, match="is no role"):
        check_role(role)


def test_a_bundle_of_another_release_or_role_is_seen(tmp_path):
    release, other = make(tmp_path / "1"), make(tmp_path / "2", digests.BLAKE2B_256)
    path = write(release, SOME).path
    moved = path.rename(path.with_name("kiosk.bundle"))
    assert problems(release, moved) == ["it is for role default"]
    (other / "bundles").mkdir()
    moved.rename(other / "bundles/default.bundle")
    assert problems(other, other / "bundles/default.bundle") == ["it belongs to another release"]


def test_a_replaced_bundle_loses_its_signature(tmp_path):
    release = make(tmp_path / "r")
    path = write(release, SOME).path
    path.with_name("default.bundle.sig").write_bytes(bytes(64))
    write(release, SOME[:2])
    assert [each.name for each in path.parent.iterdir()] == ["default.bundle"]


def test_only_files_with_a_roles_name_are_bundles(tmp_path):
    release = make(tmp_path / "r")
    path = write(release, SOME).path
    os.mkfifo(path.with_name("pipe.bundle"))
    path.with_name("folder.bundle").mkdir()
    for name in ("UPPER.bundle", ".x.bundle", "default.bundle.sig", "other"):
        path.with_name(name).touch()
    assert bundles(release) == [path]


# The fields of a header, a frame and a chunk: offset and bytes.
HEADER_FIELDS = [(8, 4), (12, 4), (16, 8), (24, 4), (28, 4), (32, 4), (36, 4), (40, 8), (48, 8), (56, 8),
                 (64, 8), (72, 8), (80, 32), (112, 64), (176, 8), (184, 296)]  # fmt: skip
FRAME_FIELDS = [(0, 8), (8, 4), (12, 4), (16, 4), (20, 4), (24, 8), (32, 32)]
CHUNK_FIELDS = [(0, 8), (8, 4), (12, 4), (16, 4), (20, 4)]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A release, and the bytes of a bundle of it."""
    release = make(tmp_path_factory.mktemp("good") / "r")
    return release, write(release, SOME).path.read_bytes()


def seal(data):
    """The same bytes with the index's digest that they should have, where there is an index."""
    (kind,) = struct.unpack_from("<I", data, 24)
    (payload,) = struct.unpack_from("<Q", data, 56)
    if digests.size(kind) == 0:
        return data
    digest = digests.digest(kind, data[:DIGEST_AT] + data[HEADER_SIZE : min(payload, len(data))])
    return data[:DIGEST_AT] + digest.ljust(32, b"\0") + data[HEADER_SIZE:]


def is_told(release, data):
    """What a broken bundle gets: problems, and no other error. Whether there are any."""
    path = release / "bundles/default.bundle"
    path.write_bytes(data)
    try:
        Bundle(path)
    except BundleError as error:
        assert error.mend
        assert "\n" not in error.message
    return bool(problems(release, path))


def test_a_good_bundle_is_good(good):
    release, data = good
    assert seal(data) == data
    assert not is_told(release, data)


SLOW = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SLOW
@given(st.data())
def test_cut_short_or_longer(good, data):
    release, whole = good
    length = data.draw(st.integers(0, len(whole) - 1))
    assert is_told(release, whole[:length])
    assert is_told(release, whole + b"\0")


@SLOW
@given(st.data())
def test_any_flipped_bit_is_seen(good, data):
    release, whole = good
    at = data.draw(st.one_of(st.integers(0, 16384), st.integers(0, len(whole) - 1)))
    changed = bytearray(whole)
    changed[at] ^= 1 << data.draw(st.integers(0, 7))
    assert is_told(release, bytes(changed))


@SLOW
@given(st.data())
def test_hostile_fields_with_a_right_digest(good, data):
    release, whole = good
    bundle_chunks = struct.unpack_from("<Q", whole, 48)[0]
    frames, chunks = struct.unpack_from("<II", whole, 32)
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        base, fields = data.draw(
            st.sampled_from(
                [(0, HEADER_FIELDS)]
                + [(512 + 64 * number, FRAME_FIELDS) for number in range(frames)]
                + [(bundle_chunks + 24 * number, CHUNK_FIELDS) for number in range(chunks)]
            )
        )
        at, length = data.draw(st.sampled_from(fields))
        number = st.one_of(
            st.sampled_from([0, 1, 2, 3, 4095, 4096, BLOCK, 1 << 20, 1 << 31, 1 << 32, 1 << 63, -1, -4096]),
            st.integers(-(1 << 70), 1 << 70),
        )
        value = data.draw(number) % (1 << (8 * length))
        changed[base + at : base + at + length] = value.to_bytes(length, "little")
    is_told(release, seal(bytes(changed)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda data, at: data.__setitem__(slice(at, at + 8), struct.pack("<Q", 100 * BLOCK)),
            "not lie in a file",
        ),
        (
            lambda data, at: data.__setitem__(slice(at + 8, at + 12), struct.pack("<I", 0)),
            "not lie in a file",
        ),
        (
            lambda data, at: data.__setitem__(slice(at + 8, at + 12), struct.pack("<I", 99)),
            "not lie in a file",
        ),
        (
            lambda data, at: data.__setitem__(slice(at + 8, at + 12), struct.pack("<I", INODES[b"noise"])),
            "stands twice",
        ),
        (
            lambda data, at: data.__setitem__(slice(at, at + 8), struct.pack("<Q", PAGE)),
            "differs from the release",
        ),
        (lambda data, at: data.__setitem__(slice(at, at + 8), struct.pack("<Q", 17)), "is broken"),
        (lambda data, at: data.__setitem__(slice(at + 12, at + 16), struct.pack("<I", 1)), "is broken"),
    ],
)
def test_chunks_that_lie(good, change, said):
    release, whole = good
    data = bytearray(whole)
    change(data, struct.unpack_from("<Q", whole, 48)[0])
    path = release / "bundles/default.bundle"
    path.write_bytes(seal(bytes(data)))
    (problem,) = problems(release, path)
    assert said in problem


def test_frames_with_other_content_and_a_right_digest_differ(good):
    release, whole = good
    bundle_path = release / "bundles/default.bundle"
    bundle_path.write_bytes(whole)
    bundle = Bundle(bundle_path)
    frame = bundle.frames[-1]
    raw = bytearray(bundle.raw(len(bundle.frames) - 1))
    raw[5] ^= 1
    packed = native.squeeze(raw)
    data = bytearray(whole[: frame.offset] + packed)
    at = 512 + 64 * (len(bundle.frames) - 1)
    struct.pack_into("<I", data, at + 8, len(packed))
    data[at + 32 : at + 64] = digests.digest(bundle.digest_kind, raw).ljust(32, b"\0")
    struct.pack_into("<Q", data, 16, len(data))
    struct.pack_into("<Q", data, 72, bundle.packed_bytes - frame.packed + len(packed))
    assert is_told(release, seal(bytes(data)))
    (problem,) = problems(release, bundle_path)
    assert "differs from the release" in problem
