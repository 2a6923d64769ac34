"""Verifies a release: its manifest, its signatures, every block of its packs, and its bundles."""

import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from orioncache.errors import UserError
from orioncache.native import audit, digests
from orioncache.native.manifest import NativeManifest
from orioncache.release import bundle as bundles
from orioncache.release.bundle import PAGE, Bundle, BundleError
from orioncache.release.content import Content
from orioncache.release.format import EXTENT, HOLE, INODE, ManifestError, Section
from orioncache.release.manifest import Manifest
from orioncache.release.packs import pack_sizes, read_header, read_quietly, read_section
from orioncache.release.sign import bundle_is_signed
from orioncache.release.store import Release

# Of so many files, their names are told.
NAMED = 1000
# Of so many runs of a file's blocks, their numbers.
RUNS = 8


@dataclass
class Report:
    """What was found.

    Attributes:
        release: in which release.
        problems: what is wrong, a line each.
        blocks: how many were looked at.
        bad_blocks: how many of these are not what they should be.
        bad_files: files that have such blocks, as paths from the root.
        bytes: that were read.
        bundles: how many were looked at.
    """

    release: Release
    problems: list[str] = field(default_factory=list)
    blocks: int = 0
    bad_blocks: int = 0
    bad_files: list[str] = field(default_factory=list)
    bytes: int = 0
    bundles: int = 0

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify(
    release: Release,
    key: bytes | None = None,
    jobs: int = 0,
    watch: Callable[[int, int], None] | None = None,
    *,
    bundled: bool = True,
    rate: int = 0,
) -> Report:
    """Verifies a release.

    Args:
        release: which one.
        key: a public key; then it must be signed with it, and so must its bundles.
        jobs: threads; 0: one for each processor.
        watch: called now and then with the bytes that were read, and all that there are.
        bundled: its bundles as well.
        rate: bytes per second to read, on average; 0: as many as come.
    """
    report = Report(release)
    try:
        data = read_quietly(release.manifest)
        header = read_header(release.manifest)
        manifest = NativeManifest(data)
    except (ManifestError, OSError) as error:
        report.problems.append(f"manifest: {error}")
        return report
    if not manifest.verify():
        report.problems.append("manifest: it does not have the digest that its header names")
    elif problem := manifest.check():
        report.problems.append(f"manifest: {problem}")
    if key is not None and (problem := _signature_problem(release, header.digest_kind, header.digest, key)):
        report.problems.append(f"signature: {problem}")
    if report.problems:
        return report
    _check_packs(release, report)

    def seen(done: int) -> None:
        if watch is not None:
            watch(done, header.stored_bytes)

    jobs = jobs or len(os.sched_getaffinity(0))
    try:
        verdicts = audit.audit(manifest, release.path / "packs", jobs, seen, rate=rate)
    except FileNotFoundError:
        report.problems.append("packs: there is no such directory")
        return report
    report.blocks, report.bytes = len(verdicts), header.stored_bytes
    report.bad_blocks = len(verdicts) - verdicts.count(audit.GOOD)
    if report.bad_blocks:
        _name_files(release, manifest, verdicts, report)
    with Content(release.path, Manifest(data)) as content:
        for path in bundles.bundles(release.path) if bundled else ():
            report.bundles += 1
            report.problems += [
                f"bundles/{path.name}: {problem}"
                for problem in bundle_problems(path, content, key, pace=Pace(rate))
            ]
    return report


class Pace:
    """Keeps reading to a number of bytes per second, on average."""

    def __init__(self, rate: int) -> None:
        """Begins now; with a rate of 0 nobody waits."""
        self._rate = rate
        self._due = time.monotonic()

    def read(self, length: int) -> None:
        """Waits for as long as so many bytes take that were read."""
        if self._rate:
            self._due = max(self._due, time.monotonic()) + length / self._rate
            time.sleep(max(0.0, self._due - time.monotonic()))


def bundle_problems(
    path: Path, content: Content, key: bytes | None, *, pace: Pace | None = None
) -> Iterator[str]:
    """What is wrong with a bundle, a line each; it ends with the first chunk that is.

    Args:
        path: its file.
        content: of the release that it should belong to.
        key: a public key; then it must be signed with it.
        pace: is waited for.
    """
    header = content.manifest.header
    try:
        bundle = Bundle(path)
        if (bundle.digest_kind, bundle.manifest) != (header.digest_kind, header.digest):
            yield "it belongs to another release"
            return
        if bundle.role + bundles.SUFFIX != path.name:
            yield f"it is for role {bundle.role}"
        if key is not None and not bundle_is_signed(bundle, key):
            yield "it is not signed with this key"
        for chunk, data in bundle.contents():
            size = content.size(chunk.inode)
            end = chunk.offset + chunk.length
            if size is None or end > size or (chunk.length % PAGE and end != size):
                yield f"a chunk at {chunk.offset} of inode {chunk.inode} does not lie in a file"
                return
            if pace is not None:
                # In the bundle, and what it is compared with.
                pace.read(2 * chunk.length)
            if content.read(chunk.inode, chunk.offset, chunk.length) != data:
                yield f"the chunk at {chunk.offset} of inode {chunk.inode} differs from the release"
                return
    except BundleError as error:
        yield error.message.removeprefix(f"{path}: ")
    except UserError as error:
        yield error.message.removeprefix(f"{content.release}: ")
    except OSError as error:
        yield error.strerror or str(error)


def _signature_problem(release: Release, kind: int, digest: bytes, key: bytes) -> str | None:
    if kind == digests.XXH3_128:
        return "its digests are xxh3, which anybody can forge"
    try:
        signature = release.signature.read_bytes()
    except FileNotFoundError:
        return "there is none"
    return None if digests.signature_is_good(kind, digest, signature, key) else "it is not by this key"


def _check_packs(release: Release, report: Report) -> None:
    for name, size in pack_sizes(release.manifest).items():
        try:
            found = (release.path / "packs" / name).stat().st_size
        except OSError as error:
            report.problems.append(f"packs/{name}: {error.strerror}")
            continue
        if found != size:
            report.problems.append(f"packs/{name}: it has {found:,} bytes and should have {size:,}")


def _name_files(release: Release, manifest: NativeManifest, verdicts: bytes, report: Report) -> None:
    extents = list(EXTENT.iter_unpack(read_section(release.manifest, Section.EXTENTS)))
    for number, inode in enumerate(INODE.iter_unpack(read_section(release.manifest, Section.INODES))):
        mode, first, count = inode[3], inode[8], inode[9]
        if not stat.S_ISREG(mode):
            continue
        bad = {
            at + index: verdicts[start + index]
            for at, length, start, _ in extents[first : first + count]
            if start != HOLE
            for index in range(length)
            if verdicts[start + index] != audit.GOOD
        }
        if not bad:
            continue
        if len(report.bad_files) < NAMED:
            path = os.fsdecode(manifest.path(number))
            report.bad_files.append(path)
            differs = audit.DIFFERS in bad.values()
            what = "content differs from its digest" if differs else "content is missing"
            report.problems.append(f"{path}: {what}: {_blocks(sorted(bad))}")


def _blocks(numbers: list[int]) -> str:
    """Numbers of a file's blocks, in their order, for people."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = ", ".join(f"{first}-{last}" if last > first else f"{first}" for first, last in runs[:RUNS])
    more = f" and {len(runs) - RUNS} more runs" if len(runs) > RUNS else ""
    return f"block{'s' * (len(numbers) > 1)} {shown}{more}"
