"""Kernel sources: Debian's linux-source package, unpacked once, or a tree of the user's own."""

import dataclasses
import os
import re
from pathlib import Path

from orioncache.atomic import replacing_directory
from orioncache.errors import UserError
from orioncache.paths import cache_directory, content_key, require_room
from orioncache.process import require, run
from orioncache.progress import step

DEBIAN_SOURCES = Path("/usr/src")

# What an unpacked tree takes on disk (bytes); Linux 6.12 takes 1.7 GB.
UNPACKED_BYTES = 1_800_000_000

_RELEASE = re.compile(r"^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION)[ \t]*=[ \t]*(\S*)", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Source:
    """A kernel source tree.

    Attributes:
        directory: its top; read only for us, because all building is done elsewhere (``O=``).
        identity: changes with the content.
        tarball: what ``directory`` is unpacked from; None for the user's own tree.
    """

    directory: Path
    identity: str
    tarball: Path | None

    def unpack(self) -> None:
        """Makes sure that ``directory`` is there."""
        if self.tarball is None or self.directory.is_dir():
            return
        require("xz", "xz-utils")
        require_room(self.directory.parent, UNPACKED_BYTES, "the kernel's source")
        with (
            step(f"unpacking {self.tarball.name}", "half a minute, 1.7 GB"),
            replacing_directory(self.directory) as aside,
        ):
            run(["tar", "-xJf", self.tarball, "--strip-components=1", "--no-same-owner", "-C", aside])
            _require_tree(aside)

    def release(self) -> str:
        """The version as in the tree's Makefile, such as ``6.12.117``."""
        found: dict[str, str] = dict(_RELEASE.findall((self.directory / "Makefile").read_text()))
        return ".".join(found[part] for part in ("VERSION", "PATCHLEVEL", "SUBLEVEL")) + found["EXTRAVERSION"]

    def timestamp(self) -> int:
        """Seconds since 1970 that go into images as their date: the same for every build of a source."""
        return int((self.directory / "Makefile").stat().st_mtime)


def find_source(directory: Path | None = None) -> Source:
    """The user's tree, or else Debian's newest linux-source package (not unpacked yet, perhaps).

    Raises:
        UserError: ``directory`` is no kernel tree, or no package is installed.
    """
    if directory is not None:
        tree = directory.expanduser().resolve()
        _require_tree(tree)
        _require_clean(tree)
        return Source(tree, _fingerprint(tree), None)
    tarball = debian_tarball()
    stat = tarball.stat()
    # A package carries its own build's time stamp: the same package gives the same identity everywhere.
    identity = f"{tarball.name} {stat.st_size} {int(stat.st_mtime)}"
    key = content_key(tarball.name, str(stat.st_size), str(int(stat.st_mtime)))
    top = cache_directory("kernel") / "source"
    top.mkdir(exist_ok=True)
    return Source(top / key, identity, tarball)


def debian_tarball() -> Path:
    """The newest ``/usr/src/linux-source-*.tar.xz``."""
    found = list(DEBIAN_SOURCES.glob("linux-source-*.tar.xz"))
    if not found:
        raise UserError(
            f"there is no kernel source: no linux-source-*.tar.xz in {DEBIAN_SOURCES}",
            "apt-get install linux-source-6.12 (or: make setup), or give --source DIR",
        )
    return max(found, key=lambda path: [int(part) for part in re.findall(r"\d+", path.name)])


def _require_tree(tree: Path) -> None:
    for part in ("Kconfig", "Makefile", "arch/x86/Kconfig", "scripts/kconfig/merge_config.sh"):
        if not (tree / part).is_file():
            raise UserError(
                f"{tree} is no Linux source tree: it has no {part}", "give the top of a tree to --source"
            )


def _require_clean(tree: Path) -> None:
    # The kernel's Makefile refuses O= for a tree that was built or configured in place, with a page of text.
    for part in (".config", "include/config", "arch/x86/include/generated"):
        if (tree / part).exists():
            raise UserError(
                f"{tree} was configured in place ({part}), so that nothing can be built outside of it",
                f"make -C {tree} mrproper, or give a fresh work tree (git worktree add …)",
            )


def _fingerprint(tree: Path) -> str:
    """Digest of all paths, sizes and times of change: 85,000 files take about a second."""
    parts = []
    for folder, folders, files in os.walk(tree):
        folders[:] = sorted(name for name in folders if name != ".git")
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for name in sorted(files):
                stat = os.stat(name, dir_fd=fd, follow_symlinks=False)
                parts.append(f"{folder}/{name} {stat.st_size} {stat.st_mtime_ns}")
        finally:
            os.close(fd)
    return content_key("\n".join(parts))
