"""Holds predictions against measured boots: the same points under QEMU, on the virtual clock.

A trace begins with its first request and ends with its last answer; userland begins a bit before and ends a
bit later. That bit is measured once, on the boot with the shortest round trip, and added to every prediction.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from orioncache.errors import UserError
from orioncache.simulate.experiment import Point
from orioncache.simulate.loading import load
from orioncache.simulate.recording import Recording
from orioncache.simulate.report import table
from orioncache.simulate.result import Result

# A prediction that is further off than this part of the measurement fails.
BAR = 0.10


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One point.

    Attributes:
        rtt_ms: the round trip.
        predicted_s: userland, as simulated.
        measured_s: userland, as booted.
    """

    rtt_ms: float
    predicted_s: float
    measured_s: float

    @property
    def error(self) -> float:
        """How far the prediction is off, as a part of the measurement; negative: too fast."""
        return self.predicted_s / self.measured_s - 1


def validate(
    args: argparse.Namespace, recording: Recording, points: Sequence[Point], results: Sequence[Result]
) -> int:
    """Boots all points and prints each one's error; 1 if one is beyond ``BAR``.

    Raises:
        UserError: a point cannot be booted, or a boot failed.
    """
    if any(set(point.varied) - {"rtt"} for point in points):
        raise UserError("--validate boots points that differ in their round trip alone", "leave --sweep out")
    if points[0].bundle is not None:
        raise UserError("--validate boots releases without a bundle", "leave --bundle out")
    if any(point.choices for point in points):
        raise UserError(
            "--validate boots the cache as it is, and that runs no heuristics yet", "leave --heuristic out"
        )
    measured, outside = _boot(points, recording)
    found = [
        Comparison(point.scene.rtt_ms, result.seconds + outside, measured[point.scene.rtt_ms])
        for point, result in zip(points, results, strict=True)
    ]
    if args.json:
        print(
            json.dumps(
                {
                    "outside_s": outside,
                    "bar": BAR,
                    "points": [dataclasses.asdict(each) | {"error": each.error} for each in found],
                },
                indent=2,
            )
        )
    else:
        print("\n".join(lines(found, outside)))
    return int(any(abs(each.error) > BAR for each in found))


def lines(found: Sequence[Comparison], outside: float) -> list[str]:
    """The comparison as text."""
    rows: list[tuple[str, ...]] = [("RTT ms", "predicted s", "measured s", "error")]
    rows += [
        (f"{each.rtt_ms:g}", f"{each.predicted_s:.3f}", f"{each.measured_s:.3f}", f"{100 * each.error:+.1f}%")
        for each in found
    ]
    worst = max(abs(each.error) for each in found)
    return [
        *table(rows),
        "",
        f"userland before the first request and after the last answer: {outside:.3f} s",
        f"worst error {100 * worst:.1f}%, bar {100 * BAR:.0f}%: {'met' if worst <= BAR else 'missed'}",
    ]


def _boot(points: Sequence[Point], recording: Recording) -> tuple[dict[float, float], float]:
    """Measured userland by round trip, and what of it lies outside of a trace."""
    from orioncache.bench import cli, sample  # noqa: PLC0415

    scene = points[0].scene
    trips = dict.fromkeys(point.scene.rtt_ms for point in points)
    with tempfile.TemporaryDirectory(prefix="orion-validate-") as folder:
        samples, trace = Path(folder, "samples.json"), Path(folder, "boot.trace")
        words = ["--variant", "orion", "--rtt", ",".join(f"{trip:g}" for trip in trips)]
        words += ["--servers", str(scene.servers), "--json", str(samples), "--trace", str(trace)]
        if scene.rate_mbit is not None:
            words += ["--rate", f"{scene.rate_mbit:g}"]
        if scene.read_around >= 0:
            words += ["--append", f"orion.read_around={scene.read_around}"]
        parser = argparse.ArgumentParser()
        cli.configure(parser)
        with redirect_stdout(sys.stderr):
            cli.run(parser.parse_args(words))
        measured = {
            each.rtt_ms: each.phases_s.userland
            for each in sample.read(samples).samples
            if each.phases_s is not None
        }
        shortest = min(measured)
        (booted,) = [trace] if trace.exists() else Path(folder).glob(f"boot.orion-rtt{shortest:g}-run1.trace")
        again = load(booted)
    if recording.manifest and recording.manifest != again.manifest:
        raise UserError(
            f"{recording.name} was recorded of another release than the bench boots",
            "record it with orioncache bench --variant orion --rtt 0 --trace FILE",
        )
    return measured, measured[shortest] - again.span
