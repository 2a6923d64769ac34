"""Which blocks to keep: the store's SIEVE against the policies of libCacheSim, on a trace's blocks.

Every READ's blocks in order go through a cache of so many bytes, which keeps what it missed. This is the
store alone: a node's kernel has its page cache in front of it, so that few blocks come twice.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

from orioncache.errors import UserError
from orioncache.simulate.boot import SimulatedView
from orioncache.simulate.recording import Recording
from orioncache.store.sieve import Sieve

OURS = "sieve (ours)"
# libCacheSim's names, from simple to clairvoyant.
RIVALS = (
    "FIFO",
    "LRU",
    "Clock",
    "LFU",
    "ARC",
    "TwoQ",
    "SLRU",
    "LIRS",
    "GDSF",
    "WTinyLFU",
    "S3FIFO",
    "Sieve",
    "Belady",
)
# Its hash table has 2**this places; the default of 2**24 takes 128 MB.
_HASH_POWER = 16


@dataclasses.dataclass(frozen=True)
class Policy:
    """What one policy did.

    Attributes:
        name: its name.
        requests: blocks asked for.
        misses: blocks that were not there.
        bytes, missed_bytes: the same in bytes.
    """

    name: str
    requests: int
    misses: int
    bytes: int
    missed_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """All figures, with the miss ratios (0 to 1)."""
        return dataclasses.asdict(self) | {
            "miss_ratio": self.misses / self.requests,
            "byte_miss_ratio": self.missed_bytes / self.bytes,
        }


def accesses(recording: Recording, view: SimulatedView) -> Iterator[tuple[int, int]]:
    """Blocks and their bytes, as the requests ask for them."""
    for step in recording.steps:
        touch = step.touch
        for block in view.blocks(touch.inode, touch.offset, touch.length):
            yield block, view.length(block)


def compare(recording: Recording, view: SimulatedView, cache_size: int) -> list[Policy]:
    """All policies on a recording, the best first.

    Args:
        recording: the boot.
        view: its release.
        cache_size: bytes.

    Raises:
        UserError: libcachesim is not installed, or the cache is smaller than a block.
    """
    try:
        import libcachesim  # noqa: PLC0415
    except ImportError:
        raise UserError("libcachesim is not installed", "pip install 'orioncache[workbench]'") from None
    if cache_size < view.block_size:
        raise UserError(f"a cache of {cache_size} bytes holds no block", f"at least {view.block_size}")
    stream = list(accesses(recording, view))
    found = [_run(OURS, stream, _ours(cache_size))]
    found += [_run(name.lower(), stream, _rival(libcachesim, name, cache_size, stream)) for name in RIVALS]
    return sorted(found, key=lambda each: each.missed_bytes)


def rows(policies: Sequence[Policy]) -> list[tuple[str, ...]]:
    """A table."""
    head: tuple[str, ...] = ("policy", "blocks", "misses", "missed", "MiB missed", "of bytes")
    return [head] + [
        (
            each.name,
            f"{each.requests:,}",
            f"{each.misses:,}",
            f"{100 * each.misses / each.requests:.1f}%",
            f"{each.missed_bytes / 2**20:.1f}",
            f"{100 * each.missed_bytes / each.bytes:.1f}%",
        )
        for each in policies
    ]


def _run(name: str, stream: Sequence[tuple[int, int]], get: Callable[[int, int, int], bool]) -> Policy:
    misses = missed = total = 0
    for position, (block, length) in enumerate(stream):
        total += length
        if not get(block, length, position):
            misses += 1
            missed += length
    return Policy(name, len(stream), misses, total, missed)


def _ours(cache_size: int) -> Callable[[int, int, int], bool]:
    sieve: Sieve[int] = Sieve(cache_size)

    def get(block: int, length: int, position: int) -> bool:
        key = block.to_bytes(4, "little")
        if sieve.get(key) is not None:
            return True
        sieve.put(key, block, length)
        return False

    return get


def _rival(
    library: ModuleType, name: str, cache_size: int, stream: Sequence[tuple[int, int]]
) -> Callable[[int, int, int], bool]:
    cache = getattr(library, name)(cache_size=cache_size, hashpower=_HASH_POWER)
    # Belady's algorithm is told when each block is asked for next.
    following = [len(stream) * 2] * len(stream)
    last: dict[int, int] = {}
    for position in range(len(stream) - 1, -1, -1):
        block = stream[position][0]
        following[position] = last.get(block, following[position])
        last[block] = position
    request = library.Request()

    def get(block: int, length: int, position: int) -> bool:
        request.obj_id = block
        request.obj_size = length
        request.clock_time = position
        request.next_access_vtime = following[position]
        return bool(cache.get(request))

    return get
