"""Replay of a profile: what boots of this role read before, in its order.

On a node that boots a release with a bundle the engine streams that, which is faster. This is for releases
without one, and for the simulator. Profiles are read with packages of the workbench.
"""

from __future__ import annotations

from orioncache.errors import UserError
from orioncache.prefetch.interface import Candidate, Heuristic, Tunable, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from orioncache.prefetch.interface import Access, View


class Profile(Heuristic):
    """Asks for a profile's blocks, those first that were wanted first."""

    name = "profile"
    tunables = (
        Tunable("file", str, "", "file", "from orioncache profile build"),
        Tunable("share", number(0, 1), 0.5, "", "blocks that fewer boots had are left out"),
    )
    file: str
    share: float

    def __init__(self, settings: dict[str, object]) -> None:
        super().__init__(settings)
        if not self.file:
            raise UserError("profile has no file", "profile:file=FILE; orioncache profile build makes it")
        from pathlib import Path  # noqa: PLC0415

        from orioncache.profile.format import read  # noqa: PLC0415

        profile = read(Path(self.file))
        self._boots = profile.boots
        self._runs = [(run.t_ms / 1000, run.boots, run.block) for run in profile.habits(self.share)]

    def begin(self, view: View) -> Iterable[Candidate]:
        """All blocks that the release still has."""
        found: dict[int, Candidate] = {}
        for at, boots, digest in self._runs:
            block = view.find(bytes.fromhex(digest))
            if block is not None and block not in found:
                found[block] = Candidate(block, boots / self._boots, at)
        return found.values()

    def on_access(self, access: Access, view: View) -> Iterable[Candidate]:
        """Nothing that was not said before."""
        return ()
