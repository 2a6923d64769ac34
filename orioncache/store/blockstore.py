"""Blocks in RAM: as they are in a first level, lz4-packed in a second one, each once and under its digest."""

import dataclasses

from orioncache import native
from orioncache.store.sieve import Sieve

# What a stored block takes beside its bytes: the bytes object's header, the key, the queue's item, the slot
# in the dictionary when that has just grown, the allocator's rounding. tests/unit/test_store_memory.py holds
# it against what Python really allocates.
BLOCK_OVERHEAD = 384

# Blocks as large as this get pages of their own from malloc. Its header and Python's (64 bytes) start one
# page more when the block itself is a whole number of them, and the last page is paid for whole.
PAGES_FROM = 128 << 10
PAGE = 4096
HEADERS = 64

# All-zero blocks are remembered by their length alone; a store has few lengths, the last blocks of files
# apart.
ZERO_LENGTHS = 64


@dataclasses.dataclass(frozen=True)
class Statistics:
    """What a store did since it was made, and what it holds now.

    Attributes:
        hits: blocks found as they are.
        packed_hits: blocks found packed, unpacked and verified.
        zero_hits: blocks found to be all zero.
        misses: blocks not found.
        duplicates: blocks put that were there already.
        demotions: blocks that went from the first level to the second.
        evictions: blocks that left the store for want of room.
        verify_failures: packed blocks that were not what they had been, and were thrown away.
        raw_blocks: blocks in the first level.
        raw_bytes: bytes of RAM that they take, overhead included; at most ``cache_size``.
        packed_blocks: blocks in the second level.
        packed_bytes: bytes of RAM that they take, overhead included; at most ``compressed_size``.
        packed_content_bytes: bytes that they would have unpacked.
        cache_size: the first level's budget in bytes.
        compressed_size: the second level's budget in bytes.
    """

    hits: int = 0
    packed_hits: int = 0
    zero_hits: int = 0
    misses: int = 0
    duplicates: int = 0
    demotions: int = 0
    evictions: int = 0
    verify_failures: int = 0
    raw_blocks: int = 0
    raw_bytes: int = 0
    packed_blocks: int = 0
    packed_bytes: int = 0
    packed_content_bytes: int = 0
    cache_size: int = 0
    compressed_size: int = 0

    def as_dict(self) -> dict[str, int]:
        """The fields by name, for JSON."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(slots=True)
class _Counters:
    hits: int = 0
    packed_hits: int = 0
    zero_hits: int = 0
    misses: int = 0
    duplicates: int = 0
    demotions: int = 0
    evictions: int = 0
    verify_failures: int = 0
    packed_content_bytes: int = 0


@dataclasses.dataclass(slots=True, frozen=True)
class _Packed:
    """A packed block and the length that it has unpacked."""

    data: bytes
    length: int


def cost(length: int) -> int:
    """Bytes of RAM that a stored string of ``length`` bytes takes, overhead included."""
    if length >= PAGES_FROM:
        length = -(-(length + HEADERS) // PAGE) * PAGE
    return length + BLOCK_OVERHEAD


class BlockStore:
    """Blocks by the 16-byte xxh3-128 of their content, within two byte budgets.

    A block enters the first level. What SIEVE evicts from there is packed (lz4, or as it is where that saves
    too little) and enters the second; what is evicted from there is gone. A hit in the second level is
    verified against its digest and moves back up; a block that fails is thrown away and counts as a miss, so
    that the caller fetches it anew. A block that is too large for the first level stays in the second.

    Invariants, whenever no call is under way: a block is in at most one level; neither level takes more RAM
    than its budget, overhead included; all-zero blocks are in neither.

    Threads: all calls but :meth:`statistics` must come from one thread, the event loop's. None waits for
    anything. The most that one costs is the packing of what had to leave, 0.1 to 0.2 ms for each 128 KiB
    block (docs/store.md), which is less than handing it to a thread and back would take from the reads that
    are waiting. Take the digest where the block was read, in the reader's thread, and hand it to :meth:`put`.
    """

    def __init__(self, cache_size: int, compressed_size: int) -> None:
        """An empty store.

        Args:
            cache_size: bytes of RAM for blocks as they are.
            compressed_size: bytes of RAM for packed blocks; 0: no second level.
        """
        self._raw: Sieve[bytes] = Sieve(cache_size)
        self._packed: Sieve[_Packed] = Sieve(compressed_size)
        self._zeros: dict[bytes, int] = {}
        self._count = _Counters()

    def __len__(self) -> int:
        """Blocks in both levels."""
        return len(self._raw) + len(self._packed)

    def __contains__(self, key: bytes) -> bool:
        """Whether :meth:`get` would find a block; counts as no use of it."""
        return key in self._raw or key in self._packed or key in self._zeros

    def get(self, key: bytes) -> bytes | None:
        """The block with this digest; None if it is not here."""
        block = self._raw.get(key)
        if block is not None:
            self._count.hits += 1
            return block
        length = self._zeros.get(key)
        if length is not None:
            self._count.zero_hits += 1
            return bytes(length)
        packed = self._packed.get(key)
        if packed is None:
            self._count.misses += 1
            return None
        try:
            block = native.unpack(packed.data, packed.length, key)
        except native.CorruptBlockError:
            self._count.verify_failures += 1
            self._count.misses += 1
            self._forget_packed(key)
            return None
        self._count.packed_hits += 1
        if cost(packed.length) <= self._raw.budget:
            self._forget_packed(key)
            self._keep(key, block)
        return block

    def put(self, data: native.Buffer, key: bytes | None = None) -> bytes:
        """Stores one block, if any budget has room for it, and returns its digest.

        Args:
            data: the block, at most ``native.BLOCK_MAX`` bytes; copied unless it is ``bytes``.
            key: its digest, if the caller has just taken it; it is not checked.

        Raises:
            ValueError: ``data`` is too long, or ``key`` is no digest.
        """
        block = bytes(data)
        if key is None:
            key = native.digest(block)
        elif len(key) != native.DIGEST_SIZE:
            raise ValueError(f"a digest has {native.DIGEST_SIZE} bytes, not {len(key)}")
        if len(block) > native.BLOCK_MAX:
            raise ValueError(f"a block of {len(block)} bytes is longer than {native.BLOCK_MAX}")
        if self._raw.get(key) is not None or key in self._zeros:
            self._count.duplicates += 1
        elif native.is_zero(block):
            if len(self._zeros) >= ZERO_LENGTHS:
                del self._zeros[next(iter(self._zeros))]
            self._zeros[key] = len(block)
        else:
            if self._forget_packed(key):
                self._count.duplicates += 1
            self._keep(key, block)
        return key

    def drop(self, key: bytes) -> bool:
        """Forgets a block; whether it was here."""
        was_raw = self._raw.pop(key) is not None
        was_zero = self._zeros.pop(key, None) is not None
        return self._forget_packed(key) or was_raw or was_zero

    def statistics(self) -> Statistics:
        """The figures of this moment; may be called from any thread."""
        return Statistics(
            **dataclasses.asdict(self._count),
            raw_blocks=len(self._raw),
            raw_bytes=self._raw.used,
            packed_blocks=len(self._packed),
            packed_bytes=self._packed.used,
            cache_size=self._raw.budget,
            compressed_size=self._packed.budget,
        )

    def _keep(self, key: bytes, block: bytes) -> None:
        for old_key, old_block in self._raw.put(key, block, cost(len(block))):
            self._demote(old_key, old_block)

    def _demote(self, key: bytes, block: bytes) -> None:
        # Do not pack what cannot be kept: the least that a packed block costs is its overhead.
        if self._packed.budget < BLOCK_OVERHEAD:
            self._count.evictions += 1
            return
        packed = native.compress(block)
        self._count.demotions += 1
        self._count.packed_content_bytes += len(block)
        for _, gone in self._packed.put(key, _Packed(packed, len(block)), cost(len(packed))):
            self._count.evictions += 1
            self._count.packed_content_bytes -= gone.length

    def _forget_packed(self, key: bytes) -> bool:
        packed = self._packed.pop(key)
        if packed is None:
            return False
        self._count.packed_content_bytes -= packed.length
        return True
