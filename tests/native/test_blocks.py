"""The native block pipeline against python-xxhash and python-lz4."""

import os

import lz4.block
import pytest
import xxhash
from hypothesis import example, given
from hypothesis import strategies as st

from orioncache import native

# Runs of one byte, of a few words, of noise: what lz4 packs well, a little, and not at all.
pieces = st.one_of(
    st.binary(max_size=600),
    st.builds(lambda byte, times: byte * times, st.binary(min_size=1, max_size=9), st.integers(0, 400)),
    st.builds(bytes, st.integers(0, 5000)),
)
blocks = st.lists(pieces, max_size=6).map(b"".join)


@given(blocks)
@example(b"")
@example(bytes(native.BLOCK_MAX))
@example(os.urandom(native.BLOCK_MAX))
def test_digest_is_xxh3_128(block):
    assert native.digest(block) == xxhash.xxh3_128_digest(block)


@given(blocks)
@example(b"\0")
@example(b"\1")
@example(bytes(131072))
@example(bytes(131071) + b"\1")
@example(os.urandom(native.BLOCK_MAX))
@example(b"orion" * 26214)
def test_pack_and_unpack(block):
    digest, packed = native.pack(block)

    assert digest == xxhash.xxh3_128_digest(block)
    assert packed == native.compress(block)
    assert native.unpack(packed, len(block), digest) == block
    if not any(block):
        assert packed == b""
    elif len(packed) == len(block):
        assert packed == block
    else:
        assert len(packed) < len(block)
        assert lz4.block.decompress(packed, uncompressed_size=len(block)) == block


@given(blocks)
def test_what_lz4_packs_is_unpacked(block):
    packed = lz4.block.compress(block, store_size=False)

    if 0 < len(packed) < len(block):
        assert native.unpack(packed, len(block), xxhash.xxh3_128_digest(block)) == block


@given(blocks)
@example(bytes(native.BLOCK_MAX))
@example(os.urandom(native.BLOCK_MAX))
@example(b"a")
def test_what_is_squeezed_is_an_lz4_block_or_the_block(block):
    squeezed = native.squeeze(block)
    assert len(squeezed) <= len(block)
    if len(squeezed) == len(block):
        assert squeezed == block
    else:
        assert lz4.block.decompress(squeezed, uncompressed_size=len(block)) == block
        assert native.decompress(squeezed, len(block)) == block


def test_what_is_longer_than_a_block_is_not_squeezed():
    with pytest.raises(ValueError, match="longer"):
        native.squeeze(bytes(native.BLOCK_MAX + 1))


@given(blocks)
def test_what_another_digest_verifies_is_decompressed(block):
    assert native.decompress(native.compress(block), len(block)) == block


@given(st.binary(max_size=300), st.integers(0, 400))
def test_bytes_that_are_no_packed_block_are_refused(packed, length):
    try:
        assert len(native.decompress(packed, length)) == length
    except native.CorruptBlockError:
        assert packed


def test_what_lz4_saves_little_on_is_kept_as_it_is():
    """96% noise: lz4 makes it shorter by less than a sixteenth."""
    block = os.urandom(126000) + bytes(5072)

    assert len(lz4.block.compress(block, store_size=False)) < len(block)
    assert native.compress(block) == block


@given(blocks)
def test_is_zero(block):
    assert native.is_zero(block) == (not any(block))


@given(st.binary(max_size=300), st.integers(0, 3000), st.binary(min_size=16, max_size=16))
def test_any_bytes_are_refused_or_are_the_named_block(packed, length, digest):
    """Whatever is in RAM, nothing but the block of that digest comes out."""
    with pytest.raises(native.CorruptBlockError):
        native.unpack(packed, length, digest)


@given(blocks.filter(any), st.data())
def test_damage_is_found(block, data):
    digest, packed = native.pack(block)
    damaged = bytearray(packed)
    at = data.draw(st.integers(0, len(packed) - 1))
    damaged[at] ^= data.draw(st.integers(1, 255))

    try:
        assert native.unpack(damaged, len(block), digest) == block
    except native.CorruptBlockError:
        return
    assert len(packed) < len(block), "bytes kept as they are cannot be written in two ways"


@given(blocks, st.integers(0, 64))
def test_every_kind_of_buffer_is_taken(block, start):
    for view in (bytearray(block), memoryview(block)):
        assert native.pack(view) == native.pack(block)
    assert native.digest(memoryview(block)[start:]) == native.digest(block[start:])
    digest, packed = native.pack(block)
    assert native.unpack(memoryview(packed), len(block), memoryview(digest)) == block


def test_what_cannot_be_a_block_is_a_callers_mistake():
    with pytest.raises(ValueError, match="1048577 bytes"):
        native.pack(bytes(native.BLOCK_MAX + 1))
    for length, digest in (
        (native.BLOCK_MAX + 1, bytes(16)),
        (-1, bytes(16)),
        (4, bytes(15)),
        (4, bytes(17)),
    ):
        with pytest.raises(ValueError, match="no block has"):
            native.unpack(b"abcd", length, digest)
    with pytest.raises(BufferError):
        native.digest(memoryview(b"abcdef")[::2])
