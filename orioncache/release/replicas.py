"""Compares whole copies of a release, as servers have them, with its manifest and with each other."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from orioncache.errors import UserError
from orioncache.mounts import mounted_from
from orioncache.native.manifest import NativeManifest
from orioncache.release import bundle as bundles
from orioncache.release.detect import MANIFEST, PACKS, SIGNATURE
from orioncache.release.format import Header, ManifestError
from orioncache.release.packs import read_header, read_quietly, used_packs
from orioncache.release.store import SCAN, Release
from orioncache.release.verify import verify

# Seconds within which a directory must say what it is.
PATIENCE = 15.0


@dataclass
class Replica:
    """One copy, and what was found.

    Attributes:
        source: its directory.
        header: of its manifest; None if that cannot be believed.
        problems: what is wrong, a line each.
        blocks: how many were read.
        bad_blocks: how many of these are not what they should be.
        bytes: of these blocks.
        seconds: that it took.
    """

    source: str
    header: Header | None = None
    problems: list[str] = field(default_factory=list)
    blocks: int = 0
    bad_blocks: int = 0
    bytes: int = 0
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def release(self) -> str:
        """What it is, for people."""
        if self.header is None:
            return "?"
        return f"{self.header.name} {self.header.label} ({self.header.digest.hex()[:12]})"


T = TypeVar("T")

# Which copy is looked at, bytes done, bytes of all of it.
Watch = Callable[[str, int, int], None]


def check(
    sources: Sequence[str],
    *,
    key: bytes | None = None,
    jobs: int = 1,
    rate: int = 0,
    digest: str | None = None,
    watch: Watch = lambda *_: None,
) -> list[Replica]:
    """Looks at every byte of each copy.

    Args:
        sources: the directories.
        key: a public key by which each must be signed.
        jobs: threads.
        rate: bytes per second to read, on average; 0: as many as come.
        digest: hexadecimal digits of the release that all must be, or their first ones; None: of what the
            first one is that can be believed.
        watch: called now and then.

    Raises:
        UserError: two sources are the same directory.
    """
    _refuse_twins(sources)
    replicas = [_identify(source) for source in sources]
    wanted = next((r for r in replicas if r.header and (digest is None or _is(r.header, digest))), None)
    alike = []
    for replica in replicas:
        if replica.header is None:
            continue
        if wanted is not None and wanted.header is not None and replica.header.digest == wanted.header.digest:
            alike.append(replica)
        elif wanted is not None:
            replica.problems.append(
                f"it is another release: {replica.release}, and {wanted.source} is {wanted.release}"
            )
        else:
            replica.problems.append(f"it is another release: {replica.release}, not {digest}")
    for replica in alike:
        _read(replica, key, jobs, rate, watch)
    _compare(alike)
    return replicas


def same_machine(sources: Sequence[str]) -> list[str]:
    """A line for each pair of sources that come from one NFS server: losing that one loses both."""
    hosts: dict[str, str] = {}
    lines = []
    for source in sources:
        device = mounted_from(source)
        host = device.partition(":/")[0] if ":/" in device else ""
        if host and host in hosts:
            lines.append(f"{hosts[host]} and {source} are both of {host}")
        elif host:
            hosts[host] = source
    return lines


def _is(header: Header, digest: str) -> bool:
    return header.digest.hex().startswith(digest.lower())


def _refuse_twins(sources: Sequence[str]) -> None:
    seen: dict[tuple[int, int], str] = {}
    for source in sources:
        try:
            found = _within_patience(lambda source=source: os.stat(source))  # type: ignore[misc]  # noqa: PTH116
        except (OSError, TimeoutError):
            continue
        other = seen.setdefault((found.st_dev, found.st_ino), source)
        if other is not source:
            raise UserError(
                f"{source} is the same directory as {other}"
                if source != other
                else f"{source} is named twice",
                "name each copy once",
            )


def _identify(source: str) -> Replica:
    """What a directory is, by its manifest, all of which is verified."""
    replica = Replica(source)
    path = Path(source, MANIFEST)
    try:
        manifest = _within_patience(lambda: NativeManifest(read_quietly(path)))
        header = _within_patience(lambda: read_header(path))
    except TimeoutError:
        replica.problems.append(f"no answer within {PATIENCE:g} s")
    except (ManifestError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        replica.problems.append(f"manifest: {why}" if Path(source).is_dir() else f"{why}")
    else:
        if not manifest.verify():
            replica.problems.append("manifest: it does not have the digest that its header names")
        elif problem := manifest.check():
            replica.problems.append(f"manifest: {problem}")
        else:
            replica.header = header
    return replica


def _read(replica: Replica, key: bytes | None, jobs: int, rate: int, watch: Watch) -> None:
    assert replica.header is not None
    started = time.monotonic()
    release = Release(Path(replica.source), replica.header.name, replica.header.label)
    try:
        report = verify(release, key, jobs, lambda done, total: watch(replica.source, done, total), rate=rate)
        replica.problems += report.problems
        replica.blocks, replica.bad_blocks, replica.bytes = report.blocks, report.bad_blocks, report.bytes
        replica.problems += _strangers(release)
    except (ManifestError, OSError) as error:
        replica.problems.append(str(error))
    replica.seconds = time.monotonic() - started


def _strangers(release: Release) -> Iterable[str]:
    """Files that no release has."""
    known = {MANIFEST, SIGNATURE, PACKS, SCAN, bundles.FOLDER}
    found = {name for name in os.listdir(release.path) if name not in known}  # noqa: PTH208
    packs = set(used_packs(release.manifest))
    with contextlib.suppress(OSError):  # which is told already
        found |= {f"{PACKS}/{name}" for name in os.listdir(release.path / PACKS) if name not in packs}  # noqa: PTH208
    return [f"{name}: it is no part of the release" for name in sorted(found)]


def _compare(replicas: Sequence[Replica]) -> None:
    """Tells those that lack a signature or a bundle which another one has, or have other ones."""
    files = {replica.source: _beside(Path(replica.source)) for replica in replicas}
    for name in sorted({name for found in files.values() for name in found}):
        owner = next(replica for replica in replicas if name in files[replica.source])
        for replica in replicas:
            if name not in files[replica.source]:
                replica.problems.append(f"{name}: it is missing, and {owner.source} has it")
            elif files[replica.source][name] != files[owner.source][name]:
                replica.problems.append(f"{name}: it differs from that of {owner.source}")


def _beside(path: Path) -> dict[str, bytes]:
    """Signature and bundles in a release's directory, with what tells different ones from each other."""
    found = {}
    for name in (SIGNATURE, *(f"{bundles.FOLDER}/{each}" for each in _names(path / bundles.FOLDER))):
        try:
            if name.endswith(bundles.SUFFIX):
                found[name] = bundles.Bundle(path / name).digest
            else:
                found[name] = (path / name).read_bytes()
        except FileNotFoundError:
            continue
        except (OSError, UserError):
            found[name] = b"broken"  # which is told already
    return found


def _names(directory: Path) -> list[str]:
    try:
        names = os.listdir(directory)  # noqa: PTH208
    except OSError:
        return []
    return [name for name in names if name.endswith((bundles.SUFFIX, bundles.SIGNATURE_SUFFIX))]


def _within_patience(work: Callable[[], T]) -> T:
    """What work returns, from a thread that is left behind if that takes too long."""
    results: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError
    return results[0]
