"""Budgets are of real memory: what Python allocates is held against what the store counts."""

import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable

import pytest

from orioncache.store import BlockStore, LiveIndex
from orioncache.store.index import ENTRY_COST


def allocated(fill: Callable[[], object]) -> tuple[int, object]:
    """Bytes that are allocated after ``fill`` and were not before, and what it made."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        made = fill()
        return tracemalloc.get_traced_memory()[0] - before, made
    finally:
        tracemalloc.stop()


# 5462 and 10923: a dictionary has just grown there, and is two thirds empty.
@pytest.mark.parametrize("blocks", [1000, 5462, 10923])
@pytest.mark.parametrize("length", [16, 700])
def test_small_blocks(blocks, length):
    def fill(cache_size: int, compressed_size: int) -> BlockStore:
        store = BlockStore(cache_size, compressed_size)
        for _ in range(blocks):
            store.put(os.urandom(length))
        return store

    for sizes in ((1 << 30, 0), (0, 1 << 30)):
        real, store = allocated(lambda sizes=sizes: fill(*sizes))
        now = store.statistics()
        assert now.raw_blocks + now.packed_blocks == blocks
        counted = now.raw_bytes + now.packed_bytes
        assert 0.5 * counted < real <= counted


def test_large_blocks_that_come_and_go():
    def fill() -> BlockStore:
        store = BlockStore(4 << 20, 2 << 20)
        keys = [store.put(os.urandom(65536) + b"orionos " * 8192) for _ in range(120)]
        for key in keys:
            store.get(key)
        return store

    real, store = allocated(fill)
    now = store.statistics()
    assert now.evictions > 0 < now.packed_hits
    assert 0.9 * (6 << 20) < real <= now.raw_bytes + now.packed_bytes <= 6 << 20


@pytest.mark.parametrize("entries", [5462, 32768])
def test_index(entries):
    def fill() -> LiveIndex:
        index = LiveIndex(entries)
        for number in range(2 * entries):
            index.put(os.urandom(16), number, os.urandom(16))
        return index

    real, index = allocated(fill)
    assert len(index) == entries
    assert real <= entries * ENTRY_COST


CHURN = """
import random
from pathlib import Path
from orioncache.store import BlockStore

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

chance, content = random.Random(1), Path("/usr/bin/python3").read_bytes()
before = resident()
store, keys, peak = BlockStore(24 << 20, 24 << 20), [], 0
for number in range(6000):
    length = (128 << 10) if number % 2 else int(2 ** chance.uniform(8, 17))
    start = chance.randrange(len(content) - length)
    keys.append(store.put(number.to_bytes(8, "little") + content[start : start + length - 8]))
    store.get(chance.choice(keys[-600:]))
    peak = max(peak, resident() - before)
now = store.statistics()
assert now.evictions and now.packed_hits
print(peak, now.cache_size + now.compressed_size)
"""


def test_resident_memory_of_a_process_that_churns():
    """Block lengths of all sizes, so that the allocator's holes count too; the daemon's real memory."""
    done = subprocess.run([sys.executable, "-c", CHURN], capture_output=True, text=True, check=True)
    peak, budget = map(int, done.stdout.split())
    print(f"resident {peak / 2**20:.1f} MiB at most, for budgets of {budget / 2**20:.0f} MiB")
    assert 0.9 * budget < peak < 1.15 * budget
