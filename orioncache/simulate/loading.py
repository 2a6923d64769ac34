"""Traces from files, with the release that they are of."""

from collections.abc import Callable
from pathlib import Path

from orioncache.errors import UserError
from orioncache.prefetch.interface import MISS
from orioncache.simulate.boot import SimulatedView
from orioncache.simulate.model import Costs
from orioncache.simulate.recording import Recording, Touch, causes, settle
from orioncache.simulate.views import ReleaseView, TraceView
from orioncache.trace.format import Trace
from orioncache.trace.format import read as read_trace

# Seconds: where even the shortest wait for a server was longer, there was a round trip in it.
TRIP_MOST = 0.0005


def load(path: Path) -> Recording:
    """A recording from a trace file.

    Raises:
        UserError: it is no trace, or nothing can be replayed from it.
    """
    return recording_of(read_trace(path), path.name)


def recording_of(trace: Trace, name: str, until_ns: int | None = None) -> Recording:
    """A recording from a trace.

    Args:
        trace: the trace.
        name: for people.
        until_ns: on the trace's clock; what was asked later is left out.

    Raises:
        UserError: it has no reads, or no names and sizes.
    """
    if not trace.files:
        raise UserError(
            f"{name} has no names and sizes", "record it with orioncache trace record or bench --trace"
        )
    steps = causes(
        Touch(
            trace.seconds(record),
            record.wait_ns / 1e9,
            record.inode,
            record.offset,
            record.length,
            record.pid,
            record.comm,
            record.kind,
            record.outcome,
        )
        for record in trace.records
        if until_ns is None or record.t_ns <= until_ns
    )
    if not steps:
        raise UserError(f"{name} has no reads", "record a boot, or any use of a mount")
    waits = [step.touch.waited for step in steps if step.touch.outcome == MISS]
    if waits and min(waits) < TRIP_MOST:
        settle(steps, _costs(trace, Costs()))
    return Recording(
        name=name,
        steps=steps,
        lead=max(0.0, steps[0].touch.at),
        first_touches=trace.first_touches,
        files={inode: (file.path, file.size) for inode, file in trace.files.items()},
        digests=dict(trace.digests),
        block_size=trace.block_size,
        manifest=trace.manifest_digest.hex(),
    )


def _costs(trace: Trace, costs: Costs) -> Callable[[Touch], float]:
    """What serving each request cost, in order: each block comes from a server once."""
    seen: set[object] = set()

    def cost(touch: Touch) -> float:
        if touch.outcome != MISS:
            return costs.answer_s
        size = 0
        for number in range(
            touch.offset // trace.block_size, (touch.offset + touch.length - 1) // trace.block_size + 1
        ):
            where = touch.inode, number
            block = trace.digests.get(where, where)
            if block is not None and block not in seen:
                seen.add(block)
                size += trace.block_length(*where)
        return costs.request_s + size * costs.fetch_s

    return cost


def view_of(recording: Recording, release: Path | None) -> SimulatedView:
    """The release of a recording: from its directory, or what the trace itself knows.

    Raises:
        UserError: the directory holds another release.
    """
    if release is None:
        return TraceView(recording)
    view = ReleaseView(release)
    if recording.manifest and recording.manifest != view.manifest_digest.hex():
        raise UserError(
            f"{release} is not the release that {recording.name} was recorded of",
            "give that release, or leave --release out: the trace knows names and sizes",
        )
    return view
