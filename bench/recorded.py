"""A boot that is recorded: its trace, and where userland lies on the trace's clock. The same boot only once.

It is recorded with the virtual clock and no delay, so that what lies between two requests is somebody's work.
"""

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from orioncache.atomic import replacing_directory
from orioncache.bench.plan import VARIANTS, Link, Run, Variant
from orioncache.bench.qemu import Outcome, boot
from orioncache.bench.scene import Scene
from orioncache.bench.virtual import virtual_clock
from orioncache.errors import UserError
from orioncache.paths import cache_directory, content_key
from orioncache.progress import step
from orioncache.release.detect import MANIFEST
from orioncache.release.packs import read_header

TRACE, MARKS = "boot.trace", "marks.json"
KEPT = 32  # each 0.1 to 2 MB
# Goes up when other things are kept of the same boot.
RECIPE = "1"


@dataclasses.dataclass(frozen=True)
class Recorded:
    """One recorded boot.

    Attributes:
        trace: the file's bytes.
        marks: name to nanoseconds on the guest's clock, which is the trace's (bench/verdict.py).
    """

    trace: bytes
    marks: dict[str, int]


def record(scene: Scene, mode: str, timeout: float) -> Recorded:
    """Boots a scene with its cache recording, and without a bundle.

    Args:
        scene: what is booted.
        mode: what ``orion.trace`` shall be: ``on`` or ``touch``.
        timeout: seconds of real time for the boot.

    Raises:
        UserError: the boot failed, or sent no trace.
    """
    plain = VARIANTS["orion"]
    variant: Variant = dataclasses.replace(plain, name="record", words=[*plain.words, f"orion.trace={mode}"])
    machine_scene = dataclasses.replace(scene, append=words(scene), accel="tcg")
    with (
        virtual_clock(machine_scene) as machine,
        tempfile.TemporaryDirectory(prefix="orion-record-") as logs,
    ):
        return _checked(boot(machine(Run(variant, Link(0), 1)), Path(logs), timeout))


def _checked(outcome: Outcome) -> Recorded:
    if outcome.error:
        raise UserError(
            f"the boot to be recorded failed: {outcome.error}",
            "see what fails: orioncache bench --variant orion --rtt 0 --keep",
        )
    data = outcome.report.files.get("trace", b"")
    if not data:
        raise UserError("the boot to be recorded sent no trace", "is the node's image an old one?")
    return Recorded(data, dict(outcome.report.marks))


def words(scene: Scene) -> Sequence[str]:
    """What the user adds to the command line, as far as it may change what a boot reads."""
    return [word for word in scene.append if not word.startswith(("orion.", "bench."))]


def place(scene: Scene, mode: str) -> Path:
    """Where the recording of a boot is, or will be: named after all that its times depend on."""
    assert scene.release is not None
    directory = cache_directory("recorded")
    parts: list[str | bytes] = [RECIPE, mode, read_header(scene.release / MANIFEST).digest, scene.init]
    parts += [" ".join(words(scene)), str(scene.servers)]
    return directory / content_key(*parts, scene.kernel.read_bytes(), scene.initrd.read_bytes())


def recorded(scene: Scene, mode: str, *, name: str, timeout: float) -> Path:
    """The directory of a recorded boot of a scene, with ``TRACE`` and ``MARKS``; recorded if it was not yet.

    Args:
        scene: what is booted; its release, kernel and images are part of what is known of the recording.
        mode: what ``orion.trace`` shall be.
        name: of the boot, for people.
        timeout: seconds of real time.

    Raises:
        UserError: the boot failed, or sent no trace.
    """
    path = place(scene, mode)
    if not path.is_dir():
        with step(f"recording a boot of {name}", "half a minute"):
            found = record(scene, mode, timeout)
        with replacing_directory(path) as aside:
            (aside / TRACE).write_bytes(found.trace)
            (aside / MARKS).write_text(json.dumps(found.marks))
    os.utime(path)  # the newest ones are kept
    _forget_old(path.parent)
    return path


def _forget_old(directory: Path) -> None:
    found = [path for path in directory.iterdir() if not path.name.startswith(".")]
    for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)[KEPT:]:
        shutil.rmtree(path, ignore_errors=True)
