"""The bars that a boot from a release is held against: plain NFS in the same bench, and sizes."""

from collections.abc import Callable, Iterator, Sequence

from orioncache.bench.fs.figures import Figure
from orioncache.bench.report.summary import Cell, cells
from orioncache.bench.sample import Document

# The bars. Userland, by the round trip in ms: the part of what it takes over plain NFS.
USERLAND_TO_NFS = {0.0: 1.0, 1.0: 1 / 2, 10.0: 1 / 3}
INITRAMFS_BEYOND_NFS_S = 0.08  # without a round trip
DAEMON_MB = 40  # the daemon's resident memory beside the blocks that it keeps
IMAGE_MB = 6

CACHE, BASE = "orion", "nfs"


def bars(document: Document) -> list[Figure]:
    """Every bar that these samples can be held against; empty if there are none.

    They are for the virtual clock and a plain link: elsewhere figures are the machine's, or the loss's.
    """
    found = {
        (cell.variant, cell.link.rtt_ms): cell
        for cell in cells(document)
        if cell.link.clock == "virtual" and cell.link.is_plain and not cell.failed
    }
    pairs = [
        (cell, found[BASE, rtt])
        for (name, rtt), cell in found.items()
        if name == CACHE and (BASE, rtt) in found
    ]
    return [*_times(pairs), *_sizes([cell for (name, _), cell in found.items() if name == CACHE], document)]


def _times(pairs: Sequence[tuple[Cell, Cell]]) -> Iterator[Figure]:
    for cell, base in pairs:
        rtt = cell.link.rtt_ms
        mine, theirs = cell.phases_s["userland"], base.phases_s["userland"]
        if rtt in USERLAND_TO_NFS:
            yield Figure(
                "userland",
                f"userland at {rtt:g} ms, orion to nfs",
                mine / theirs,
                "×",
                USERLAND_TO_NFS[rtt],
                note=f"{mine:.3f} s; nfs {theirs:.3f} s",
            )
        if rtt == 0:
            mine, theirs = cell.phases_s["initramfs"], base.phases_s["initramfs"]
            yield Figure(
                "initramfs",
                "initramfs at 0 ms, orion beyond nfs",
                mine - theirs,
                "s",
                INITRAMFS_BEYOND_NFS_S,
                note=f"{mine:.3f} s; nfs {theirs:.3f} s",
            )


def _sizes(found: Sequence[Cell], document: Document) -> Iterator[Figure]:
    beside = _most(found, lambda cell: cell.beside_mb)
    if beside is not None:
        yield Figure("daemon", "the daemon beside its blocks", beside, "MB", DAEMON_MB)
    image = document.environment.get("initramfs")
    size = image.get("bytes") if isinstance(image, dict) else None
    if found and isinstance(size, int):
        yield Figure("image", "initramfs image", size / 1e6, "MB", IMAGE_MB)


def _most(found: Sequence[Cell], value: Callable[[Cell], float | None]) -> float | None:
    return max((one for cell in found if (one := value(cell)) is not None), default=None)
