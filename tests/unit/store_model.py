"""A plain-Python model of SIEVE: slow, obvious, and written apart from the real one."""

from dataclasses import dataclass
from typing import Any


@dataclass
class Entry:
    key: bytes
    value: Any
    cost: int
    visited: bool = False


class SieveModel:
    """A list from the oldest to the newest entry, and the key at which the hand points."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.queue: list[Entry] = []
        self.hand: bytes | None = None

    def keys(self) -> set[bytes]:
        return {entry.key for entry in self.queue}

    def used(self) -> int:
        return sum(entry.cost for entry in self.queue)

    def find(self, key: bytes | None) -> int | None:
        return next((at for at, entry in enumerate(self.queue) if entry.key == key), None)

    def get(self, key: bytes) -> Any:
        at = self.find(key)
        if at is None:
            return None
        self.queue[at].visited = True
        return self.queue[at].value

    def pop(self, key: bytes) -> Any:
        at = self.find(key)
        if at is None:
            return None
        return self.remove(at).value

    def remove(self, at: int) -> Entry:
        entry = self.queue.pop(at)
        if self.hand == entry.key:
            self.hand = self.queue[at].key if at < len(self.queue) else None
        return entry

    def put(self, key: bytes, value: Any, cost: int) -> list[tuple[bytes, Any]]:
        known = self.pop(key) is not None
        if cost > self.budget:
            return [(key, value)]
        gone = []
        while self.used() + cost > self.budget:
            at = self.find(self.hand) or 0
            while self.queue[at].visited:
                self.queue[at].visited = False
                at = (at + 1) % len(self.queue)
            self.hand = self.queue[at].key
            entry = self.remove(at)
            gone.append((entry.key, entry.value))
        self.queue.append(Entry(key, value, cost, known))
        return gone
