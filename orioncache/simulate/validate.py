"""Holds predictions against measured boots: the same points under QEMU, on the virtual clock.

For each workload one boot of first touches is recorded at no round trip, and every point is predicted from
it. A trace begins with its first request and ends with its last answer; userland begins a bit before and
ends a bit later. That bit is taken from the recorded boot, and added to every prediction.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orioncache.choices import parse
from orioncache.errors import UserError
from orioncache.simulate.experiment import Point, simulate, vary
from orioncache.simulate.loading import recording_of, view_of
from orioncache.simulate.model import Scene
from orioncache.simulate.report import table
from orioncache.trace.format import decode

if TYPE_CHECKING:
    from orioncache.bench.scene import Scene as BenchScene

# A prediction that is further off than this part of the measurement fails.
BAR = 0.10
BUNDLE = "bundle"
SETS = ("none", BUNDLE, "elf,script,sequential")
# Seconds of real time for one boot.
TIMEOUT = 600.0


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One point.

    Attributes:
        workload: what booted.
        set: the heuristics, ``none`` or ``bundle``.
        rtt_ms: the round trip.
        predicted_s: userland, as simulated.
        measured_s: userland, as booted.
        simulated_in_s: what the simulation took.
    """

    workload: str
    set: str
    rtt_ms: float
    predicted_s: float
    measured_s: float
    simulated_in_s: float = 0.0

    @property
    def error(self) -> float:
        """How far the prediction is off, as a part of the measurement; negative: too fast."""
        return self.predicted_s / self.measured_s - 1


def validate(args: argparse.Namespace) -> int:
    """Boots all points and prints each one's error; 1 if one is beyond ``BAR``.

    Raises:
        UserError: a point cannot be booted, or a boot failed.
    """
    from orioncache.bench.kept import KEPT  # noqa: PLC0415

    if args.trace is not None or args.sweep or args.bundle is not None or args.profile is not None:
        raise UserError(
            "--validate records the boots that it needs",
            "choose points with --workload, --set and --rtt alone",
        )
    workloads = args.workload.split(",") if args.workload else list(KEPT)
    sets = args.set or SETS
    for each in sets:
        if each != BUNDLE:
            _check(each)
    trips = [_trip(text) for text in args.rtt.split(",")]
    link = vary(Point(Scene(), []), "rate", args.rate).scene
    boots = len(workloads) * len(sets) * len(trips)
    print(
        f"{boots} boots, some 10 s each; a recording of each workload, if there is none yet", file=sys.stderr
    )
    found: list[Comparison] = []
    for workload in workloads:
        found += _workload(workload, sets, trips, link)
    if args.json:
        points = [dataclasses.asdict(each) | {"error": each.error} for each in found]
        print(json.dumps({"bar": BAR, "points": points}, indent=2))
    else:
        print("\n".join(lines(found)))
    return int(any(abs(each.error) > BAR for each in found))


def lines(found: Sequence[Comparison]) -> list[str]:
    """The comparisons as text."""
    rows: list[tuple[str, ...]] = [("workload", "set", "RTT ms", "predicted s", "measured s", "error", "")]
    rows += [
        (
            each.workload,
            each.set,
            f"{each.rtt_ms:g}",
            f"{each.predicted_s:.3f}",
            f"{each.measured_s:.3f}",
            f"{100 * each.error:+.1f}%",
            "" if abs(each.error) <= BAR else "missed",
        )
        for each in found
    ]
    worst = max(abs(each.error) for each in found)
    slowest = max(each.simulated_in_s for each in found)
    return [
        *table(rows),
        "",
        f"worst error {100 * worst:.1f}%, bar {100 * BAR:.0f}%: {'met' if worst <= BAR else 'missed'}; "
        f"the longest simulation took {slowest:.2f} s",
    ]


def _check(text: str) -> None:
    from orioncache.prefetch.prefetcher import create  # noqa: PLC0415

    try:
        create(parse(text))
    except ValueError as error:
        raise UserError(
            f"--set {text}: {error}", "for instance --set none --set bundle --set elf,script"
        ) from None


def _trip(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(
            f"--rtt: '{text}' is no number of milliseconds", "for instance --rtt 0,1,10"
        ) from None


def _workload(
    workload: str, sets: Sequence[str], trips: Sequence[float], network: Scene
) -> Iterator[Comparison]:
    """All points of one workload."""
    from orioncache.bench import cli, recorded  # noqa: PLC0415
    from orioncache.bench.plan import VARIANTS  # noqa: PLC0415
    from orioncache.release.bundle import DEFAULT_ROLE, place  # noqa: PLC0415

    parser = argparse.ArgumentParser()
    cli.configure(parser)
    wanted = [VARIANTS["orion"], *([VARIANTS["orion-profile"]] if BUNDLE in sets else [])]
    scene = cli.prepare(parser.parse_args(["--workload", workload]), "tcg", wanted)
    kept = recorded.recorded(scene, "touch", name=workload, timeout=TIMEOUT)
    marks = json.loads((kept / recorded.MARKS).read_text())
    trace = decode((kept / recorded.TRACE).read_bytes(), f"the recorded boot of {workload}")
    recording = recording_of(trace, workload, marks["ready"])
    outside = (marks["ready"] - marks["initramfs"]) / 1e9 - recording.span
    view = view_of(recording, scene.release)
    measured = _boot(scene, workload, sets, trips, network.rate_mbit)
    for each in sets:
        bundle = None
        if each == BUNDLE:
            assert scene.bundled is not None
            bundle = place(scene.bundled, DEFAULT_ROLE)
        for trip in trips:
            link = dataclasses.replace(network, rtt_ms=trip)
            point = Point(link, [] if bundle else parse(each), bundle=bundle)
            began = time.process_time()
            predicted = simulate(recording, view, point).seconds + outside
            took = time.process_time() - began
            yield Comparison(workload, each, trip, predicted, measured[each, trip], took)


def _boot(
    scene: "BenchScene", workload: str, sets: Sequence[str], trips: Sequence[float], rate: float | None
) -> Mapping[tuple[str, float], float]:
    """Measured userland by set and round trip."""
    from orioncache.bench.plan import VARIANTS, Link, Run  # noqa: PLC0415
    from orioncache.bench.session import run_plan  # noqa: PLC0415
    from orioncache.bench.virtual import virtual_clock  # noqa: PLC0415

    plan: dict[tuple[str, float], Run] = {}
    for number, each in enumerate(sets):
        variant = VARIANTS["orion-profile" if each == BUNDLE else "orion"]
        if each != BUNDLE:
            # Logs are named after it, in which a list has no place.
            words = [*variant.words, f"orion.heuristics={each}"]
            variant = dataclasses.replace(variant, name=f"{workload}-set{number}", words=words)
        for trip in trips:
            plan[each, trip] = Run(variant, Link(trip, rate), 1)
    failures: list[str] = []
    with (
        tempfile.TemporaryDirectory(prefix="orion-validate-") as logs,
        virtual_clock(scene) as machine,
    ):
        samples = run_plan(
            list(plan.values()),
            machine,
            clock="virtual",
            servers=scene.servers,
            logs=Path(logs),
            jobs=2,
            timeout=TIMEOUT,
            failed=lambda run, outcome: failures.append(f"{run.name}: {outcome.error}"),
        )
    if failures:
        raise UserError(f"a boot failed: {failures[0]}", "see why: orioncache bench --keep DIR")
    return {
        key: sample.phases_s.userland
        for key, sample in zip(plan, samples, strict=True)
        if sample.phases_s is not None
    }
