"""A recorded boot as the page draws it: columns of whole numbers, times in µs from the kernel's start.

The trace's clock is the one that the marks are read from, CLOCK_MONOTONIC of the guest, so nothing is
converted. What lies between the marks `kernel` and `start`, where the bench sets its scene, is cut out, as it
is of the phases.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from orioncache.bench.plan import Link
from orioncache.bench.sample import Fetched, Use
from orioncache.bench.waterfall.uses import USES, Judged
from orioncache.trace.format import BUNDLE, OUTCOMES, REASONS, Trace

# Programs that have a row of their own, those first that read first; the others share one.
PROGRAMS = 40
OTHERS = "others"


@dataclasses.dataclass(frozen=True)
class Recorded:
    """One boot that was recorded.

    Attributes:
        variant: its name.
        link: that it booted over.
        run: counts from 1.
        marks: the guest's (:class:`orioncache.bench.verdict.Report`): kernel, start, initramfs, ready.
        trace: what was asked, and fetched.
        judged: each fetch, and what became of it.
        files: block number to a file that has it, and to how many more, for those that were fetched.
        is_touched_known: whether a recording of first touches says which of a bundle's pages are used.
    """

    variant: str
    link: Link
    run: int
    marks: Mapping[str, int]
    trace: Trace
    judged: Sequence[Judged]
    files: Mapping[int, str]
    is_touched_known: bool

    @property
    def title(self) -> str:
        """What it is a picture of."""
        rate = "" if self.link.rate_mbit is None else f", {self.link.rate_mbit:g} Mbit/s"
        return f"{self.variant}, RTT {self.link.rtt_ms:g} ms{rate}"


def fetched(judged: Sequence[Judged]) -> dict[str, Fetched]:
    """Sums by what was fetched for, of reasons that occur."""
    found: dict[str, Fetched] = {}
    for reason, name in enumerate(REASONS):
        mine = [each for each in judged if each.fetch.reason == reason]
        if mine:
            amounts = {use: [each.amounts[use] for each in mine if use in each.amounts] for use in USES}
            found[name] = Fetched(
                reads=len(mine),
                bytes=sum(each.fetch.length for each in mine),
                parts="pages" if reason == BUNDLE else "blocks",
                uses={
                    use: Use(sum(one.number for one in every), sum(one.bytes for one in every))
                    for use, every in amounts.items()
                    if every
                },
            )
    return found


def figure(boot: Recorded) -> dict[str, Any]:
    """All that the page's script draws of one boot."""
    marks, trace = boot.marks, boot.trace
    cut = marks["start"] - marks["kernel"]

    def at(t_ns: int) -> int:
        return round((t_ns - cut) / 1000)

    reads = [record for record in trace.reads if record.t_ns <= marks["ready"]]
    judged = [each for each in boot.judged if each.fetch.t_ns <= marks["ready"]]
    programs = list(dict.fromkeys(record.comm or "?" for record in reads))
    if len(programs) > PROGRAMS:
        programs = [*programs[: PROGRAMS - 1], OTHERS]
    rows = {name: number for number, name in enumerate(programs)}
    paths = {inode: number for number, inode in enumerate(dict.fromkeys(record.inode for record in reads))}
    return {
        "phases": [
            ["kernel", 0, at(marks["start"])],
            ["initramfs", at(marks["start"]), at(marks["initramfs"])],
            ["userland", at(marks["initramfs"]), at(marks["ready"])],
        ],
        "ready": at(marks["ready"]),
        "rtt": round(boot.link.rtt_ms * 1000),
        "rate": boot.link.rate_mbit,
        "programs": programs,
        "comms": [record.comm for record in reads] if OTHERS in rows else None,
        "paths": [trace.path(inode) for inode in paths],
        "outcomes": OUTCOMES,
        "reasons": REASONS,
        "uses": USES,
        "reads": {
            "t": [at(record.t_ns) for record in reads],
            "wait": [round(record.wait_ns / 1000) for record in reads],
            "offset": [record.offset for record in reads],
            "length": [record.length for record in reads],
            "path": [paths[record.inode] for record in reads],
            "program": [rows.get(record.comm or "?", len(programs) - 1) for record in reads],
            "outcome": [record.outcome for record in reads],
        },
        "fetches": {
            "t": [at(each.fetch.t_ns) for each in judged],
            "took": [round(each.fetch.took_ns / 1000) for each in judged],
            "bytes": [each.fetch.length for each in judged],
            "reason": [each.fetch.reason for each in judged],
            "server": [each.fetch.server for each in judged],
            "first": [each.fetch.first for each in judged],
            "count": [each.fetch.blocks for each in judged],
            "uses": [[[USES.index(use), *amount] for use, amount in each.amounts.items()] for each in judged],
            "files": [_files(each, boot.files) for each in judged],
        },
    }


def _files(judged: Judged, files: Mapping[int, str]) -> str:
    """The first file of those whose blocks a fetch brought, and how many more there are."""
    if judged.fetch.reason == BUNDLE:
        return ""
    first = judged.fetch.first
    names = list(
        dict.fromkeys(files[block] for block in range(first, first + judged.fetch.blocks) if block in files)
    )
    return "" if not names else names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
