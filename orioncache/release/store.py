"""A store of releases on a server's disk: what lies where, how it is locked, what is in it.

STORE/format                       says that this is a store, and of which version
STORE/releases/NAME/VERSION/       a release: manifest, signature, packs/, bundles/, scan; what a node mounts
STORE/packs/ID.pack                every pack, once; releases hold hard links to those that they use
STORE/builds/ID/                   a build under way, or what a killed one left for the next
STORE/removed/                     releases on their way out
STORE/learned/NAME/VERSION/        what nodes sent of their boots (orioncache.profile.inbox)
STORE/lock                         builds hold it shared, gc alone

A release appears by one rename, when all that it needs is on the disk, and leaves by one rename.
"""

import errno
import fcntl
import filecmp
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from orioncache.atomic import replacing
from orioncache.errors import UserError
from orioncache.release.detect import MANIFEST, PACKS, SIGNATURE

FORMAT = b"orioncache store 1\n"
SCAN = "scan"
# Leaves room in the manifest's 96 bytes for a NUL, and in a path for more.
NAME = re.compile(r"[A-Za-z0-9_+~-][A-Za-z0-9._+~-]{0,94}")
# What file systems without hard links say to link(2); EMLINK where a pack has as many as it can have.
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


def check_name(text: str, what: str) -> str:
    """A release's name or version, if it is one.

    Raises:
        UserError: it is not.
    """
    if not NAME.fullmatch(text):
        raise UserError(
            f"{text!r} is no {what} of a release",
            "use up to 95 letters, digits and . _ + ~ -, not a dot at the beginning",
        )
    return text


@dataclass(frozen=True)
class Release:
    """A release in a store.

    Attributes:
        path: its directory.
        name: which tree it is a version of.
        version: its own name among them.
    """

    path: Path
    name: str
    version: str

    @property
    def manifest(self) -> Path:
        """What names everything in it."""
        return self.path / MANIFEST

    @property
    def signature(self) -> Path:
        """Who stands for it; need not be there."""
        return self.path / SIGNATURE

    @property
    def scan(self) -> Path | None:
        """What lets a rebuild hash only what changed; not there in a copy of a release."""
        path = self.path / SCAN
        return path if path.is_file() else None

    @property
    def built(self) -> float:
        """When its manifest was written, in seconds since 1970."""
        return self.manifest.stat().st_mtime

    def packs(self) -> list[Path]:
        """The packs that it links."""
        return sorted((self.path / PACKS).iterdir())

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class Store:
    """An opened store.

    Attributes:
        path: where it is.
    """

    def __init__(self, path: Path) -> None:
        """Opens the store at ``path``.

        Raises:
            UserError: there is none.
        """
        self.path = path
        try:
            found = (path / "format").read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(
                f"{path} is no store of releases", "orioncache release build ROOT STORE makes one"
            ) from None
        if found != FORMAT:
            raise UserError(f"{path} is a store of another format", "use the program that made it")
        self.packs = path / PACKS
        self.builds = path / "builds"
        self.removed = path / "removed"
        self.learned = path / "learned"

    @classmethod
    def create(cls, path: Path) -> "Store":
        """Opens the store at ``path``; makes it if nothing is there, or an empty directory.

        Raises:
            UserError: something else is there.
        """
        if not (path / "format").exists():
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                # Several first builds may start at once.
                made = path.is_dir() and all(_is_of_store(entry.name) for entry in path.iterdir())
                if not made:
                    raise UserError(f"{path} is neither a store nor empty", "give a directory of its own")
            for folder in ("", PACKS, "builds", "removed", "releases"):
                (path / folder).mkdir(parents=True, exist_ok=True)
            (path / "builds").chmod(0o700)
            # Last of all: a store that has its mark is whole.
            with replacing(path / "format") as file:
                file.write(FORMAT)
        return cls(path)

    def releases(self, name: str | None = None) -> list[Release]:
        """All releases, or those of a name; the newest of each name first."""
        found = []
        top = self.path / "releases"
        for folder in sorted(top.iterdir()):
            if name not in (None, folder.name) or not folder.is_dir():
                continue
            versions = [
                Release(path, folder.name, path.name)
                for path in folder.iterdir()
                if (path / MANIFEST).is_file()
            ]
            found += sorted(versions, key=lambda release: (-release.built, release.version))
        return found

    def release(self, name: str, version: str) -> Release:
        """One release.

        Raises:
            UserError: it is not there.
        """
        check_name(name, "name")
        check_name(version, "version")
        path = self.path / "releases" / name / version
        if not (path / MANIFEST).is_file():
            has = ", ".join(str(release) for release in self.releases(name)[:5])
            raise UserError(
                f"{self.path} has no release {name} {version}",
                f"it has {has}" if has else f"orioncache release list {self.path}",
            )
        return Release(path, name, version)

    def place(self, name: str, version: str) -> Path:
        """Where a release is or would be."""
        return self.path / "releases" / check_name(name, "name") / check_name(version, "version")

    def next_version(self, name: str) -> str:
        """The day, and a counter: sorts as it was built."""
        today = date.today().strftime("%Y.%m.%d")
        folder = self.path / "releases" / name
        taken = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        number = 1
        while f"{today}-{number}" in taken:
            number += 1
        return f"{today}-{number}"

    @contextmanager
    def locked(self, *, alone: bool = False) -> Iterator[None]:
        """Holds the store's lock: shared, so that no pack goes away, or alone, to take packs away.

        Raises:
            UserError: others hold it in a way that this one has to wait for.
        """
        fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(fd, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            except BlockingIOError:
                what = "a build" if alone else "release gc"
                raise UserError(f"{what} is at work in {self.path}", "try again when it is done") from None
            yield
        finally:
            os.close(fd)

    def publish(
        self,
        work: Path,
        name: str,
        version: str,
        *,
        pack: str | None,
        linked: list[str],
        finish: Callable[[Path], None] | None = None,
    ) -> Release:
        """Makes a finished build a release: its pack goes to the others, then the release to its place.

        Args:
            work: the build's directory: manifest, scan, and new.pack if pack is given, all on the disk.
            name: the release's.
            version: the release's.
            pack: the new pack's file name in packs/.
            linked: the other packs that the release uses.
            finish: gets the release's directory when all is in it, before others see it, and may add to it.

        Raises:
            UserError: the release is there already.
        """
        if pack is not None:
            there = self.packs / pack
            if not _is_whole_copy(there, work / "new.pack"):
                (work / "new.pack").rename(there)
            sync_directory(self.packs)
        staged = work / "release"
        shutil.rmtree(staged, ignore_errors=True)
        (staged / PACKS).mkdir(parents=True)
        for each in [*linked, *([pack] if pack is not None else [])]:
            _link(self.packs / each, staged / PACKS / each)
        for file in (MANIFEST, SCAN):
            (work / file).rename(staged / file)
        if finish is not None:
            finish(staged)
        sync_directory(staged / PACKS)
        sync_directory(staged)
        place = self.place(name, version)
        place.parent.mkdir(exist_ok=True)
        try:
            staged.rename(place)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise already_there(name, version) from None
            raise
        sync_directory(place.parent)
        sync_directory(place.parent.parent)
        return Release(place, name, version)


_FOLDERS = {PACKS, "builds", "removed", "releases", "format", "lock"}


def _is_of_store(name: str) -> bool:
    return name in _FOLDERS or name.startswith(".format.")  # on its way to being the mark


def already_there(name: str, version: str) -> UserError:
    """What to say of a version that is built twice."""
    return UserError(
        f"release {name} {version} is there already, and releases do not change",
        "give another --version, or leave it out",
    )


def sync_directory(path: Path) -> None:
    """Puts a directory's entries on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _is_whole_copy(there: Path, new: Path) -> bool:
    """Whether the same pack is there already, without holes that gc made, and undamaged."""
    try:
        found = there.stat()
    except FileNotFoundError:
        return False
    return (
        found.st_size == new.stat().st_size
        and found.st_blocks * 512 >= found.st_size
        and filecmp.cmp(there, new, shallow=False)
    )


def _link(pack: Path, link: Path) -> None:
    try:
        os.link(pack, link)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        # A symlink would lead out of what a node mounts.
        shutil.copyfile(pack, link)
        with link.open("rb") as copy:
            os.fsync(copy.fileno())
