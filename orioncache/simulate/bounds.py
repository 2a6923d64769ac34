"""What no prefetch can beat: a link without limits, and a prefetcher that knows the boot ahead."""

import dataclasses
from collections.abc import Iterable, Sequence

from orioncache.prefetch.interface import Access, Candidate, Heuristic, View
from orioncache.simulate.boot import Boot, SimulatedView
from orioncache.simulate.model import Scene
from orioncache.simulate.recording import Recording

# A clairvoyant needs no caution.
UNLIMITED = {"floor": 1 << 30, "cap": 1 << 30, "memory": 1 << 40, "patience": 3600.0}


class Clairvoyant(Heuristic):
    """Asks for every block of a boot that is known, in the order in which it will be wanted."""

    name = "clairvoyant"

    def __init__(self, order: Sequence[int]) -> None:
        super().__init__({})
        self._order = order

    def begin(self, view: View) -> Iterable[Candidate]:
        """All of it."""
        return (Candidate(block, 1.0, position * 1e-6) for position, block in enumerate(self._order))

    def on_access(self, access: Access, view: View) -> Iterable[Candidate]:
        """Nothing new."""
        return ()


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Seconds that a boot takes at least, from the first request to the last answer.

    Attributes:
        infinite_link: everything is in the page cache; only computing is left.
        clairvoyant: each block departs as early as the link allows, in the order of its use.
    """

    infinite_link: float
    clairvoyant: float


def bounds(recording: Recording, view: SimulatedView, scene: Scene) -> Bounds:
    """Both bounds, over this link."""
    infinite = Boot(recording, view, [], scene, warm=True).run().seconds
    plain = dataclasses.replace(scene, read_around=0)
    first = Boot(recording, view, [], plain)
    without = first.run().seconds
    ahead = Boot(recording, view, [Clairvoyant(list(first.order))], plain, limits=UNLIMITED)
    # On one processor even what is fetched in time takes time: with no delay it may not be worth it.
    return Bounds(infinite, min(without, ahead.run().seconds))
