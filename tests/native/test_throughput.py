"""The native pipeline beside python-lz4 and python-xxhash, and the store; ``-s`` prints the figures."""

import time
from pathlib import Path

import lz4.block
import xxhash

from orioncache import native
from orioncache.store import BlockStore

SIZE = 128 << 10
ROUNDS = 200


def best(work) -> float:
    """Seconds of the fastest of many calls: what the machine can do, whoever else is on it."""
    fastest = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        fastest = min(fastest, time.perf_counter() - started)
    return fastest


def test_throughput():
    program = Path("/usr/bin/python3").read_bytes()
    block = program[len(program) // 2 :][:SIZE]
    digest, packed = native.pack(block)

    def python_unpack():
        again = lz4.block.decompress(packed, uncompressed_size=SIZE)
        assert xxhash.xxh3_128_digest(again) == digest

    pairs = {
        "digest": (lambda: native.digest(block), lambda: xxhash.xxh3_128_digest(block)),
        "pack": (
            lambda: native.pack(block),
            lambda: (xxhash.xxh3_128_digest(block), lz4.block.compress(block, store_size=False)),
        ),
        "unpack": (lambda: native.unpack(packed, SIZE, digest), python_unpack),
    }
    print(
        f"\n{SIZE >> 10} KiB of {len(program) >> 10} KiB python3, packed to {100 * len(packed) / SIZE:.0f}%"
    )
    for name, (ours, theirs) in pairs.items():
        mine, other = best(ours), best(theirs)
        print(
            f"{name:8}{mine * 1e6:7.1f} µs {SIZE / mine / 1e9:6.2f} GB/s   "
            f"python-lz4 + xxhash {other * 1e6:7.1f} µs   ratio {mine / other:.2f}"
        )
        # Far above the noise of a shared machine, far below what a copy per byte in Python would cost.
        assert mine < 3 * other + 20e-6, name


def test_store_throughput():
    """What the event loop pays for a block while both levels are full: one is packed for each that enters."""
    program = Path("/usr/bin/python3").read_bytes()
    blocks = [program[start : start + SIZE] for start in range(0, len(program) - SIZE, SIZE // 4)]
    keys = [native.digest(block) for block in blocks]
    store = BlockStore(4 << 20, 4 << 20)
    for block, key in zip(blocks, keys, strict=True):
        store.put(block, key)
    assert store.statistics().evictions

    # The blocks put last are found, as they are or packed; those before them are put anew.
    costs: dict[str, list[float]] = {"get, raw": [], "get, packed": [], "put": []}
    for block, key in reversed(list(zip(blocks, keys, strict=True))):
        level = "get, packed" if key in store._packed else "get, raw" if key in store else "put"
        started = time.perf_counter()
        if level == "put":
            store.put(block, key)
        else:
            store.get(key)
        costs[level].append(time.perf_counter() - started)

    print("\none 128 KiB block, both levels full:")
    for name, samples in costs.items():
        assert len(samples) > 10, name
        print(f"  {name:12} {1e6 * sorted(samples)[len(samples) // 2]:7.1f} µs (median of {len(samples)})")
