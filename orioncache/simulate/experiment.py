"""Points of a simulation, one or many side by side: a recording, a scene, heuristics."""

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from orioncache import options
from orioncache.errors import UserError
from orioncache.prefetch import registry, settings
from orioncache.prefetch.prefetcher import create
from orioncache.simulate.boot import Boot, SimulatedView
from orioncache.simulate.bounds import Bounds, bounds
from orioncache.simulate.loading import load, view_of
from orioncache.simulate.model import Scene
from orioncache.simulate.recording import Recording
from orioncache.simulate.result import Result
from orioncache.simulate.stream import read_frames

# More points than anybody waits for.
POINTS_MOST = 100_000


@dataclasses.dataclass(frozen=True)
class Point:
    """What is simulated.

    Attributes:
        scene: link, servers, memory.
        choices: heuristics, with texts for their tunables.
        limits: texts for the scheduler's limits.
        bundle: the file of a bundle that is streamed; None: none is.
        varied: the swept parameters' values, as the user wrote them.
    """

    scene: Scene
    choices: Sequence[settings.Choice]
    limits: Mapping[str, str] = dataclasses.field(default_factory=dict)
    bundle: Path | None = None
    varied: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def heuristics(self) -> str:
        """The heuristics in one text."""
        return ",".join([*(["bundle"] if self.bundle else []), *map(str, self.choices)]) or "none"


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"'{text}' is no number") from None
    if not 0 <= value < 1e6:
        raise ValueError(f"'{text}' is out of range")
    return value


def _rate(text: str) -> float | None:
    return None if text in ("none", "inf") else _number(text) or None


# What --sweep can vary of the scene: field of Scene, parser.
SCENE: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "rtt": ("rtt_ms", _number),
    "rate": ("rate_mbit", _rate),
    "servers": ("servers", int),
    "readers": ("readers", int),
    "cache-size": ("cache_size", options.size),
    "read-around": ("read_around", options.size),
}


def vary(point: Point, name: str, text: str) -> Point:
    """A point with another value for one parameter.

    That is one of ``SCENE``, ``heuristic``, ``scheduler.LIMIT`` or ``HEURISTIC.TUNABLE``.

    Raises:
        UserError: there is no such parameter, or the value does not parse.
    """
    varied = {**point.varied, name: text}
    plain = name.replace("_", "-")
    try:
        if plain in SCENE:
            field, parse = SCENE[plain]
            scene = dataclasses.replace(point.scene, **{field: parse(text)})
            return dataclasses.replace(point, scene=scene, varied=varied)
        if plain == "heuristic":
            return dataclasses.replace(point, choices=settings.parse(text.replace("+", ",")), varied=varied)
    except ValueError as error:
        raise UserError(f"--sweep {name}={text}: {error}", "see orioncache simulate --help") from None
    owner, dot, tunable = name.partition(".")
    if not dot:
        known = [*SCENE, "heuristic", "scheduler.LIMIT", "HEURISTIC.TUNABLE"]
        raise UserError(f"--sweep: there is no parameter '{name}'", f"one of {', '.join(known)}")
    if owner == "scheduler":
        return dataclasses.replace(point, limits={**point.limits, tunable: text}, varied=varied)
    if not any(choice.name == owner for choice in point.choices):
        raise UserError(f"--sweep {name}: {owner} does not run", f"add it: --heuristic {owner}")
    choices = [
        settings.Choice(choice.name, {**choice.settings, tunable.replace("-", "_"): text})
        if choice.name == owner
        else choice
        for choice in point.choices
    ]
    return dataclasses.replace(point, choices=choices, varied=varied)


def sweep(point: Point, parameters: Sequence[tuple[str, Sequence[str]]]) -> list[Point]:
    """All combinations of the parameters' values.

    Raises:
        UserError: a parameter or a value is wrong, or there are too many.
    """
    points = [point]
    for name, values in parameters:
        if len(points) * len(values) > POINTS_MOST:
            raise UserError(f"these are more than {POINTS_MOST:,} points", "sweep fewer values")
        points = [vary(each, name, value) for each, value in itertools.product(points, values)]
    for each in points:
        limits_of(each)
        for choice in each.choices:
            check(choice)
    return points


def check(choice: settings.Choice) -> None:
    """Whether a heuristic is known and its values parse.

    Raises:
        UserError: it is not, or they do not.
    """
    kind = registry.load(choice.name)
    known = {tunable.name: tunable for tunable in kind.tunables}
    for name, text in choice.settings.items():
        if name not in known:
            raise UserError(
                f"{choice.name}: unknown tunable '{name}'", f"known are {', '.join(sorted(known)) or 'none'}"
            )
        try:
            known[name].parse(text)
        except ValueError as error:
            raise UserError(f"{choice.name}:{name}: {error}", "see orioncache prefetch list") from None


def limits_of(point: Point) -> dict[str, Any]:
    """The scheduler's limits as values.

    Raises:
        UserError: one is not known, or does not parse.
    """
    return settings.limits(point.limits)


def simulate(recording: Recording, view: SimulatedView, point: Point) -> Result:
    """Simulates one point.

    Raises:
        UserError: a heuristic is not known, or a value is wrong.
    """
    bundle = read_frames(point.bundle, recording.manifest) if point.bundle is not None else None
    heuristics = create(point.choices)
    return Boot(recording, view, heuristics, point.scene, limits=limits_of(point), bundle=bundle).run()


class _Worker:
    """What a process of the pool keeps from one point to the next."""

    recording: Recording
    view: SimulatedView


def _prepare(trace: Path, release: Path | None) -> None:
    _Worker.recording = load(trace)
    _Worker.view = view_of(_Worker.recording, release)


def _one(point: Point) -> Result:
    return simulate(_Worker.recording, _Worker.view, point)


def simulate_all(
    trace: Path, release: Path | None, points: Sequence[Point], jobs: int | None = None
) -> Iterator[tuple[int, Result]]:
    """Simulates points on all processors; yields (position, result) as they come.

    Raises:
        UserError: as :func:`simulate` and :func:`load`.
    """
    jobs = min(jobs or len(os.sched_getaffinity(0)), len(points))
    if jobs <= 1:
        _prepare(trace, release)
        yield from ((position, _one(point)) for position, point in enumerate(points))
        return
    with ProcessPoolExecutor(jobs, initializer=_prepare, initargs=(trace, release)) as pool:
        futures = {pool.submit(_one, point): position for position, point in enumerate(points)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def bounds_of(recording: Recording, view: SimulatedView, points: Sequence[Point]) -> list[Bounds]:
    """The lower bounds of each point; those of equal scenes are found once."""
    known: dict[Scene, Bounds] = {}
    for point in points:
        if point.scene not in known:
            known[point.scene] = bounds(recording, view, point.scene)
    return [known[point.scene] for point in points]
