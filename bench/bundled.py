"""The release with a bundle: a boot is recorded once for each root and workload, and learned from."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from orioncache.atomic import replacing_directory
from orioncache.bench import recorded
from orioncache.bench.scene import Scene
from orioncache.errors import UserError
from orioncache.paths import cache_directory, content_key
from orioncache.profile import format as profiles
from orioncache.profile.build import of_boot
from orioncache.profile.carry import carry
from orioncache.progress import step
from orioncache.release import bundling
from orioncache.release.bundle import DEFAULT_ROLE, place
from orioncache.release.content import open_manifest
from orioncache.release.detect import MANIFEST, PACKS
from orioncache.release.packs import read_header
from orioncache.trace import format as traces

# Beside the release that a recorded boot went into, for whoever wants to look.
TRACE, PROFILE = "boot.trace", "boot.profile"
RELEASE = "release"
KEPT = 4  # each as large as its release
# Goes up when other pages are learned from the same boot, or a bundle is laid out anew.
RECIPE = "1"


def check_bundle(release: Path) -> None:
    """Looks for a bundle in a release that the user gives.

    Raises:
        UserError: it has none.
    """
    if not place(release, DEFAULT_ROLE).is_file():
        raise UserError(
            f"{release} has no bundle for orion-profile",
            "orioncache release bundle STORE NAME --profile FILE",
        )


def bundled_release(scene: Scene, extra: Mapping[str, Path | bytes], *, timeout: float, record: bool) -> Path:
    """The directory of the scene's release with a bundle of what a boot of the scene read.

    Args:
        scene: root, workload and release; the boot is recorded with the virtual clock and no delay.
        extra: the files of the workload, and what injects it.
        timeout: seconds of real time for the boot.
        record: whether a boot may be recorded, if none was yet.

    Raises:
        UserError: none was yet and none may be, or the boot failed.
    """
    assert scene.release is not None
    directory = cache_directory("bundled")
    words = recorded.words(scene)
    parts: list[str | bytes] = [
        RECIPE,
        read_header(scene.release / MANIFEST).digest,
        scene.init,
        " ".join(words),
    ]
    for name, item in sorted(extra.items()):
        parts += [name, item if isinstance(item, bytes) else item.read_bytes()]
    path = directory / content_key(*parts)
    if not path.is_dir():
        if not record:
            raise UserError(
                "no boot of this root and workload was recorded yet, which orion-profile needs",
                "run it once without --dry-run",
            )
        with step("recording a boot for its profile", "about a minute", total=None):
            data = recorded.record(scene, "touch", timeout).trace
        _make(path, scene.release, data)
    os.utime(path)  # the newest ones are kept
    _forget_old(directory)
    return path / RELEASE


def _make(path: Path, release: Path, data: bytes) -> None:
    """Puts release, bundle, trace and profile together."""
    trace = traces.decode(data, "the recorded boot")
    profile = of_boot(Path("the recorded boot"), trace)
    with replacing_directory(path) as aside:
        copy = aside / RELEASE
        # No links: another name would change what the disk image of the release is known by.
        shutil.copytree(release / PACKS, copy / PACKS)
        shutil.copy2(release / MANIFEST, copy / MANIFEST)
        manifest = open_manifest(copy)
        bundling.write(copy, manifest, DEFAULT_ROLE, carry(profile, manifest).pieces, profile.boots)
        (aside / TRACE).write_bytes(data)
        profiles.write(profile, aside / PROFILE)


def _forget_old(directory: Path) -> None:
    found = [path for path in directory.iterdir() if not path.name.startswith(".")]
    for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)[KEPT:]:
        shutil.rmtree(path, ignore_errors=True)
