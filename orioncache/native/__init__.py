"""The native library from Python: digests, packed blocks, memory that stays.

A node's daemon imports this before it serves, so nothing else is imported here. Functions take any contiguous
buffer without copying it, keep no state, and release the GIL while C runs: they may be called from any
thread.
"""

import errno
import os

from orioncache.native._orion import ffi, lib

Buffer = bytes | bytearray | memoryview

# What this module expects of native/orion.h.
_VERSION = 1

DIGEST_SIZE: int = lib.ORION_DIGEST_SIZE
BLOCK_MAX: int = lib.ORION_BLOCK_MAX

if lib.orion_version() != _VERSION:
    raise ImportError(f"liborion is version {lib.orion_version()}, not {_VERSION}: run make setup")

# Scratch is overwritten at once; clearing 128 KiB first would cost as much as copying them.
_scratch = ffi.new_allocator(should_clear_after_alloc=False)


class CorruptBlockError(Exception):
    """A packed block is malformed, or it is not the block that its digest names."""


def digest(data: Buffer) -> bytes:
    """The xxh3-128 of ``data``, 16 bytes, as ``xxhash.xxh3_128_digest`` gives it."""
    found = ffi.new("uint8_t[16]")
    view = ffi.from_buffer("uint8_t[]", data)
    lib.orion_digest(view, len(view), found)
    return bytes(ffi.buffer(found))


def is_zero(data: Buffer) -> bool:
    """Whether all bytes are zero; true for no bytes."""
    view = ffi.from_buffer("uint8_t[]", data)
    return bool(lib.orion_is_zero(view, len(view)))


def pack(data: Buffer) -> tuple[bytes, bytes]:
    """The digest of one block, and the block packed (``native/orion.h`` has the format).

    The packed block is never longer than the block; it is empty if all bytes are zero.

    Raises:
        ValueError: ``data`` is longer than ``BLOCK_MAX``.
    """
    found = ffi.new("uint8_t[16]")
    packed = _pack(data, found)
    return bytes(ffi.buffer(found)), packed


def compress(data: Buffer) -> bytes:
    """:func:`pack` for a caller who knows the digest."""
    return _pack(data, ffi.NULL)


def _pack(data: Buffer, found: object) -> bytes:
    view = ffi.from_buffer("uint8_t[]", data)
    packed = _scratch("uint8_t[]", len(view))
    length = ffi.new("size_t *")
    if lib.orion_block_pack(view, len(view), packed, len(view), length, found):
        raise ValueError(f"a block of {len(view)} bytes is longer than {BLOCK_MAX}")
    return bytes(ffi.buffer(packed, length[0]))


def squeeze(data: Buffer) -> bytes:
    """One block as small as lz4 makes it: one raw lz4 block, or as it is if that is no longer.

    Raises:
        ValueError: ``data`` is longer than ``BLOCK_MAX``.
    """
    view = ffi.from_buffer("uint8_t[]", data)
    packed = _scratch("uint8_t[]", len(view) or 1)
    length = ffi.new("size_t *")
    if lib.orion_block_squeeze(view, len(view), packed, length):
        raise ValueError(f"a block of {len(view)} bytes is longer than {BLOCK_MAX}")
    return bytes(ffi.buffer(packed, length[0]))


def unpack(packed: Buffer, length: int, digest: Buffer) -> bytes:
    """The block of ``length`` bytes that ``packed`` holds, verified.

    Raises:
        CorruptBlockError: ``packed`` is malformed, or its bytes do not have this digest.
        ValueError: ``length`` or ``digest`` cannot be those of a block.
    """
    expected = ffi.from_buffer("uint8_t[]", digest)
    if len(expected) != DIGEST_SIZE or not 0 <= length <= BLOCK_MAX:
        raise ValueError(f"no block has {length} bytes and a digest of {len(expected)}")
    view = ffi.from_buffer("uint8_t[]", packed)
    block = _scratch("uint8_t[]", length)
    result = lib.orion_block_unpack(view, len(view), expected, length, block)
    if result == 0:
        return bytes(ffi.buffer(block))
    raise CorruptBlockError("digest differs" if result == -errno.EBADMSG else "malformed")


def decompress(packed: Buffer, length: int) -> bytes:
    """The block of ``length`` bytes that ``packed`` holds, not verified: for a caller with another digest.

    Raises:
        CorruptBlockError: ``packed`` is no packed block of that length.
        ValueError: no block has that length.
    """
    if not 0 <= length <= BLOCK_MAX:
        raise ValueError(f"no block has {length} bytes")
    view = ffi.from_buffer("uint8_t[]", packed)
    block = _scratch("uint8_t[]", length)
    if lib.orion_block_unpack(view, len(view), ffi.NULL, length, block):
        raise CorruptBlockError("malformed")
    return bytes(ffi.buffer(block))


def lock_memory() -> None:
    """Keeps this process's pages in RAM from now on, each from the moment it is touched.

    Raises:
        OSError: EPERM or ENOMEM, where RLIMIT_MEMLOCK forbids it (root may always).
    """
    result = lib.orion_lock_memory()
    if result:
        raise OSError(-result, os.strerror(-result))


def rename_process(name: str) -> None:
    """Shows another command line for this process, if that is no longer than its own."""
    lib.orion_rename_process(name.encode())
