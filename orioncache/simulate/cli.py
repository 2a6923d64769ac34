"""Replays a recorded boot over another link, with other heuristics: what it would take, within a second.

Processes compute as long as they did when the trace was recorded, and wait for what they ask for: for link
and servers, unless a heuristic had it fetched ahead. Heuristics and scheduler are the same code that a node
runs. Beside each prediction stand two bounds: everything in RAM ("ram"), and a prefetcher that knows the boot
ahead ("best").

Examples:
  orioncache simulate boot.trace                                   RTT 0, 1 and 10 ms, without heuristics
  orioncache simulate boot.trace --release /srv/store/releases/debian/12.8 --heuristic elf,script,sequential
  orioncache simulate boot.trace --rtt 10 --rate 100 --heuristic sequential:window=4M
  orioncache simulate boot.trace --rtt 10 --heuristic sequential --sweep sequential.window=256K,1M,4M
  orioncache simulate boot.trace --release DIR --sweep heuristic=none,elf,elf+script --sweep rtt=0,1,10 --json
  orioncache simulate touches.trace --release DIR --bundle DIR/bundles/default.bundle
  orioncache simulate boot.trace --eviction --cache-size 8M        which blocks to keep
  orioncache simulate --validate                 boots points under QEMU, and predicts the same (as root)
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from orioncache import options
from orioncache.errors import UserError
from orioncache.prefetch import settings

if TYPE_CHECKING:
    from orioncache.simulate.experiment import Point
    from orioncache.simulate.result import Result

DEFAULT_RTT = "0,1,10"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of ``orioncache simulate``."""
    parser.add_argument(
        "trace", type=Path, nargs="?", metavar="TRACE", help="from orioncache trace record or bench --trace"
    )
    parser.add_argument(
        "--release",
        type=Path,
        metavar="DIR",
        help="the release it was recorded of: content for elf and script, neighbours for read-around",
    )
    parser.add_argument(
        "--heuristic",
        default="",
        metavar="LIST",
        help="NAME[:TUNABLE=VALUE…],…; orioncache prefetch list shows them (default: none)",
    )
    parser.add_argument(
        "--profile", type=Path, metavar="FILE", help="the same as --heuristic profile:file=FILE,…"
    )
    parser.add_argument(
        "--bundle",
        type=Path,
        metavar="FILE",
        help="stream this bundle, as the engine does (needs a trace of first touches)",
    )
    link = parser.add_argument_group("link, servers, memory")
    link.add_argument(
        "--rtt", default=DEFAULT_RTT, metavar="LIST", help="round trips in ms (default: %(default)s)"
    )
    link.add_argument(
        "--rate", default="none", metavar="MBIT", help="the link's speed (default: not limited)"
    )
    link.add_argument("--servers", default="2", metavar="N", help="default: %(default)s")
    link.add_argument(
        "--readers", default="8", metavar="N", help="reads at a time on one server (default: 8)"
    )
    link.add_argument(
        "--cache-size", default="128M", metavar="SIZE", help="RAM for blocks (default: %(default)s)"
    )
    link.add_argument(
        "--read-around", metavar="SIZE", help="around a miss (default: what the round trip is worth)"
    )
    how = parser.add_argument_group("what is done")
    how.add_argument(
        "--sweep",
        action="append",
        default=[],
        metavar="PARAM=A,B,…",
        help="rtt, rate, servers, readers, cache-size, read-around, heuristic (join with +), "
        "scheduler.LIMIT, HEURISTIC.TUNABLE; again for all combinations",
    )
    how.add_argument("--no-bounds", action="store_true", help="do not simulate the lower bounds")
    how.add_argument("--eviction", action="store_true", help="compare eviction policies (needs libcachesim)")
    how.add_argument(
        "--validate", action="store_true", help="boot points under QEMU, predict the same, and compare (root)"
    )
    how.add_argument(
        "--workload", metavar="LIST", help="of --validate: those of bench --workload (default: all kept ones)"
    )
    how.add_argument(
        "--set",
        action="append",
        metavar="SET",
        help="of --validate: none, bundle, or heuristics; again for more "
        "(default: none, bundle, elf,script,sequential)",
    )
    how.add_argument("--jobs", type=int, metavar="N", help="processes (default: one for each processor)")
    how.add_argument("--json", action="store_true", help="print all figures, for programs")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Simulates, and prints what came of it."""
    if args.validate:
        from orioncache.simulate.validate import validate  # noqa: PLC0415

        return validate(args)
    if args.trace is None:
        raise UserError(
            "no trace is given", "record one: orioncache bench --variant orion --rtt 0 --trace FILE"
        )
    if args.eviction:
        return _eviction(args)
    from orioncache.simulate import experiment, report  # noqa: PLC0415
    from orioncache.simulate.loading import load, view_of  # noqa: PLC0415

    points = points_of(args)
    recording = load(args.trace)
    view = view_of(recording, args.release)
    results = _simulate(args, points)
    limits = [None] * len(points) if args.no_bounds else experiment.bounds_of(recording, view, points)
    if args.json:
        print(json.dumps(report.document(recording, points, results, limits), indent=2))
    else:
        print("\n".join(report.lines(recording, points, results, limits)))
    return 0


def points_of(args: argparse.Namespace) -> list[Point]:
    """The points that the arguments name.

    Raises:
        UserError: one of them is wrong.
    """
    from orioncache.simulate.experiment import Point, sweep, vary  # noqa: PLC0415
    from orioncache.simulate.model import Scene  # noqa: PLC0415

    try:
        choices = settings.parse(args.heuristic)
    except ValueError as error:
        raise UserError(
            f"--heuristic: {error}", "for instance --heuristic elf,sequential:window=2M"
        ) from None
    if args.profile is not None:
        choices.append(settings.Choice("profile", {"file": str(args.profile)}))
    choices, limits = settings.split(choices)
    point = Point(Scene(), choices, limits)
    for name in ("rate", "servers", "readers", "cache-size", "read-around"):
        text = getattr(args, name.replace("-", "_"))
        if text is not None:
            point = vary(point, name, text)
    parameters = [_parameter(text) for text in args.sweep]
    if not any(name == "rtt" for name, _ in parameters):
        parameters.append(("rtt", args.rtt.split(",")))
    return sweep(Point(point.scene, choices, limits, bundle=args.bundle), parameters)


def _parameter(text: str) -> tuple[str, list[str]]:
    name, equals, values = text.partition("=")
    if not equals or not all(values.split(",")):
        raise UserError(f"--sweep {text}: this is no PARAM=A,B,…", "for instance --sweep rtt=0,1,10")
    return name.strip(), [value.strip() for value in values.split(",")]


def _simulate(args: argparse.Namespace, points: list[Point]) -> list[Result]:
    from orioncache.progress import step  # noqa: PLC0415
    from orioncache.simulate.experiment import simulate_all  # noqa: PLC0415

    found = {}
    if len(points) < 8:
        found = dict(simulate_all(args.trace, args.release, points, args.jobs))
    else:
        with step("simulating", f"{len(points)} boots", total=len(points)) as progress:
            for position, result in simulate_all(args.trace, args.release, points, args.jobs):
                found[position] = result
                progress.update(len(found), points[position].heuristics)
    return [found[position] for position in range(len(points))]


def _eviction(args: argparse.Namespace) -> int:
    from orioncache.simulate import eviction, report  # noqa: PLC0415
    from orioncache.simulate.loading import load, view_of  # noqa: PLC0415

    try:
        size = options.size(args.cache_size)
    except ValueError as error:
        raise UserError(f"--cache-size: {error}", "for instance --cache-size 8M") from None
    recording = load(args.trace)
    found = eviction.compare(recording, view_of(recording, args.release), size)
    if args.json:
        print(json.dumps({"cache_size": size, "policies": [each.as_dict() for each in found]}, indent=2))
    else:
        print("\n".join(report.table(eviction.rows(found))))
    return 0
