"""Measurements of mounted file systems: what is cold, what is warm, and what the kernel still asks."""

import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from orioncache.bench.fs.figures import Figure, at_least, at_most, microseconds, rate, ratio
from orioncache.bench.fs.scene import Scene
from orioncache.bench.fs.stage import one_processor

# The bars.
TO_MINIMAL = 1.15
TO_PYTHON = 4.0
WARM_UPCALLS = 0
WARM_TO_TMPFS = 0.9
COLD_GB_S = 1.0
COLD_TO_PLAIN = 0.5

SLICE = 100  # small files under one root before the next one's turn: about 2 ms
WARM_ROUNDS = 5
COUNTED_ROUNDS = 3


def lookup(scene: Scene) -> list[Figure]:
    """Names that the kernel has not asked for yet."""
    paths = scene.tree.files[: SLICE * scene.sizes.rounds]
    return _compare(scene, "lookup", "lookup", "stat", paths, slice=SLICE)


def read(scene: Scene) -> list[Figure]:
    """Opens, reads and closes small files that nobody has read yet."""
    paths = scene.tree.files[: SLICE * scene.sizes.rounds]
    return _compare(scene, "read", "open+read+close", "read", paths, slice=SLICE)


def pages(scene: Scene) -> list[Figure]:
    """Reads 4 KiB at a time in random order, each page of a file once."""
    return _compare(scene, "pages", "4 KiB reads", "pages", scene.tree.pages)


def sparse(scene: Scene) -> list[Figure]:
    """Reads 4 KiB out of every 128 in random order: each read needs another block. There is no bar for it."""
    return _compare(scene, "sparse", "4 KiB out of every 128", "sparse", scene.tree.pages, bars=False)


def upcalls(scene: Scene) -> list[Figure]:
    """Counts what the kernel still asks about a warm tree below an overlay."""
    stage, tree = scene.stage, scene.tree
    small = tree.files[:500]
    work = {
        "stat": ("stat", small),
        "readlink": ("readlink", tree.symlinks[:500]),
        "cat": ("read", [*small, tree.big[0]]),
        "mmap": ("mmap", [*small, tree.pages[0]]),
        "exec": ("exec", [tree.program]),
    }
    figures = []
    with ExitStack() as stack:
        mounted = stack.enter_context(stage.cache(scene.release, "native"))
        merged = {"native": stack.enter_context(stage.overlay(mounted.path))}
        for operation, paths in work.values():
            stage.time("warm up", operation, merged, paths, slice=len(paths))
        for name, (operation, paths) in work.items():
            before = mounted.upcalls()
            stage.time(f"warm {name}", operation, merged, paths, slice=len(paths), rounds=COUNTED_ROUNDS)
            grown = {kind: count - before.get(kind, 0) for kind, count in mounted.upcalls().items()}
            said = [f"{kind} {count}" for kind, count in grown.items() if count]
            note = f"in {COUNTED_ROUNDS * len(paths):,}" + (f": {', '.join(said)}" if said else "")
            what = f"upcalls of warm {name} through overlayfs"
            figures.append(Figure("upcalls", what, sum(grown.values()), "", WARM_UPCALLS, note=note))
        resident = mounted.resident_mb()
    return [*figures, Figure("upcalls", "resident memory of the daemon after that", resident, "MiB")]


def warm(scene: Scene) -> list[Figure]:
    """Reads sequentially out of the page cache, ours and tmpfs below the same kind of overlay.

    They fill their memory in turns: who is first gets the pages that others have just freed, scattered or in
    falling order, and these are read up to twice as slowly.
    """
    stage, big, twin = scene.stage, scene.tree.big, scene.stage.directory("twin")
    with ExitStack() as stack:
        mounted = stack.enter_context(stage.cache(scene.release, "native"))
        roots = {
            "native": stack.enter_context(stage.overlay(mounted.path)),
            "tmpfs": stack.enter_context(stage.overlay(twin)),
        }
        for number, path in enumerate(big):
            (twin / path).parent.mkdir(parents=True, exist_ok=True)
            fill: list[Callable[[], object]] = [
                partial(stage.time, "warm up", "read", {"native": roots["native"]}, [path]),
                partial(shutil.copyfile, scene.tree.path / path, twin / path),
            ]
            for step in fill if number % 2 else reversed(fill):
                step()
        stage.time("warm", "read", roots, big, rounds=WARM_ROUNDS)
    shutil.rmtree(twin)
    share = ratio(stage.samples, "warm", "tmpfs", "native")
    native, tmpfs = (rate(stage.samples, "warm", name).value for name in roots)
    note = f"{native:.1f} against {tmpfs:.1f} GB/s"
    return [
        at_least(
            "warm",
            "warm sequential read against tmpfs, through overlayfs",
            share,
            "×",
            bar=WARM_TO_TMPFS,
            note=note,
        )
    ]


def cold(scene: Scene) -> list[Figure]:
    """Reads sequentially what nobody has read yet; the source is in RAM."""
    stage = scene.stage
    with ExitStack() as stack:
        roots = {
            "native": stack.enter_context(stage.cache(scene.release, "native")).path,
            "minimal": stack.enter_context(stage.minimal(scene.tree.path)).path,
            "source": scene.tree.path,
        }
        stage.time("cold", "stream", roots, scene.tree.big)
    native, minimal, source = (rate(stage.samples, "cold", name) for name in roots)
    others = f"minimal C server {minimal.value:.2f}, the source itself {source.value:.2f} GB/s"
    # One of the two bars is enough, because the source itself may be slow.
    if native.value >= COLD_GB_S:
        return [at_least("cold", "cold sequential read", native, "GB/s", bar=COLD_GB_S, note=others)]
    share = ratio(stage.samples, "cold", "source", "native")
    note = f"{native.value:.2f} GB/s; {others}"
    return [
        at_least(
            "cold", "cold sequential read against the source itself", share, "×", bar=COLD_TO_PLAIN, note=note
        )
    ]


def _compare(
    scene: Scene,
    cell: str,
    what: str,
    operation: str,
    paths: Sequence[str],
    *,
    slice: int = 1,
    bars: bool = True,
) -> list[Figure]:
    """The native engine against the minimal server, and the Python engine against the native one."""
    stage, release, tree = scene.stage, scene.release, scene.tree.path
    with ExitStack() as stack:
        stack.enter_context(one_processor())
        roots = {
            "native": stack.enter_context(stage.cache(release, "native")).path,
            "minimal": stack.enter_context(stage.minimal(tree)).path,
            "python": stack.enter_context(stage.cache(tree, "python")).path,
        }
        stage.time(cell, operation, roots, paths, slice=slice)
    native, minimal, python = (microseconds(stage.samples, cell, name) for name in roots)
    rival = ratio(stage.samples, cell, "native", "minimal")
    reference = ratio(stage.samples, cell, "python", "native")
    return [
        at_most(
            cell,
            f"{what}, against minimal C server",
            rival,
            "×",
            bar=TO_MINIMAL if bars else None,
            note=f"{native:.1f} against {minimal:.1f} µs",
        ),
        at_least(
            cell,
            f"{what}, faster than Python engine",
            reference,
            "×",
            bar=TO_PYTHON if bars else None,
            note=f"{native:.1f} against {python:.1f} µs",
        ),
    ]
