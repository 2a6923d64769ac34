"""Which block follows which, mined from traces: a small file that outlives a release, as it names digests.

Little-endian: magic ``ORIONSM\\n``, u32 version (1), u32 blocks, u32 successors, u32 0; for each block 16
bytes, the first of its digest, ascending; for each block and one more a u32, its first successor's number;
for each successor u32 its block's number, u16 confidence × 65535, u16 delay in ms; then the xxh3-128 of all
before.
"""

from __future__ import annotations

import struct

from orioncache.errors import UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAGIC = b"ORIONSM\n"
VERSION = 1
_HEADER = struct.Struct("<8sIIII")
_EDGE = struct.Struct("<IHH")
KEY = 16
_SEAL = 16

# How many of the blocks that come next count as successors; what is kept of them.
WINDOW = 16
KEEP = 16
LEAST = 0.25
# More than a release's worth of blocks; what is larger is no model.
BLOCKS_MOST = 1 << 22
EDGES_MOST = KEEP * BLOCKS_MOST


def train(traces: Iterable[Sequence[tuple[float, bytes]]]) -> bytes:
    """A model's bytes, from (seconds, digest) of each block's first demand, in order, for each trace.

    The confidence that c follows b is the part of the boots with b in which c came within the next ``WINDOW``
    blocks, less a bit for few boots: n/(n + ½).
    """
    seen: dict[bytes, int] = {}
    pairs: dict[tuple[bytes, bytes], list[float]] = {}
    for trace in traces:
        for position, (at, digest) in enumerate(trace):
            key = digest[:KEY]
            seen[key] = seen.get(key, 0) + 1
            for later, other in trace[position + 1 : position + 1 + WINDOW]:
                sums = pairs.setdefault((key, other[:KEY]), [0, 0.0])
                sums[0] += 1
                sums[1] += max(0.0, later - at)
    numbers = {key: number for number, key in enumerate(sorted(seen))}
    edges: list[list[tuple[float, float, int]]] = [[] for _ in numbers]
    for (key, other), (times, delay) in pairs.items():
        confidence = times / (seen[key] + 0.5)
        if confidence >= LEAST and key != other:
            edges[numbers[key]].append((-confidence, delay / times, numbers[other]))
    firsts, packed = [0], b""
    for successors in edges:
        # The likeliest are kept, and of equally likely ones those that come first.
        for confidence, delay, number in sorted(successors)[:KEEP]:
            packed += _EDGE.pack(number, round(-confidence * 65535), min(65535, round(delay * 1000)))
        firsts.append(len(packed) // _EDGE.size)
    body = (
        _HEADER.pack(MAGIC, VERSION, len(numbers), firsts[-1], 0)
        + b"".join(key.ljust(KEY, b"\0") for key in sorted(seen))
        + struct.pack(f"<{len(firsts)}I", *firsts)
        + packed
    )
    return body + _seal(body)


def _seal(body: bytes) -> bytes:
    from orioncache.native import digest  # noqa: PLC0415

    return digest(body)


class Model:
    """A model that was read.

    Attributes:
        blocks: how many blocks it knows.
    """

    def __init__(self, data: bytes, name: str = "model") -> None:
        """Opens it.

        Raises:
            UserError: it is no model, one of another version, or broken.
        """
        mend = "build it anew with orioncache prefetch train"
        if data[:8] != MAGIC or len(data) < _HEADER.size + _SEAL:
            raise UserError(f"{name} is no model of successors", mend)
        _, version, self.blocks, edges, _ = _HEADER.unpack_from(data)
        if version != VERSION:
            raise UserError(f"{name} has version {version} of the format, this program reads {VERSION}", mend)
        if self.blocks > BLOCKS_MOST or edges > EDGES_MOST:
            raise UserError(f"{name} claims {self.blocks} blocks", mend)
        self._firsts = _HEADER.size + KEY * self.blocks
        self._edges = self._firsts + 4 * (self.blocks + 1)
        length = self._edges + _EDGE.size * edges
        if len(data) != length + _SEAL or _seal(data[:length]) != data[length:]:
            raise UserError(f"{name} is damaged", mend)
        self._data = data
        self._count = edges

    def find(self, digest: bytes) -> int | None:
        """The number of a block; None if the model does not know it."""
        key = digest[:KEY].ljust(KEY, b"\0")
        low, high = 0, self.blocks
        while low < high:
            middle = (low + high) // 2
            if self.digest(middle) < key:
                low = middle + 1
            else:
                high = middle
        return low if low < self.blocks and self.digest(low) == key else None

    def digest(self, number: int) -> bytes:
        """The first bytes of a block's digest."""
        at = _HEADER.size + KEY * number
        return self._data[at : at + KEY]

    def successors(self, number: int) -> list[tuple[int, float, float]]:
        """Of a block: the others' numbers, confidences, and seconds until they are asked for."""
        first, end = struct.unpack_from("<2I", self._data, self._firsts + 4 * number)
        found = []
        for edge in range(min(first, self._count), min(end, self._count)):
            other, confidence, delay = _EDGE.unpack_from(self._data, self._edges + _EDGE.size * edge)
            if other < self.blocks:
                found.append((other, confidence / 65535, delay / 1000))
        return found
