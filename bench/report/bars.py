"""The bars that a boot from a release is held against: others in the same bench, and sizes."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from orioncache.bench.fs.figures import Figure
from orioncache.bench.report.summary import Cell, cells
from orioncache.bench.sample import Document

# The bars. Userland, by the round trip in ms: the part of what it takes over plain NFS.
USERLAND_TO_NFS = {0.0: 1.0, 1.0: 1 / 2, 10.0: 1 / 3}
INITRAMFS_BEYOND_NFS_S = 0.08  # without a round trip
DAEMON_MB = 40  # the daemon's resident memory beside the blocks that it keeps
IMAGE_MB = 6

# With a bundle: userland, by the round trip in ms, over that from RAM.
PROFILE_TO_RAM = {0.0: 1.15, 1.0: 1.3, 10.0: 2.0}
# Whole boots at 10 ms: how many times faster than the others.
FASTER_AT_MS = 10.0
FASTER = (
    ("orion", "nfs", 3.0),
    ("orion-profile", "nfs", 6.0),
    ("orion-profile", "nfs-tuned", 6.0),
    ("orion-profile", "nbd-squashfs", 3.0),
)
# Over a narrow link: the whole boot over that from RAM and the time that the bundle takes on the link.
NARROW_MBIT = 100.0
PROFILE_TO_LINK = 1.3

CACHE, BASE, PROFILE, RAM = "orion", "nfs", "orion-profile", "ram"


def bars(document: Document) -> list[Figure]:
    """Every bar that these samples can be held against; empty if there are none.

    They are for the virtual clock and a plain link: elsewhere figures are the machine's, or the loss's.
    """
    good = [cell for cell in cells(document) if cell.link.clock == "virtual" and not cell.failed]
    found = {(cell.variant, cell.link.rtt_ms): cell for cell in good if cell.link.is_plain}
    pairs = [
        (cell, found[BASE, rtt])
        for (name, rtt), cell in found.items()
        if name == CACHE and (BASE, rtt) in found
    ]
    return [
        *_times(pairs),
        *_profile(found),
        *_faster(found),
        *_narrow(good),
        *_sizes([cell for (name, _), cell in found.items() if name == CACHE], document),
    ]


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


def _profile(found: Mapping[tuple[str, float], Cell]) -> Iterator[Figure]:
    for rtt, bar in PROFILE_TO_RAM.items():
        cell, base = found.get((PROFILE, rtt)), found.get((RAM, rtt))
        if cell is not None and base is not None:
            mine, theirs = cell.phases_s["userland"], base.phases_s["userland"]
            what = f"userland at {rtt:g} ms, orion-profile to ram"
            yield Figure("profile", what, mine / theirs, "×", bar, note=f"{mine:.3f} s; ram {theirs:.3f} s")


def _faster(found: Mapping[tuple[str, float], Cell]) -> Iterator[Figure]:
    ram = found.get((RAM, FASTER_AT_MS))
    for name, other, bar in FASTER:
        cell, base = found.get((name, FASTER_AT_MS)), found.get((other, FASTER_AT_MS))
        if cell is None or base is None or cell.boot_s is None or base.boot_s is None:
            continue
        note = f"{cell.boot_s:.3f} s; {other} {base.boot_s:.3f} s"
        if ram is not None and ram.boot_s is not None:
            note += f"; from ram it would be {base.boot_s / ram.boot_s:.1f} ×"
        what = f"boot at {FASTER_AT_MS:g} ms, {name} faster than {other}"
        yield Figure("boot", what, base.boot_s / cell.boot_s, "×", bar, "more", note=note)


def _narrow(good: Sequence[Cell]) -> Iterator[Figure]:
    links = {(cell.variant, cell.link): cell for cell in good if cell.link.rate_mbit == NARROW_MBIT}
    for (name, link), cell in links.items():
        base = links.get((RAM, link))
        if name != PROFILE or base is None or cell.boot_s is None or base.boot_s is None:
            continue
        packed = _most([cell], _bundle_bytes)
        if packed:
            least = base.boot_s + packed * 8 / (NARROW_MBIT * 1e6)
            note = f"{cell.boot_s:.3f} s; ram {base.boot_s:.3f} s, bundle {packed / 1e6:.1f} MB"
            what = f"boot at {link.title}, orion-profile to ram and bundle / rate"
            yield Figure("narrow", what, cell.boot_s / least, "×", PROFILE_TO_LINK, note=note)


def _bundle_bytes(cell: Cell) -> float | None:
    """Bytes of the bundle that came over the link."""
    found = [(sample.cache.get("bundle") or {}).get("packed_bytes") for sample in cell.runs]
    return max((each for each in found if isinstance(each, int)), default=None)


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
