"""What followed a block on earlier boots: a model that ``orioncache prefetch train`` mined from traces."""

from __future__ import annotations

from orioncache.errors import UserError
from orioncache.prefetch.interface import READ, Candidate, Heuristic, Tunable, count, number
from orioncache.prefetch.successor_model import Model

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from orioncache.prefetch.interface import Access, View


class Successor(Heuristic):
    """Looks a few steps ahead, as far as their likelihood carries."""

    name = "successor"
    tunables = (
        Tunable("model", str, "", "file", "from orioncache prefetch train"),
        Tunable("least", number(0, 1), 0.3, "", "confidence below which nothing is said"),
        Tunable("ahead", count(1, 512), 48, "blocks", "the most that one access brings"),
    )
    model: str
    least: float
    ahead: int

    def __init__(self, settings: dict[str, object]) -> None:
        super().__init__(settings)
        if not self.model:
            raise UserError(
                "successor has no model", "successor:model=FILE; orioncache prefetch train makes it"
            )
        with open(self.model, "rb") as file:  # noqa: PTH123  # pathlib is slow to import
            self._model = Model(file.read(), self.model)
        self._seen: set[int] = set()

    def on_access(self, access: Access, view: View) -> Iterable[Candidate]:
        """What follows the blocks of this access, when they are asked for the first time."""
        if access.kind != READ:
            return ()
        found: list[Candidate] = []
        for block in view.blocks(access.inode, access.offset, access.length):
            if block not in self._seen:
                self._seen.add(block)
                digest = view.digest(block)
                known = self._model.find(digest) if digest else None
                if known is not None:
                    found += self._follow(known, view)
        return found

    def _follow(self, start: int, view: View) -> list[Candidate]:
        best: dict[int, tuple[float, float]] = {start: (1.0, 0.0)}
        todo = [start]
        found: list[Candidate] = []
        # In the order in which they were reached: nearer ones first.
        for number_ in todo:
            confidence, delay = best[number_]
            for other, more, later in self._model.successors(number_):
                likely = confidence * more
                if likely < self.least or other in best or len(best) > self.ahead:
                    continue
                best[other] = likely, delay + later
                todo.append(other)
                block = view.find(self._model.digest(other))
                if block is not None:
                    found.append(Candidate(block, likely, delay + later))
        return found
