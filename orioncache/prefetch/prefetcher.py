"""Heuristics, guards and scheduler put together: what a node runs, and the simulator runs the same."""

from __future__ import annotations

from orioncache.prefetch import registry, settings
from orioncache.prefetch.guard import Guard, Watchdog
from orioncache.prefetch.scheduler import Scheduler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from orioncache.prefetch.interface import Access, Candidate, Heuristic, View

# Precision is judged once in so many accesses.
JUDGED_EACH = 64


def create(choices: Sequence[settings.Choice]) -> list[Heuristic]:
    """The heuristics that were chosen.

    Raises:
        UserError: one is not known, cannot be loaded, or has a value that is wrong.
    """
    return [settings.create(registry.load(choice.name), choice.settings) for choice in choices]


class Prefetcher:
    """What is fetched ahead during one boot. All calls come from one thread.

    Attributes:
        view: of the release.
        scheduler: asked by :meth:`Scheduler.take` what departs, told what has landed.
        guards: the heuristics.
    """

    def __init__(
        self,
        heuristics: Sequence[Heuristic],
        view: View,
        *,
        tell: Callable[[str], None],
        servers: int = 1,
        limits: Mapping[str, Any] | None = None,
    ) -> None:
        """Makes one.

        Args:
            heuristics: from :func:`create`.
            view: of the release.
            tell: told what happened, in one line: an event.
            servers: how many may be read from.
            limits: the scheduler's.
        """
        self.view = view
        self._watchdog = Watchdog()
        self.guards = [Guard(each, tell, self._watchdog) for each in heuristics]
        self.scheduler = Scheduler(view.length, view.is_cached, servers=servers, limits=limits)
        self._accesses = 0

    def begin(self, now: float) -> None:
        """The release is there."""
        for guard in self.guards:
            self._offer(now, guard, guard.begin(self.view))

    def accessed(self, now: float, access: Access) -> None:
        """A request was answered."""
        self._accesses += 1
        for guard in self.guards:
            self._offer(now, guard, guard.on_access(access, self.view))
            if self._accesses % JUDGED_EACH == 0 and guard.judge(self.scheduler.counts(guard.name)):
                self.scheduler.withdraw(guard.name)

    def landed(self, now: float, block: int) -> None:
        """A speculative flight has brought its block."""
        self.scheduler.landed(now, block)
        for guard in self.guards:
            self._offer(now, guard, guard.on_landed(block, self.view))

    def close(self) -> None:
        """The boot is over."""
        self._watchdog.close()
        self.scheduler.finish()

    def _offer(self, now: float, guard: Guard, candidates: Sequence[Candidate]) -> None:
        if candidates:
            self.scheduler.offer(now, guard.name, candidates)
        elif guard.cut:
            self.scheduler.withdraw(guard.name)
