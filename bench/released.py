"""The root as a release, built once for each root."""

import os
import shutil
from pathlib import Path

from orioncache.bench.root import fingerprint
from orioncache.errors import UserError
from orioncache.paths import cache_directory
from orioncache.progress import step
from orioncache.release.build import build
from orioncache.release.detect import MANIFEST, PACKS
from orioncache.release.store import Store

NAME = "bench"
STORES_KEPT = 4  # each as large as its root


def bench_release(root: Path) -> Path:
    """The directory of a release of ``root``; what the bench's servers export.

    Raises:
        UserError: it cannot be built.
    """
    directory = cache_directory("release")
    version = fingerprint(root)
    store = Store.create(directory / version)
    place = store.place(NAME, version)
    if not place.exists():
        with step("building a release of the root", "some seconds"):
            build(root, store, NAME, version)
    os.utime(store.path)  # the newest ones are kept
    _forget_old(directory)
    return place


def check_release(path: Path) -> None:
    """Looks at a directory that the user calls a release.

    Raises:
        UserError: it is none.
    """
    if not (path / MANIFEST).is_file() or not (path / PACKS).is_dir():
        raise UserError(f"{path} is no release", "give STORE/releases/NAME/VERSION; orioncache release list")


def _forget_old(directory: Path) -> None:
    stores = sorted(directory.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for store in stores[STORES_KEPT:]:
        shutil.rmtree(store)
