"""How much may be on its way to one server speculatively: bandwidth × delay, less when demand suffers.

Bandwidth is the highest delivery rate of the last while and delay the shortest trip, as in BBR (Cardwell et
al., ACM Queue 14(5), 2016). Below that the window grows with each landing as TCP's does (RFC 5681): by what
landed at first, by one block a window later. It halves when demand reads take longer than they did.
"""

from __future__ import annotations

BLOCK = 128 << 10

# Twice the product keeps the link busy while requests are made up for.
GAIN = 2.0
# Rates older than this many landings are forgotten, half of them at a time.
MEMORY = 32
# Demand suffers when a read takes this many times its baseline, and a bit.
RISE = 2.0
RISE_FLOOR = 0.001
# A baseline creeps up by this part of the difference with each demand read: links change.
CREEP = 1 / 32
# The shortest trip does so with each landing, and far more slowly: a full window makes all trips long, and
# would take them for the link's own.
TRIP_CREEP = 1 / 16384

# Seconds of the shortest trip that are work and no waiting: what a node measures where nothing delays.
LOCAL = 0.0003


class _Best:
    """The greatest of the last values: those of this half of the memory, and of the half before."""

    __slots__ = ("before", "count", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self.before = 0.0
        self.count = 0

    def add(self, value: float) -> None:
        self.now = max(self.now, value)
        self.count += 1
        if self.count >= MEMORY:
            self.before, self.now, self.count = self.now, 0.0, 0

    def value(self) -> float:
        return max(self.now, self.before)


class Window:
    """The window of one server.

    Attributes:
        floor, cap: bytes; the window is never outside of them.
        in_flight: bytes on their way speculatively now.
        backed_off: how many times it was halved.
    """

    def __init__(self, floor: int, cap: int) -> None:
        self.floor = floor
        self.cap = cap
        self.in_flight = 0
        self.backed_off = 0
        self._grown = float(min(cap, max(floor, 4 * BLOCK)))
        self._starting = True
        self._rates = _Best()
        self._shortest = 0.0
        self._demand_rate = 0.0
        self._baseline = 0.0
        self._last_halved = -1.0

    @property
    def bandwidth(self) -> float:
        """Bytes a second; 0: not known yet."""
        return self._rates.value()

    @property
    def delay(self) -> float:
        """Seconds of the shortest trip; 0: not known yet."""
        return self._shortest

    def is_worth(self, size: int, confidence: float) -> bool:
        """Whether the wait that a speculative read may save is more than the work that it may waste.

        What a trip takes beyond ``LOCAL`` is waiting; all else is work for the node, and without a delay
        there is nothing but that. True while nothing was measured.
        """
        rate = max(self.bandwidth, self._demand_rate)
        if not rate or not self._shortest:
            return True
        return confidence * max(0.0, self._shortest - LOCAL) >= (1 - confidence) * (LOCAL + size / rate)

    @property
    def size(self) -> int:
        """Bytes that may be on their way."""
        size = self._grown
        product = GAIN * self.bandwidth * self.delay
        if product and not self._starting:
            size = min(size, product)
        return int(min(self.cap, max(self.floor, size)))

    def room(self) -> int:
        """Bytes that may still depart; negative when the window has shrunk."""
        return self.size - self.in_flight

    def departed(self, size: int) -> None:
        """A speculative read departed."""
        self.in_flight += size

    def landed(self, size: int, seconds: float, delivered: int) -> None:
        """A speculative read landed.

        Args:
            size: its bytes.
            seconds: from its departure.
            delivered: all speculative bytes that landed meanwhile, its own included.
        """
        self.in_flight -= size
        if seconds <= 0:
            return
        fastest = self.bandwidth
        self._rates.add(delivered / seconds)
        if not self._shortest or seconds < self._shortest:
            self._shortest = seconds
        self._shortest += (seconds - self._shortest) * TRIP_CREEP
        if self._starting and fastest and self._grown >= GAIN * 2 * fastest * self.delay:
            # Twice what the link could take at the last look: it grows no further.
            self._starting = False
        self._grown = min(
            float(self.cap), self._grown + (size if self._starting else size * BLOCK / self._grown)
        )

    def failed(self, size: int) -> None:
        """A speculative read brought nothing."""
        self.in_flight -= size
        self._halve()

    def demanded(self, now: float, size: int, seconds: float) -> None:
        """A demand read that no flight was there for took this long."""
        if seconds > 0:
            self._demand_rate = max(self._demand_rate, size / seconds)
            if not self._shortest or seconds < self._shortest:
                self._shortest = seconds
        if not self._baseline or seconds < self._baseline:
            self._baseline = seconds
            return
        # Once for each trip: reads that were on their way together suffered from the same.
        suffers = self.in_flight > 0 and seconds > RISE * self._baseline + RISE_FLOOR
        if suffers and now - self._last_halved >= seconds:
            self._last_halved = now
            self._halve()
        self._baseline += (seconds - self._baseline) * CREEP

    def _halve(self) -> None:
        self._starting = False
        self.backed_off += 1
        self._grown = max(float(self.floor), self._grown / 2)
