"""What a simulated boot tells."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass
class Counted:
    """What became of what one heuristic asked for.

    Attributes:
        issued, issued_bytes: blocks that departed.
        useful, useful_bytes: demanded after they had landed.
        late: demanded while on their way.
        wasted, wasted_bytes: never demanded, or evicted before.
        cancelled, declined: did not depart.
        cut: why the heuristic was cut off; empty: it was not.
    """

    issued: int = 0
    issued_bytes: int = 0
    useful: int = 0
    useful_bytes: int = 0
    late: int = 0
    wasted: int = 0
    wasted_bytes: int = 0
    cancelled: int = 0
    declined: int = 0
    cut: str = ""

    @classmethod
    def of(cls, counts: Mapping[str, int], cut: str) -> "Counted":
        """From the scheduler's figures."""
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in counts.items() if name in names}, cut=cut)

    @property
    def precision(self) -> float:
        """The part of what departed that was demanded, 0 to 1."""
        return (self.useful + self.late) / self.issued if self.issued else 0.0

    @property
    def timeliness(self) -> float:
        """The part of what was demanded that had landed before, 0 to 1."""
        return self.useful / (self.useful + self.late) if self.useful + self.late else 0.0

    def recall(self, demanded: int) -> float:
        """The part of all blocks demanded that it had asked for, 0 to 1."""
        return (self.useful + self.late) / demanded if demanded else 0.0


@dataclasses.dataclass(frozen=True)
class Result:
    """One simulated boot.

    Attributes:
        seconds: from the first request to the last answer.
        held_s: by how much the first request came later than recorded: a bundle took the initramfs's time.
        requests: of the trace.
        upcalls: READs that reached the engine.
        hits: of these, answered from RAM.
        lates: of these, waited for nothing but speculative flights.
        waited_s: sum of all waits, from request to answer.
        blocks_demanded, bytes_demanded: different blocks that were touched.
        blocks_fetched_late: blocks that were asked of a server because somebody waited.
        server_reads, bytes_read: on all servers.
        processor_s: of processes; processor_io_s: of engine, NFS and servers.
        link_busy_s: the link carried bytes.
        heuristics: by name; ``read-around`` is the engine's own.
        events: what happened, in one line each.
    """

    seconds: float
    held_s: float
    requests: int
    upcalls: int
    hits: int
    lates: int
    waited_s: float
    blocks_demanded: int
    bytes_demanded: int
    blocks_fetched_late: int
    server_reads: int
    bytes_read: int
    processor_s: float
    processor_io_s: float
    link_busy_s: float
    heuristics: Mapping[str, Counted]
    events: list[str]

    @property
    def hit_ratio(self) -> float:
        """READs answered from RAM, 0 to 1."""
        return self.hits / self.upcalls if self.upcalls else 0.0

    def _all(self) -> Counted:
        total = Counted()
        for each in self.heuristics.values():
            for name in (
                "issued",
                "issued_bytes",
                "useful",
                "useful_bytes",
                "late",
                "wasted",
                "wasted_bytes",
            ):
                setattr(total, name, getattr(total, name) + getattr(each, name))
        return total

    def as_dict(self) -> dict[str, Any]:
        """All of it, with the derived figures, for JSON."""
        total = self._all()
        found = dataclasses.asdict(self)
        found["hit_ratio"] = self.hit_ratio
        found["precision"] = total.precision
        found["recall"] = total.recall(self.blocks_demanded)
        found["timeliness"] = total.timeliness
        found["wasted_bytes"] = total.wasted_bytes
        for name, each in self.heuristics.items():
            found["heuristics"][name] |= {
                "precision": each.precision,
                "recall": each.recall(self.blocks_demanded),
                "timeliness": each.timeliness,
            }
        return found
