"""Boots with faults, held against the bars: every fault on one link, its variants side by side."""

import dataclasses
from collections.abc import Mapping, Sequence

from orioncache.bench.fault import BOOT_TIMES, KINDS
from orioncache.bench.plan import VARIANTS
from orioncache.bench.report.summary import Link, link_of
from orioncache.bench.sample import Document, Sample


@dataclasses.dataclass(frozen=True)
class Held:
    """All runs of one fault with one variant: the worst of each figure.

    Attributes:
        samples: the runs.
        stall_s: the longest read of any run; None where no guest said it.
        is_open: that read had not ended when the guest was given up.
        boot_times: the longest boot in units of the faultless one; None where one did not come to its end.
        errors: of all runs.
        wrong_bytes: of all runs; None like ``stall_s``.
        missed: each bar that is missed, in a few words; empty if all are met.
    """

    samples: Sequence[Sample]
    stall_s: float | None
    is_open: bool
    boot_times: float | None
    errors: int
    wrong_bytes: int | None
    missed: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Matrix:
    """What was measured on one link.

    Attributes:
        link: the link.
        variants: their names, the cache first.
        faultless: by variant.
        rows: ``--fault``'s words to what was held, by variant; where a variant has no such thing, nothing.
    """

    link: Link
    variants: Sequence[str]
    faultless: Mapping[str, Held]
    rows: Mapping[str, Mapping[str, Held]]


def matrices(document: Document) -> list[Matrix]:
    """One for each link; empty if the document has no faults."""
    samples = [sample for sample in document.samples if sample.fault is not None]
    result = []
    for link in sorted({link_of(sample) for sample in samples}, key=lambda link: link.rtt_ms):
        here = [sample for sample in samples if link_of(sample) == link]
        # In sort order what is a cache comes first.
        variants = sorted(
            dict.fromkeys(sample.variant for sample in here), key=lambda name: not is_cache(name)
        )
        rows: dict[str, dict[str, Held]] = {}
        for fault in dict.fromkeys(sample.fault or "" for sample in here):
            for variant in variants:
                runs = [s for s in here if (s.fault or "") == fault and s.variant == variant]
                if runs:
                    rows.setdefault(fault, {})[variant] = _held(fault, runs, _base(here, variant))
        result.append(Matrix(link, variants, rows.pop("", {}), rows))
    return result


def is_cache(variant: str) -> bool:
    """Whether the bars are meant for it."""
    return variant in VARIANTS and VARIANTS[variant].source == "orion"


def _base(samples: Sequence[Sample], variant: str) -> float | None:
    boots = [
        s.boot_s for s in samples if s.fault == "" and s.variant == variant and s.ok and s.boot_s is not None
    ]
    return max(boots, default=None)


def _held(fault: str, runs: Sequence[Sample], base: float | None) -> Held:
    boots = [sample.boot_s for sample in runs if sample.ok and sample.boot_s is not None]
    stalls = [sample.longest_stall_s for sample in runs if sample.longest_stall_s is not None]
    wrong = [sample.wrong_bytes for sample in runs if sample.wrong_bytes is not None]
    times = max(boots) / base if base and len(boots) == len(runs) else None
    held = Held(
        samples=runs,
        stall_s=max(stalls, default=None),
        is_open=any(sample.probe is not None and sample.probe.waiting for sample in runs),
        boot_times=times,
        errors=sum(sample.errors or 0 for sample in runs),
        wrong_bytes=sum(wrong) if wrong else None,
        missed=(),
    )
    return dataclasses.replace(held, missed=_missed(fault, held))


def _missed(fault: str, held: Held) -> list[str]:
    missed = []
    # While nobody answers a node waits: only what comes of it counts.
    timed = _leaves_a_server(fault, held.samples[0].servers)
    if not all(sample.ok for sample in held.samples):
        missed.append("it did not boot")
    elif held.boot_times is None:
        missed.append("there is no faultless boot to hold it against")
    elif timed and held.boot_times > BOOT_TIMES:
        missed.append(f"boot {held.boot_times:.2f} × > {BOOT_TIMES:g}")
    if held.errors:
        missed.append(f"{held.errors} error{'s' * (held.errors > 1)}")
    if held.wrong_bytes:
        missed.append(f"{held.wrong_bytes:,} wrong bytes")
    if any(not sample.probe or not sample.probe.checked_bytes for sample in held.samples):
        missed.append("no byte was checked")
    kind = KINDS.get(fault.partition("@")[0])
    if (
        timed
        and kind is not None
        and kind.bar_s is not None
        and (held.stall_s is None or held.stall_s > kind.bar_s)
    ):
        stall = "unknown" if held.stall_s is None else f"{held.stall_s:.3f}"
        missed.append(f"stall {stall} > {kind.bar_s:g} s")
    return missed


def _leaves_a_server(fault: str, servers: int) -> bool:
    hit = [word for word in fault.split(":") if word.startswith("server=")]
    return not hit or len(hit[0].split("+")) < servers
