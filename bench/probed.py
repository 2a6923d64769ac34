"""What a sample says of a boot that was probed: errors, wrong bytes, stalls (guest/referee.c sends them)."""

from typing import Any

import msgspec

from orioncache.bench.sample import Probe, Sample, Stall
from orioncache.bench.verdict import Report

FILE = "probe"


class _Sent(msgspec.Struct):
    """The guest's own words; times are nanoseconds of its clock."""

    started: bool
    finished: bool
    reads: int
    errors: int
    wrong_bytes: int
    checked_bytes: int
    checked_files: int
    longest_ns: int
    longest_at_ns: int
    waiting: bool
    stalls: list[tuple[int, int]]
    first_error: str
    first_wrong: str


def probed(sample: Sample, trouble: str, report: Report) -> Sample:
    """The sample with what the probe saw.

    Args:
        sample: of the same boot.
        trouble: the fault, empty without one.
        report: what the guest said.
    """
    sent = _sent(report)
    found = None
    if sent is not None:
        found = Probe(
            reads=sent.reads,
            failed_reads=sent.errors,
            checked_bytes=sent.checked_bytes,
            checked_files=sent.checked_files,
            finished=sent.finished,
            stalls=[Stall(_boot_clock(at, report), ns / 1e9) for at, ns in sent.stalls],
            fault_at_s=_mark("fault", report),
            fault_end_s=_mark("fault-end", report),
            waiting=sent.waiting,
            first_error=sent.first_error,
            first_wrong=sent.first_wrong,
        )
    own = sample.cache.get("failover")
    failover: dict[str, Any] = own if isinstance(own, dict) else {}
    # Where the root did not come up there was nobody to be stalled.
    stalls = [sent.longest_ns / 1e9] if sent is not None and sent.started else []
    if (milliseconds := _figure(failover, "longest_stall_ms")) is not None:
        stalls.append(milliseconds / 1000)
    switches = _figure(failover, "switches")
    return msgspec.structs.replace(
        sample,
        fault=trouble,
        errors=(sent.errors if sent else 0) + (not sample.ok),
        wrong_bytes=sent.wrong_bytes if sent else None,
        longest_stall_s=max(stalls, default=None),
        switches=None if switches is None else int(switches),
        extra_reads_pct=_figure(failover, "extra_reads_pct"),
        probe=found,
    )


def _sent(report: Report) -> _Sent | None:
    try:
        return msgspec.json.decode(report.files.get(FILE, b""), type=_Sent)
    except (msgspec.DecodeError, msgspec.ValidationError):
        # A guest that panicked has not said it, or not all of it.
        return None


def _figure(values: dict[str, Any], name: str) -> float | None:
    value = values.get(name)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _boot_clock(at: int, report: Report) -> float:
    """A moment after the start of the node's /init, without the scene that the bench set before."""
    return max(0, at - report.marks.get("start", 0) + report.marks.get("kernel", 0)) / 1e9


def _mark(name: str, report: Report) -> float | None:
    return _boot_clock(report.marks[name], report) if name in report.marks else None
