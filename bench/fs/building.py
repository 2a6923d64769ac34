"""Measurements of releases: how fast they are built, and how soon a large one answers."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from orioncache.bench.fs import programs
from orioncache.bench.fs.figures import Figure, Sample, at_least, at_most, rate, ratio, spread
from orioncache.bench.fs.scene import Scene, build_command, release_of
from orioncache.bench.fs.stage import Stage, timed
from orioncache.bench.fs.tree import MIB, grow, plant
from orioncache.process import require

# The bars.
BUILD_TO_HASHING = 0.8
UNCHANGED_S = 3.0
FIRST_ANSWER_MS = 100.0

BUILD_ROUNDS = 3
START_ROUNDS = 3
HASHED_AT_ONCE = 64  # files for one xxh128sum
# For each small file; large ones then hold half of the tree's bytes.
BIG_BYTES_FOR_EACH = 2 << 10


def rate_of_builds(scene: Scene) -> list[Figure]:
    """The rate of builds against that of hashing alone, or with a copy, on the same warm tree."""
    stage = scene.stage
    tree = grow(
        stage.directory("tree"),
        programs.probe(),
        files=scene.sizes.build_files,
        page_files=0,
        big_bytes=scene.sizes.build_files * BIG_BYTES_FOR_EACH,
    )
    known = stage.directory("store")
    timed(build_command(tree.path, known, "0"))
    hashing = _hashing(tree.path)
    for turn in range(1, BUILD_ROUNDS + 1):
        # In this order neither build stands always beside the same neighbour of xxh128sum.
        took = {
            "new store": _timed_into(stage, lambda place: build_command(tree.path, place, "1")),
            "xxh128sum": timed(hashing),
            "rehash": timed(build_command(tree.path, known, str(turn), "--rehash")),
            "cp": _timed_into(stage, lambda place: ["cp", "-a", tree.path, place]),
        }
        took["xxh128sum and cp"] = took["xxh128sum"] + took.pop("cp")
        stage.samples += [Sample("build", name, turn, 1, tree.size, int(1e9 * took[name])) for name in took]
    _remove(tree.path)
    return [
        _against(stage, "content known, all read and hashed", "rehash", "xxh128sum"),
        _against(stage, "into a new store", "new store", "xxh128sum and cp"),
    ]


def _against(stage: Stage, what: str, subject: str, rival: str) -> Figure:
    share = ratio(stage.samples, "build", rival, subject)
    ours, theirs = (rate(stage.samples, "build", name).value for name in (subject, rival))
    what = f"release build, {what}, against {rival}"
    note = f"{ours:.2f} against {theirs:.2f} GB/s"
    return at_least("build", what, share, "×", bar=BUILD_TO_HASHING, note=note)


def _timed_into(stage: Stage, command: Callable[[Path], Sequence[str | Path]]) -> float:
    """Seconds of a command that fills a new directory, which is removed again."""
    place = stage.directory("copy")
    took = timed(command(place))
    _remove(place)
    return took


def unchanged(scene: Scene) -> list[Figure]:
    """A build where nothing changed since the last one."""
    stage, count = scene.stage, scene.sizes.rebuild_files
    tree, store = stage.directory("tree"), stage.directory("store")
    plant(tree, count, b"a small file, number ")
    first = timed(build_command(tree, store, "0"))
    for turn in range(1, BUILD_ROUNDS + 1):
        took = timed(build_command(tree, store, str(turn)))
        stage.samples.append(Sample("unchanged", "rebuild", turn, 1, 0, int(1e9 * took)))
    _remove(tree)
    found = spread([sample.ns / 1e9 for sample in stage.samples if sample.cell == "unchanged"])
    what = f"unchanged rebuild of {count:,} files"
    return [at_most("unchanged", what, found, "s", bar=UNCHANGED_S, note=f"the first build {first:.2f} s")]


def million(scene: Scene) -> list[Figure]:
    """How soon a large manifest answers, and what it takes."""
    stage, count = scene.stage, scene.sizes.inodes
    tree, store = stage.directory("tree"), stage.directory("store")
    plant(tree, count, b"")
    seconds = timed(build_command(tree, store, "1"))
    _remove(tree)
    release = release_of(store, "1")
    took, begun, verified = [], [], []
    for _ in range(START_ROUNDS):
        with stage.cache(release, "native") as mounted:
            moments = mounted.status()["started_ms"]
            resident = mounted.resident_mb()
        # The first request is answered within microseconds.
        took.append(moments["answered"] - moments["manifest"])
        verified.append(moments["verified"] - moments["manifest"])
        begun.append(moments["manifest"])
    note = (
        f"{spread(verified).value:.0f} ms to verify it; it is there {spread(begun).value:.0f} ms after exec"
    )
    found = spread(took)
    inodes = len(scene.tree.files) + len(scene.tree.symlinks)
    empty = (release / "manifest").stat().st_size
    full = (scene.release / "manifest").stat().st_size
    return [
        at_most(
            "million", f"mount to first answer, {count:,} inodes", found, "ms", bar=FIRST_ANSWER_MS, note=note
        ),
        Figure("million", "resident memory of the daemon with them", resident, "MiB"),
        Figure(
            "million",
            "manifest, an inode without content",
            empty / count,
            "bytes",
            note=f"{empty / MIB:.0f} MiB, built in {seconds:.1f} s",
        ),
        Figure("million", "manifest, a small file with content", full / inodes, "bytes"),
    ]


def _hashing(tree: Path) -> list[str | Path]:
    require("xxh128sum", "xxhash")
    cores = len(os.sched_getaffinity(0))
    script = f'find "$0" -type f -print0 | xargs -0 -P{cores} -n{HASHED_AT_ONCE} xxh128sum'
    return ["sh", "-c", script, tree]


def _remove(path: Path) -> None:
    """A million files go quicker so than from Python."""
    timed(["rm", "-rf", path])
