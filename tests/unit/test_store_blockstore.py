"""The two-level store against a model of it, under random histories with damage in between."""

import os

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from orioncache import native
from orioncache.store import BlockStore
from orioncache.store.blockstore import ZERO_LENGTHS, cost
from tests.unit.store_model import SieveModel

# Noise (kept as it is), text (a tenth when packed), half and half, zeros; short and long.
BLOCKS = [
    *(os.urandom(length) for length in (1, 100, 1000, 3000)),
    *(f"{number} ".encode() * length for number, length in enumerate((100, 700, 1000, 1500, 1900))),
    *(os.urandom(length) + b"orion" * length for length in (50, 200, 400)),
    *(bytes(length) for length in (1, 512, 4096)),
]
KEYS = [xxhash.xxh3_128_digest(block) for block in BLOCKS]
numbers = st.integers(0, len(BLOCKS) - 1)
budgets = st.sampled_from((0, 300, 1500, 3000, 6000, 12000))


class StoreModel:
    """The contract of BlockStore; ``packed`` holds the block's number, and whether it is sound."""

    def __init__(self, cache_size: int, compressed_size: int) -> None:
        self.raw = SieveModel(cache_size)
        self.packed = SieveModel(compressed_size)
        self.zeros: set[bytes] = set()
        self.failures = 0

    def keep(self, number: int) -> None:
        for _, old in self.raw.put(KEYS[number], number, cost(len(BLOCKS[number]))):
            if self.packed.budget >= cost(0):
                self.packed.put(KEYS[old], (old, True), cost(len(native.compress(BLOCKS[old]))))

    def put(self, number: int) -> None:
        if self.raw.get(KEYS[number]) is not None:
            return
        if not any(BLOCKS[number]):
            self.zeros.add(KEYS[number])
            return
        self.packed.pop(KEYS[number])
        self.keep(number)

    def get(self, number: int) -> bytes | None:
        if self.raw.get(KEYS[number]) is not None or KEYS[number] in self.zeros:
            return BLOCKS[number]
        entry = self.packed.get(KEYS[number])
        if entry is None:
            return None
        if not entry[1]:
            self.failures += 1
            self.packed.pop(KEYS[number])
            return None
        if cost(len(BLOCKS[number])) <= self.raw.budget:
            self.packed.pop(KEYS[number])
            self.keep(number)
        return BLOCKS[number]

    def drop(self, number: int) -> bool:
        was_zero = KEYS[number] in self.zeros
        self.zeros.discard(KEYS[number])
        gone = (self.raw.pop(KEYS[number]), self.packed.pop(KEYS[number]))
        return was_zero or gone != (None, None)


class TwoLevels(RuleBasedStateMachine):
    @initialize(cache_size=budgets, compressed_size=budgets)
    def make(self, cache_size: int, compressed_size: int) -> None:
        self.store = BlockStore(cache_size, compressed_size)
        self.model = StoreModel(cache_size, compressed_size)
        self.calls = 0

    @rule(number=numbers, how=st.sampled_from(("own key", "given key", "view")))
    def put(self, number: int, how: str) -> None:
        block = memoryview(BLOCKS[number]) if how == "view" else BLOCKS[number]
        assert self.store.put(block, KEYS[number] if how == "given key" else None) == KEYS[number]
        self.model.put(number)

    @rule(number=numbers)
    def get(self, number: int) -> None:
        self.calls += 1
        assert self.store.get(KEYS[number]) == self.model.get(number)

    @rule(number=numbers)
    def drop(self, number: int) -> None:
        assert self.store.drop(KEYS[number]) == self.model.drop(number)

    @rule(number=numbers, flip=st.integers(1, 255))
    def damage(self, number: int, flip: int) -> None:
        """RAM goes bad: the last byte of a packed block changes."""
        item = self.store._packed._items.get(KEYS[number])
        if item is None:
            return
        value = item.value
        object.__setattr__(value, "data", value.data[:-1] + bytes([value.data[-1] ^ flip]))
        try:
            sound = native.unpack(value.data, value.length, KEYS[number]) == BLOCKS[number]
        except native.CorruptBlockError:
            sound = False
        self.model.packed.queue[self.model.packed.find(KEYS[number])].value = (number, sound)

    @invariant()
    def levels_are_the_models(self) -> None:
        if not hasattr(self, "store"):
            return
        raw, packed = set(self.store._raw), set(self.store._packed)
        assert raw == self.model.raw.keys()
        assert packed == self.model.packed.keys()
        assert not raw & packed
        for key in KEYS:
            assert (key in self.store) == (key in raw | packed | self.model.zeros)

    @invariant()
    def figures_add_up(self) -> None:
        if not hasattr(self, "store"):
            return
        now = self.store.statistics()
        assert now.raw_bytes == self.model.raw.used() <= now.cache_size
        assert now.packed_bytes == self.model.packed.used() <= now.compressed_size
        assert now.raw_blocks + now.packed_blocks == len(self.store)
        assert now.packed_content_bytes == sum(len(BLOCKS[e.value[0]]) for e in self.model.packed.queue)
        assert now.hits + now.packed_hits + now.zero_hits + now.misses == self.calls
        assert now.verify_failures == self.model.failures


TestTwoLevels = TwoLevels.TestCase


@given(st.binary(max_size=5000))
def test_what_is_put_is_got(block):
    store = BlockStore(8192, 0)
    key = store.put(block)

    assert key == xxhash.xxh3_128_digest(block)
    assert store.get(key) == block


def test_equal_blocks_are_stored_once():
    store = BlockStore(1 << 20, 1 << 20)
    for _ in range(5):
        store.put(bytearray(b"the same block in five files" * 100))

    now = store.statistics()
    assert (now.raw_blocks, now.packed_blocks, now.duplicates) == (1, 0, 4)


def test_a_block_comes_back_from_the_second_level():
    store = BlockStore(cost(2000), 1 << 20)
    first = store.put(b"first" * 400)
    second = store.put(b"other" * 400)

    assert store.statistics().demotions == 1
    assert store.get(first) == b"first" * 400
    assert store.get(second) == b"other" * 400
    now = store.statistics()
    assert (now.packed_hits, now.misses, now.raw_blocks, now.packed_blocks) == (2, 0, 1, 1)


def test_without_a_second_level_what_is_evicted_is_gone():
    store = BlockStore(cost(2000), 0)
    first = store.put(b"first" * 400)
    store.put(b"other" * 400)

    assert store.get(first) is None
    now = store.statistics()
    assert (now.evictions, now.demotions, now.misses) == (1, 0, 1)


def test_a_damaged_block_is_never_served():
    store = BlockStore(cost(2000), 1 << 20)
    key = store.put(b"first" * 400)
    store.put(b"other" * 400)
    packed = store._packed._items[key].value
    object.__setattr__(packed, "data", native.compress(b"wrong" * 400))

    assert store.get(key) is None
    assert key not in store
    now = store.statistics()
    assert (now.verify_failures, now.misses, now.packed_hits) == (1, 1, 0)
    store.put(b"first" * 400)
    assert store.get(key) == b"first" * 400


def test_zero_blocks_cost_nothing():
    store = BlockStore(0, 0)
    keys = {length: store.put(bytes(length)) for length in (0, 1, 4096, native.BLOCK_MAX)}

    for length, key in keys.items():
        assert store.get(key) == bytes(length)
    now = store.statistics()
    assert (now.raw_bytes, now.packed_bytes, now.zero_hits) == (0, 0, 4)


def test_lengths_of_zero_blocks_are_bounded():
    store = BlockStore(0, 0)
    keys = [store.put(bytes(length)) for length in range(3 * ZERO_LENGTHS)]

    assert sum(key in store for key in keys) == ZERO_LENGTHS
    assert store.get(keys[-1]) is not None


def test_a_block_too_large_for_the_first_level_lives_in_the_second():
    store = BlockStore(1000, 1 << 20)
    key = store.put(b"large" * 1000)

    assert [store.get(key) for _ in range(3)] == [b"large" * 1000] * 3
    now = store.statistics()
    assert (now.raw_blocks, now.packed_blocks, now.demotions) == (0, 1, 1)


def test_bad_arguments():
    store = BlockStore(1 << 20, 0)
    with pytest.raises(ValueError, match="16 bytes, not 3"):
        store.put(b"block", b"key")
    with pytest.raises(ValueError, match="longer than"):
        store.put(bytes(native.BLOCK_MAX + 1), bytes(16))
    assert len(store) == 0


def test_statistics_as_dict():
    store = BlockStore(4096, 2048)
    store.put(b"block")

    figures = store.statistics().as_dict()
    assert figures["cache_size"] == 4096
    assert figures["raw_bytes"] == cost(5)
    assert all(isinstance(value, int) for value in figures.values())
