"""Takes releases out of a store, and frees the room that only they took."""

import ctypes
import errno
import fcntl
import os
import secrets
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from orioncache.errors import UserError
from orioncache.release import bundling
from orioncache.release.format import ManifestError
from orioncache.release.packs import used_packs, used_ranges
from orioncache.release.store import Release, Store, sync_directory

DAY = 86400.0
PAGE = 4096
_PUNCH_HOLE_KEEP_SIZE = 3  # <linux/falloc.h>


def last_read(release: Release) -> float | None:
    """When a node read its manifest last, in seconds since 1970; None: never since it was built.

    Servers note it at most once a day (relatime), and not at all on a file system mounted noatime.
    """
    found = release.manifest.stat()
    return found.st_atime if found.st_atime > max(found.st_mtime, found.st_ctime) else None


def is_mounted(release: Release) -> bool:
    """Whether a mount on this machine has it open: it holds a lock on the manifest."""
    fd = os.open(release.manifest, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def reasons_to_keep(store: Store, release: Release, unused_for: float) -> list[str]:
    """Why nodes may still want a release; nothing if they do not.

    Args:
        store: where it is.
        release: which one.
        unused_for: after so many days without being read it counts as unused.
    """
    reasons = []
    if store.releases(release.name)[0] == release:
        reasons.append(f"it is the newest version of {release.name}, which nodes boot next")
    if is_mounted(release):
        reasons.append("it is mounted on this machine")
    read = last_read(release)
    if read is not None and time.time() - read < unused_for * DAY:
        reasons.append(f"it was read {(time.time() - read) / DAY:.1f} days ago")
    return reasons


def remove(store: Store, release: Release, *, force: bool = False, unused_for: float = 7) -> None:
    """Takes a release out of the store, at once; its packs stay until :func:`collect`.

    Raises:
        UserError: nodes may still use it.
    """
    reasons = [] if force else reasons_to_keep(store, release, unused_for)
    if reasons:
        raise UserError(
            f"{release} may still be in use: {'; '.join(reasons)}", "give --force to remove it all the same"
        )
    aside = store.removed / f"{release.name}-{release.version}-{secrets.token_hex(4)}"
    try:
        release.path.rename(aside)
    except FileNotFoundError:
        raise UserError(f"{release} is gone: somebody else removed it") from None
    sync_directory(release.path.parent)
    shutil.rmtree(aside, ignore_errors=True)
    try:
        release.path.parent.rmdir()
    except OSError:
        return  # it has other versions


@dataclass
class Freed:
    """What :func:`collect` freed, or would.

    Attributes:
        packs: files of packs that no release links.
        pack_bytes: the room that they took.
        hole_bytes: the room in other packs that nothing uses.
        leftovers: of builds, removals and writers of bundles that were killed, and what nodes sent of
            releases that are gone; as paths in the store.
        leftover_bytes: and their room.
    """

    packs: list[str] = field(default_factory=list)
    pack_bytes: int = 0
    hole_bytes: int = 0
    leftovers: list[str] = field(default_factory=list)
    leftover_bytes: int = 0

    @property
    def bytes(self) -> int:
        """All of it."""
        return self.pack_bytes + self.hole_bytes + self.leftover_bytes


def collect(store: Store, *, dry_run: bool = False) -> Freed:
    """Frees what no release uses. Holds the store alone, so no build may be under way.

    Raises:
        UserError: a build is under way, or a manifest cannot be read: nothing is freed then.
    """
    with store.locked(alone=True):
        linked, used = _used(store)
        freed = Freed()
        aside = [path for release in store.releases() for path in bundling.leftovers(release.path)]
        aside += _learned_of_removed(store)
        for path in [*sorted([*store.builds.iterdir(), *store.removed.iterdir()]), *aside]:
            freed.leftovers.append(str(path.relative_to(store.path)))
            freed.leftover_bytes += _room(path)
            if not dry_run:
                _clear(path)
        for pack in sorted(store.packs.iterdir()):
            if pack.name not in linked:
                freed.packs.append(pack.name)
                freed.pack_bytes += _room(pack)
                if not dry_run:
                    pack.unlink()
            elif pack.name in used:
                freed.hole_bytes += _punch(pack, used[pack.name], dry_run=dry_run)
        if not dry_run:
            sync_directory(store.packs)
    return freed


def _learned_of_removed(store: Store) -> list[Path]:
    return [
        path
        for path in sorted(store.learned.glob("*/*"))
        if not (store.path / "releases" / path.parent.name / path.name).is_dir()
    ]


def _used(store: Store) -> tuple[set[str], dict[str, list[tuple[int, int]]]]:
    """The packs that releases link, and the bytes of each that some manifest uses."""
    linked: set[str] = set()
    used: dict[str, list[tuple[int, int]]] = {}
    for release in store.releases():
        try:
            linked.update(pack.name for pack in release.packs())
            linked.update(used_packs(release.manifest))
            for pack, offset, length in used_ranges(release.manifest):
                used.setdefault(pack, []).append((offset, offset + length))
        except ManifestError as error:
            raise UserError(
                f"{release}: its manifest is damaged ({error}), so nobody knows what it uses",
                f"orioncache release remove --force {store.path} {release.name} {release.version}",
            ) from None
    return linked, used


def _punch(pack: Path, used: list[tuple[int, int]], *, dry_run: bool) -> int:
    """Frees the whole pages of a pack that lie between what is used; returns the bytes that this frees."""
    size = pack.stat().st_size
    freed, end = 0, 0
    fd = os.open(pack, os.O_RDWR | os.O_CLOEXEC)
    try:
        for first, last in [*sorted(used), (size, size)]:
            start, stop = -(-end // PAGE) * PAGE, first // PAGE * PAGE
            if first == size:
                stop = size
            if stop > start:
                freed += _allocated(fd, start, stop)
                if not dry_run:
                    _fallocate(fd, start, stop - start)
            end = max(end, last)
    finally:
        os.close(fd)
    return freed


def _allocated(fd: int, start: int, stop: int) -> int:
    """Bytes of a range that take room."""
    found = 0
    while start < stop:
        try:
            start = os.lseek(fd, start, os.SEEK_DATA)
        except OSError:
            break
        hole = os.lseek(fd, start, os.SEEK_HOLE) if start < stop else stop
        found += max(0, min(hole, stop) - start)
        start = hole
    return found


def _fallocate(fd: int, offset: int, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    off_t = ctypes.c_int64
    if libc.fallocate64(fd, _PUNCH_HOLE_KEEP_SIZE, off_t(offset), off_t(length)):
        code = ctypes.get_errno()
        # A file system that cannot do it keeps the bytes, which is no harm.
        if code not in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise OSError(code, os.strerror(code))


def _clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _room(path: Path) -> int:
    if path.is_dir() and not path.is_symlink():
        return sum(_room(each) for each in path.iterdir())
    return path.lstat().st_blocks * 512
