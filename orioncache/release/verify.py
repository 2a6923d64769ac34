"""Verifies a release: its manifest, its signature, and every block of its packs."""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field

from orioncache.native import audit, digests
from orioncache.native.manifest import NativeManifest
from orioncache.release.format import EXTENT, HOLE, INODE, ManifestError, Section
from orioncache.release.packs import pack_sizes, read_header, read_quietly, read_section
from orioncache.release.store import Release

# Of so many files, their names are told.
NAMED = 1000


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
    """

    release: Release
    problems: list[str] = field(default_factory=list)
    blocks: int = 0
    bad_blocks: int = 0
    bad_files: list[str] = field(default_factory=list)
    bytes: int = 0

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify(
    release: Release, key: bytes | None = None, jobs: int = 0, watch: Callable[[int, int], None] | None = None
) -> Report:
    """Verifies a release.

    Args:
        release: which one.
        key: a public key; then it must be signed with it.
        jobs: threads; 0: one for each processor.
        watch: called now and then with the bytes that were read, and all that there are.
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
    verdicts = audit.audit(manifest, release.path / "packs", jobs, seen)
    report.blocks, report.bytes = len(verdicts), header.stored_bytes
    report.bad_blocks = len(verdicts) - verdicts.count(audit.GOOD)
    if report.bad_blocks:
        _name_files(release, manifest, verdicts, report)
    return report


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
        found = {
            verdicts[block]
            for _, length, start, _ in extents[first : first + count]
            if start != HOLE
            for block in range(start, start + length)
        }
        if found <= {audit.GOOD}:
            continue
        if len(report.bad_files) < NAMED:
            path = os.fsdecode(manifest.path(number))
            report.bad_files.append(path)
            what = "content differs from its digest" if audit.DIFFERS in found else "content is missing"
            report.problems.append(f"{path}: {what}")
