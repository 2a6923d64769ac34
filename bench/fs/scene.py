"""What several measurements share: sizes, the tree, the release that was built from it."""

import dataclasses
from collections.abc import Collection
from functools import cached_property
from pathlib import Path

from orioncache.bench.fs import programs
from orioncache.bench.fs.stage import Stage, orion, timed
from orioncache.bench.fs.tree import BIG_FILES, PAGE_FILE_BYTES, Tree, grow

# Bytes of RAM, for Sizes.memory().
FILE_BYTES = 20 << 10  # a small file of the tree
COPIES = 4  # source, two stores, page caches
BUILT_BYTES = 36 << 10  # the same with its part of the large files
PLANTED_BYTES = 8 << 10  # a file of a page with its inode, and what the store has of it
INODE_BYTES = 2 << 10  # an empty file, and what the manifest and its builder have of it


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        files: small files in the tree.
        rounds: turns of each subject.
        big_bytes: size of a file that is read sequentially.
        build_files: small files in the tree that is built against the clock.
        rebuild_files: files in the tree that is built again unchanged.
        inodes: of the large manifest.
    """

    files: int
    rounds: int
    big_bytes: int
    build_files: int
    rebuild_files: int
    inodes: int

    def memory(self, names: Collection[str]) -> int:
        """Bytes of RAM that some measurements take, generously: the trees, their stores, all page caches."""
        tree = self.files * FILE_BYTES + self.rounds * PAGE_FILE_BYTES + BIG_FILES * self.big_bytes
        needed = COPIES * tree
        if "build" in names:
            needed += COPIES * self.build_files * BUILT_BYTES
        if "unchanged" in names:
            needed += self.rebuild_files * PLANTED_BYTES
        if "million" in names:
            needed += self.inodes * INODE_BYTES
        return needed


class Scene:
    """What several measurements share, made when it is first asked for.

    Attributes:
        stage: where it stands.
        sizes: as asked for.
    """

    def __init__(self, stage: Stage, sizes: Sizes) -> None:
        self.stage = stage
        self.sizes = sizes

    @cached_property
    def tree(self) -> Tree:
        """The tree."""
        return grow(
            self.stage.directory("tree"),
            programs.probe(),
            files=self.sizes.files,
            page_files=self.sizes.rounds,
            big_bytes=self.sizes.big_bytes,
        )

    @cached_property
    def release(self) -> Path:
        """The release that was built from the tree."""
        store = self.stage.directory("store")
        timed(build_command(self.tree.path, store, "1"))
        return release_of(store, "1")


def build_command(tree: Path, store: Path, version: str, *words: str) -> list[str | Path]:
    """The command that builds a release."""
    return [*orion("release", "build"), tree, store, "--name", "bench", "--version", version, *words]


def release_of(store: Path, version: str) -> Path:
    """Where a release is that :func:`build_command` builds."""
    return store / "releases/bench" / version
