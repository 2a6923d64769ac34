"""The root as a squashfs image, with the programs that carry it over the network; made once for each root.

All of it is one directory that becomes a disk image of the guest's, as the root itself does:
``root.squashfs``, ``bin/nbd-server``, ``bin/nbd-client`` and ``lib``, what these two need. So the archive
that the guest's kernel unpacks is the same for all variants.
"""

import os
import shutil
from pathlib import Path

from orioncache.atomic import replacing_directory
from orioncache.bench.image import libraries_of
from orioncache.bench.root import fingerprint
from orioncache.paths import cache_directory, content_key, require_room
from orioncache.process import require, run
from orioncache.progress import step

IMAGE = "root.squashfs"

# Blocks of 128 KiB, mksquashfs's default. As one process writes it the same root gives the same bytes.
OPTIONS = ("-comp", "lz4", "-noappend", "-no-recovery", "-quiet", "-no-progress", "-mkfs-time", "0")

# Options that a kernel needs so that a root can come over NBD; a node's kernel has none of them.
KERNEL = ("CONFIG_BLK_DEV_NBD=y", "CONFIG_SQUASHFS=y", "CONFIG_SQUASHFS_LZ4=y", "CONFIG_SQUASHFS_XATTR=y")

KEPT = 6  # each half as large as its root


def bench_squashfs(root: Path) -> Path:
    """The directory that holds ``root`` as a squashfs image; cached by the tree's fingerprint.

    Raises:
        UserError: a program is missing, the disk is full, another file system is mounted inside the tree.
    """
    mksquashfs = require("mksquashfs", "squashfs-tools")
    programs = [Path(require(name, name)) for name in ("nbd-server", "nbd-client")]
    _, libraries = libraries_of(programs)
    files = {f"bin/{path.name}": path for path in programs} | {f"lib/{path.name}": path for path in libraries}
    parts = [*OPTIONS, *(part for name, path in sorted(files.items()) for part in (name, path.read_bytes()))]
    directory = cache_directory("squashfs")
    place = directory / f"{fingerprint(root)}-{content_key(*parts)}"
    if place.is_dir():
        os.utime(place)  # the newest ones are kept
        return place
    require_room(directory, 1_000_000_000, "a squashfs image")
    with (
        step("making a squashfs image of the root", "some seconds, half the root's size"),
        replacing_directory(place) as aside,
    ):
        run([mksquashfs, root, aside / IMAGE, *OPTIONS], mend=f"is there room in {directory}?")
        for name, path in files.items():
            (aside / name).parent.mkdir(exist_ok=True)
            shutil.copy(path, aside / name)
    _forget_old(directory)
    return place


def _forget_old(directory: Path) -> None:
    # What begins with a dot is being made.
    made = sorted(directory.glob("[!.]*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for place in made[KEPT:]:
        shutil.rmtree(place, ignore_errors=True)
