"""How long a server takes to answer: a moving average, and quantiles of its last answers."""

import collections

# Quantiles are taken from the last so many answers, and taken anew after so many more.
KEPT = 512
RENEWED = 16

# A server's distance is the least of its last so many measures.
MEASURES = 8

# Weight of the last answer in the average.
WEIGHT = 1 / 8


class Latency:
    """Of one kind of question, in seconds.

    Attributes:
        count: answers so far.
        ewma: the moving average; 0 before the first answer.
        last: when the last answer came; minus infinity before the first.
    """

    __slots__ = ("_at", "_kept", "_sorted", "_sorted_count", "count", "ewma", "last")

    def __init__(self) -> None:
        self.count = 0
        self.ewma = 0.0
        self.last = float("-inf")
        self._kept: list[float] = []
        self._at = 0
        self._sorted: list[float] = []
        self._sorted_count = 0

    def add(self, seconds: float, now: float) -> None:
        """An answer took so long."""
        self.ewma = seconds if self.count == 0 else self.ewma + WEIGHT * (seconds - self.ewma)
        self.count += 1
        self.last = now
        if len(self._kept) < KEPT:
            self._kept.append(seconds)
        else:
            self._kept[self._at] = seconds
            self._at = (self._at + 1) % KEPT

    def quantile(self, part: float) -> float:
        """What so large a part of the last answers did not exceed; 0 before the first."""
        behind = self.count - self._sorted_count
        if behind >= RENEWED or (behind and self._sorted_count < RENEWED):
            self._sorted = sorted(self._kept)
            self._sorted_count = self.count
        return self._sorted[int(part * (len(self._sorted) - 1))] if self._sorted else 0.0

    def as_dict(self) -> dict[str, float]:
        """For the status: ``p50``, ``p95``, ``p99`` and ``ewma`` in milliseconds. For any thread."""
        kept = sorted(self._kept)
        quantiles = {
            name: kept[int(part * (len(kept) - 1))] if kept else 0.0
            for name, part in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
        }
        return {name: round(1000 * value, 3) for name, value in {**quantiles, "ewma": self.ewma}.items()}


class Distance:
    """What a round trip to a server costs: of questions so small that their answers wait in no queue.

    The least of the last few: a server whose every answer is late is far away; one that is late now and then
    is not.
    """

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: collections.deque[float] = collections.deque(maxlen=MEASURES)

    def add(self, seconds: float) -> None:
        """A small question took so long."""
        self._kept.append(seconds)

    @property
    def seconds(self) -> float:
        """Infinite as long as it is not known."""
        return min(self._kept, default=float("inf"))
