"""SIEVE against a model that does the same with a plain list."""

import itertools
import random
from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from orioncache.store.sieve import Sieve
from tests.unit.store_model import SieveModel

keys = st.integers(0, 12).map(lambda number: bytes([number]))
operations = st.lists(
    st.one_of(
        st.tuples(st.just("put"), keys, st.integers(0, 6)),
        st.tuples(st.just("get"), keys),
        st.tuples(st.just("pop"), keys),
    ),
    max_size=120,
)


@given(st.integers(0, 15), operations)
def test_does_what_the_model_does(budget, steps):
    sieve: Sieve[int] = Sieve(budget)
    model = SieveModel(budget)
    values = itertools.count()

    for step in steps:
        if step[0] == "put":
            value = next(values)
            assert sieve.put(step[1], value, step[2]) == model.put(step[1], value, step[2])
        elif step[0] == "get":
            assert sieve.get(step[1]) == model.get(step[1])
        else:
            assert sieve.pop(step[1]) == model.pop(step[1])
        assert set(sieve) == model.keys()
        assert len(sieve) == len(model.keys())
        assert sieve.used == model.used() <= budget


def test_the_hand_passes_the_visited_and_takes_the_next():
    sieve: Sieve[None] = Sieve(7)
    for letter in b"ABCDEFG":
        sieve.put(bytes([letter]), None, 1)
    for letter in b"ABG":
        sieve.get(bytes([letter]))

    gone = [sieve.put(bytes([letter]), None, 1)[0][0] for letter in b"HIJK"]

    assert gone == [b"C", b"D", b"E", b"F"]
    sieve.put(b"L", None, 1)
    assert b"G" in sieve, "it was visited when the hand passed it"
    assert b"H" not in sieve, "the newest unvisited one behind the hand goes next"


class Lru:
    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.items: OrderedDict[bytes, None] = OrderedDict()

    def get(self, key: bytes) -> bool:
        if key not in self.items:
            return False
        self.items.move_to_end(key)
        return True

    def put(self, key: bytes) -> None:
        self.items[key] = None
        if len(self.items) > self.capacity:
            self.items.popitem(last=False)


class S3Fifo:
    """The policy that was not chosen (Yang et al., SOSP'23): a small queue, a main one, and old keys."""

    def __init__(self, capacity: int) -> None:
        self.small_size, self.main_size = capacity // 10, capacity - capacity // 10
        self.small: OrderedDict[bytes, int] = OrderedDict()
        self.main: OrderedDict[bytes, int] = OrderedDict()
        self.ghost: OrderedDict[bytes, None] = OrderedDict()

    def get(self, key: bytes) -> bool:
        for queue in (self.small, self.main):
            if key in queue:
                queue[key] = min(queue[key] + 1, 3)
                return True
        return False

    def put(self, key: bytes) -> None:
        if key in self.ghost:
            del self.ghost[key]
            self.into_main(key)
            return
        self.small[key] = 0
        if len(self.small) > self.small_size:
            old, uses = self.small.popitem(last=False)
            if uses > 1:
                self.into_main(old)
            else:
                self.ghost[old] = None
                if len(self.ghost) > self.main_size:
                    self.ghost.popitem(last=False)

    def into_main(self, key: bytes) -> None:
        self.main[key] = 0
        while len(self.main) > self.main_size:
            old, uses = self.main.popitem(last=False)
            if uses:
                self.main[old] = uses - 1


class SieveAlone:
    def __init__(self, capacity: int) -> None:
        self.sieve: Sieve[bool] = Sieve(capacity)

    def get(self, key: bytes) -> bool:
        return self.sieve.get(key) or False

    def put(self, key: bytes) -> None:
        self.sieve.put(key, True, 1)


def use_and_scan(chance: random.Random, run: int) -> list[bytes]:
    """Blocks that many processes read, some more than others, and runs of blocks that are read once."""
    trace: list[bytes] = []
    for number in range(60_000 // (4 * run)):
        trace += [f"used {int(chance.paretovariate(0.7))}".encode() for _ in range(3 * run)]
        trace += [f"scanned {number}.{block}".encode() for block in range(run)]
    return trace


def test_a_scan_does_not_wash_out_what_is_in_use():
    """Capacity 300 blocks; runs that are shorter and longer than that."""
    print("\nhits in 60,000 reads of a cache for 300 blocks, a quarter of them in scans:")
    for run in (100, 1000, 5000):
        trace = use_and_scan(random.Random(1), run)
        share = {}
        for policy in (Lru, SieveAlone, S3Fifo):
            cache = policy(300)
            hits = 0
            for key in trace:
                if cache.get(key):
                    hits += 1
                else:
                    cache.put(key)
            share[policy] = hits / len(trace)
        print(
            f"  scans of {run:4}", *(f"{policy.__name__} {100 * hits:.1f}%" for policy, hits in share.items())
        )
        assert share[SieveAlone] > share[Lru]
