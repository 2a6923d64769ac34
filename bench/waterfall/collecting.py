"""What is made of the traces that runs send."""

from collections.abc import Sequence, Set
from pathlib import Path

import msgspec

from orioncache.bench.bundled import TRACE
from orioncache.bench.plan import Run
from orioncache.bench.qemu import Outcome
from orioncache.bench.sample import Sample
from orioncache.bench.scene import Scene
from orioncache.bench.waterfall.figure import Recorded, fetched
from orioncache.bench.waterfall.uses import judge, touched_pages
from orioncache.errors import UserError
from orioncache.options import is_role
from orioncache.prefetch.manifest_view import ManifestView
from orioncache.release.bundle import Bundle, place
from orioncache.release.content import open_manifest
from orioncache.release.detect import MANIFEST
from orioncache.trace import format
from orioncache.trace.format import BUNDLE, Trace

MARKS = ("kernel", "start", "initramfs", "ready")


class Waterfalls:
    """The recorded boots of a plan, judged by the release that they were served from."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._releases: dict[Path, _Release] = {}
        self._recorded: dict[str, Recorded] = {}

    def take(self, run: Run, outcome: Outcome) -> None:
        """Keeps what a run recorded, if it came to its end and all of it is known."""
        data, marks = outcome.report.files.get("trace"), outcome.report.marks
        if not data or outcome.error or any(name not in marks for name in MARKS):
            return
        trace = format.decode(data, f"what {run.name} sent")
        directory, _ = self._scene.export(run.variant)
        if directory not in self._releases:
            self._releases[directory] = _Release(directory)
        release = self._releases[directory]
        if trace.manifest_digest != release.digest:
            return
        bundle = (
            release.bundle(outcome.report.cache()) if any(f.reason == BUNDLE for f in trace.fetches) else None
        )
        self._recorded[run.name] = Recorded(
            variant=run.variant.name,
            link=run.link,
            run=run.number,
            marks=marks,
            trace=trace,
            judged=judge(trace, release.view, bundle, release.touched),
            files=release.files(trace),
            is_touched_known=bundle is not None and release.touched is not None,
        )

    def complete(self, runs: Sequence[Run], samples: Sequence[Sample]) -> list[Sample]:
        """The samples of these runs, with what was learned of each that was recorded."""
        return [
            msgspec.structs.replace(sample, fetched=fetched(self._recorded[run.name].judged))
            if run.name in self._recorded
            else sample
            for run, sample in zip(runs, samples, strict=True)
        ]

    def first(self, runs: Sequence[Run]) -> list[Recorded]:
        """What there is a picture of, in the plan's order: the first run of each variant on each link."""
        return [self._recorded[run.name] for run in runs if run.number == 1 and run.name in self._recorded]


class _Release:
    """A release as the workbench has it.

    Attributes:
        digest: its manifest's.
        view: its names and blocks.
        touched: the pages that the boot touched from which its bundle was made; None: not known.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._manifest = open_manifest(directory)
        self.digest = self._manifest.header.digest
        self.view = ManifestView(
            (directory / MANIFEST).read_bytes(),
            self._manifest,
            is_cached=lambda _: False,
            read=lambda _: None,
        )
        self.touched = self._touched()
        self._bundles: dict[str, Bundle] = {}
        self._users: dict[int, str] | None = None

    def bundle(self, status: dict[str, object]) -> Bundle | None:
        """The bundle that a cache with this status streamed, if it is here."""
        options = status.get("options")
        role = options.get("bundle") if isinstance(options, dict) else None
        if not isinstance(role, str) or not is_role(role):
            return None
        if role not in self._bundles:
            try:
                found = Bundle(place(self._directory, role))
            except (OSError, UserError):
                return None
            if found.manifest != self.digest:
                return None
            self._bundles[role] = found
        return self._bundles[role]

    def files(self, trace: Trace) -> dict[int, str]:
        """A file of each block that was fetched: the first in the manifest's order."""
        if self._users is None:
            self._users = {}
            for inode in range(self._manifest.inodes):
                for number in range(-(-self.view.size(inode) // self.view.block_size)):
                    block = self.view.block(inode, number)
                    if block is not None and block not in self._users:
                        self._users[block] = self.view.path(inode) or f"<inode {inode}>"
        return {
            block: self._users[block]
            for fetch in trace.fetches
            if fetch.reason != BUNDLE
            for block in range(fetch.first, fetch.first + fetch.blocks)
            if block in self._users
        }

    def _touched(self) -> Set[tuple[int, int]] | None:
        """bench/bundled.py keeps the recorded boot beside its release; others have none there."""
        try:
            trace = format.read(self._directory.parent / TRACE)
        except (OSError, UserError):
            return None
        return touched_pages(trace) if trace.first_touches and trace.manifest_digest == self.digest else None
