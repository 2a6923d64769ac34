"""Builds a release: from a directory to a manifest, one new pack, and a place in the store."""

import errno
import fcntl
import os
import secrets
import shutil
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orioncache.errors import UserError
from orioncache.native.builder import Builder, BuildFailedError, Progress
from orioncache.release.format import ManifestError
from orioncache.release.store import Release, Store, already_there, check_name

BLOCK_SIZE = 128 << 10
# Scans of so many versions of the same name are looked at: what was changed and changed back is known, too.
SCANS = 4
# "ORIONJL\n", version, kind of digest, block size: native/builder_journal.c.
_JOURNAL = struct.Struct("<8sIII")

Watch = Callable[[Progress], None]


@dataclass(frozen=True)
class Result:
    """A finished build.

    Attributes:
        release: what was built.
        progress: the builder's counters at the end.
        seconds: how long it took.
        warnings: what was left out, and why.
    """

    release: Release
    progress: Progress
    seconds: float
    warnings: list[str]

    @property
    def new_bytes(self) -> int:
        """Of blocks that the store did not have before, those of a killed build included."""
        return self.progress.new_bytes + self.progress.resumed_bytes if self.progress.used_new_blocks else 0

    @property
    def shared_bytes(self) -> int:
        """Of blocks that the release shares with others."""
        return max(0, self.progress.stored_bytes - self.new_bytes)


def build(
    root: Path,
    store: Store,
    name: str,
    version: str | None = None,
    *,
    digest_kind: int = 1,
    block_size: int = BLOCK_SIZE,
    jobs: int = 0,
    rehash: bool = False,
    verify_store: bool = False,
    cross: bool = False,
    force: bool = False,
    exclude: Sequence[str] = (),
    watch: Watch | None = None,
    finish: Callable[[Path], None] | None = None,
) -> Result:
    """Builds a release of what is in ``root``.

    Args:
        root: the tree.
        store: where it goes.
        name: the release's.
        version: its version; default: the day and a counter.
        digest_kind: orioncache.native.digests has them.
        block_size: bytes; a power of two from 4096 to 1 MiB.
        jobs: threads; 0: one for each processor.
        rehash: read all files, also those that look unchanged.
        verify_store: read all blocks of the store as well, and take none from a release that has bad ones.
        cross: enter file systems that are mounted in the tree.
        force: begin even if the disk may be too small.
        exclude: patterns of what to leave out.
        watch: called now and then while it goes on.
        finish: gets the release's directory before others see it, and may add to it.

    Raises:
        UserError: it cannot be done.
    """
    started = time.monotonic()
    check_name(name, "name")
    version = store.next_version(name) if version is None else check_name(version, "version")
    _check_places(root, store.path)
    if store.place(name, version).exists():
        raise already_there(name, version)
    jobs = jobs or len(os.sched_getaffinity(0))
    with store.locked(), _work_directory(store, digest_kind, block_size) as work:
        try:
            with Builder(
                root,
                work,
                name,
                version,
                digest_kind=digest_kind,
                block_size=block_size,
                jobs=jobs,
                rehash=rehash,
                cross=cross,
            ) as builder:
                for pattern in exclude:
                    builder.exclude(pattern)
                _tell(builder, store, name, rehash=rehash, verify_store=verify_store)
                builder.resume(watch)
                builder.walk(watch)
                _check_room(builder.progress(), work, force)
                builder.hash(watch)
                builder.write(watch)
                progress, warnings = builder.progress(), builder.warnings()
                identity = builder.pack_id().hex()
        except BuildFailedError as error:
            raise _explain(error, root, store) from None
        pack = f"{identity}.pack" if progress.used_new_blocks else None
        release = _publish(store, work, name, version, pack=pack, finish=finish)
    return Result(release, progress, time.monotonic() - started, warnings)


def _check_places(root: Path, store: Path) -> None:
    if not root.is_dir():
        raise UserError(f"{root} is no directory", "give the directory that nodes shall have as their root")
    one, other = root.resolve(), store.resolve()
    if one == other or one in other.parents or other in one.parents:
        raise UserError(f"{root} and {store} lie in each other", "keep the store outside of the tree")


def _check_room(progress: Progress, work: Path, force: bool) -> None:
    """Says beforehand if there is too little room. A store with content may have most of the tree already."""
    free = shutil.disk_usage(work).free
    if progress.bytes_total > free and not progress.store_blocks and not progress.resumed_bytes and not force:
        raise UserError(
            f"the tree has {progress.bytes_total / 1e6:,.0f} MB, the store's disk {free / 1e6:,.0f} MB free",
            "free some space, or give --force if enough of it is the same",
        )


def _explain(error: BuildFailedError, root: Path, store: Store) -> Exception:
    text = error.strerror or ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(store.path).free
        return UserError(
            f"{store.path} is full ({free / 1e6:,.0f} MB free): nothing was kept",
            "free some space there; orioncache release gc may find some",
        )
    mends = {
        errno.EACCES: "run it as root",
        errno.EPERM: "run it as root",
        errno.EBUSY: "stop what writes there, or build from a snapshot",
        errno.EFBIG: "give a larger --block-size, or --exclude it",
    }
    return UserError(
        f"{root}: {text}" if not text.startswith("the store") else text, mends.get(error.errno or 0, "")
    )


def _tell(builder: Builder, store: Store, name: str, *, rehash: bool, verify_store: bool) -> None:
    """Tells the builder what is there: this name's newest first, for what is in their scans.

    What lacks a pack is not there; a store whose bytes are in doubt is read whole when that is asked for.
    """
    own = store.releases(name)
    seen: set[str] = set()
    for release in [*own, *(other for other in store.releases() if other.name != name)]:
        first_of_name = release.name not in seen
        seen.add(release.name)
        if not _is_usable(release, store, verify_store=verify_store):
            continue
        use_scan = not rehash and (first_of_name or release in own[:SCANS])
        builder.add_release(release.manifest, release.scan if use_scan else None)


def _is_usable(release: Release, store: Store, *, verify_store: bool) -> bool:
    from orioncache.release.packs import has_packs  # noqa: PLC0415
    from orioncache.release.verify import verify  # noqa: PLC0415

    try:
        return has_packs(release.manifest, store.packs) and (
            not verify_store or verify(release, bundled=False).good
        )
    except (ManifestError, OSError):
        return False


def _publish(
    store: Store,
    work: Path,
    name: str,
    version: str,
    *,
    pack: str | None,
    finish: Callable[[Path], None] | None,
) -> Release:
    from orioncache.release.packs import used_packs  # noqa: PLC0415

    linked = [each for each in used_packs(work / "manifest") if each != pack]
    return store.publish(work, name, version, pack=pack, linked=linked, finish=finish)


@contextmanager
def _work_directory(store: Store, digest_kind: int, block_size: int) -> Iterator[Path]:
    """A directory for a build: one that a killed build left, if it can be gone on with, or a new one.

    It is locked for as long as it is in use. It stays for the next build if this one is interrupted or finds
    something to complain of in the tree, and goes when it is done or the disk is full.
    """
    work, lock = _take_directory(store, digest_kind, block_size)
    keep = False
    try:
        yield work
    except KeyboardInterrupt:
        keep = True
        raise
    finally:
        if not keep:
            shutil.rmtree(work, ignore_errors=True)
        os.close(lock)


def _take_directory(store: Store, digest_kind: int, block_size: int) -> tuple[Path, int]:
    # While directories are looked at, none may be between its making and its locking.
    guard = os.open(store.builds, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(guard, fcntl.LOCK_EX)
        left = []
        for path in store.builds.iterdir():
            lock = _lock(path)
            if lock is None:
                continue
            left.append((_kept_bytes(path, digest_kind, block_size), path, lock))
        left.sort(reverse=True)
        if left and left[0][0] > 0:
            _, path, chosen = left.pop(0)
        else:
            path = store.builds / secrets.token_hex(8)
            path.mkdir(mode=0o700)
            fresh = _lock(path)
            if fresh is None:
                raise UserError(
                    f"{path} cannot be locked", "use a file system that has flock(2) for the store"
                )
            chosen = fresh
        for _, other, lock in left:
            shutil.rmtree(other, ignore_errors=True)
            os.close(lock)
    finally:
        os.close(guard)
    return path, chosen


def _lock(path: Path) -> int | None:
    """The lock of a build's directory; None if its builder lives, or has just taken it away."""
    try:
        fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def _kept_bytes(path: Path, digest_kind: int, block_size: int) -> int:
    """How much of a killed build there is for one with these blocks and digests."""
    try:
        with (path / "journal").open("rb") as file:
            head = file.read(_JOURNAL.size)
        length = (path / "new.pack").stat().st_size
    except FileNotFoundError:
        return 0
    return length if head == _JOURNAL.pack(b"ORIONJL\n", 1, digest_kind, block_size) else 0
