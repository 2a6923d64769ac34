"""SIEVE: eviction with one bit per item and one hand (Zhang et al., "SIEVE is simpler than LRU", NSDI'24)."""

from collections.abc import Iterator
from typing import Generic, TypeVar

Value = TypeVar("Value")


class _Item(Generic[Value]):
    """One item in the queue, which runs from the newest to the oldest.

    Attributes:
        visited: it was asked for since the hand last passed it.
        newer, older: its neighbours in the queue; None at the ends.
    """

    __slots__ = ("cost", "key", "newer", "older", "value", "visited")

    def __init__(self, key: bytes, value: Value, cost: int, older: "_Item[Value] | None") -> None:
        self.key = key
        self.value = value
        self.cost = cost
        self.visited = False
        self.newer: _Item[Value] | None = None
        self.older = older


class Sieve(Generic[Value]):
    """A bounded map from bytes to values.

    New items enter at the newest end and never move. When room is needed the hand walks from where it last
    stopped towards newer items, clears the bit of each visited item that it meets, and evicts the first
    unvisited one.

    Invariant: the sum of all costs, ``used``, is at most ``budget`` whenever no call is under way.

    Attributes:
        budget: what all items together may cost.
        used: what they cost now.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.used = 0
        self._items: dict[bytes, _Item[Value]] = {}
        self._newest: _Item[Value] | None = None
        self._oldest: _Item[Value] | None = None
        # Where the next search begins; None: at the oldest.
        self._hand: _Item[Value] | None = None

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, key: bytes) -> bool:
        return key in self._items

    def __iter__(self) -> Iterator[bytes]:
        """All keys, in no order that means anything."""
        return iter(self._items)

    def get(self, key: bytes) -> Value | None:
        """The value, whose item counts as visited; None if there is none."""
        item = self._items.get(key)
        if item is None:
            return None
        item.visited = True
        return item.value

    def put(self, key: bytes, value: Value, cost: int) -> list[tuple[bytes, Value]]:
        """Adds an item, or replaces the one with the same key, and returns what had to go.

        An item that costs more than the whole budget comes back at once and nothing else goes for it.

        Args:
            key: the item's key.
            value: the item's value.
            cost: what it takes of the budget, in the budget's unit; not negative.
        """
        was_there = self.pop(key) is not None
        if cost > self.budget:
            return [(key, value)]
        evicted = self._make_room(cost)
        item = _Item(key, value, cost, self._newest)
        item.visited = was_there
        if self._newest is None:
            self._oldest = item
        else:
            self._newest.newer = item
        self._newest = item
        self._items[key] = item
        self.used += cost
        return evicted

    def pop(self, key: bytes) -> Value | None:
        """Takes an item out and returns its value; None if there is none."""
        item = self._items.get(key)
        if item is None:
            return None
        self._unlink(item)
        return item.value

    def _make_room(self, cost: int) -> list[tuple[bytes, Value]]:
        evicted = []
        while self.used + cost > self.budget:
            item = self._hand or self._oldest
            while item is not None and item.visited:
                item.visited = False
                item = item.newer or self._oldest
            if item is None:
                raise AssertionError("costs do not add up")
            self._hand = item
            self._unlink(item)
            evicted.append((item.key, item.value))
        return evicted

    def _unlink(self, item: _Item[Value]) -> None:
        if self._hand is item:
            self._hand = item.newer
        if item.newer is None:
            self._newest = item.older
        else:
            item.newer.older = item.older
        if item.older is None:
            self._oldest = item.newer
        else:
            item.older.newer = item.newer
        # Cut loose, so that it is freed now and not by a later garbage collection.
        item.newer = item.older = None
        del self._items[item.key]
        self.used -= item.cost
