"""What all runs of one bench share: kernel, image, root, workload, size of the guest."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from orioncache.bench.plan import Variant

MIB = 1 << 20

# Besides the root: the kernel, a server's page cache, the node's processes, its overlay and its cache.
BASE_MEMORY_MB = 1024

# A panic ends QEMU (-no-reboot), and an oops is one; the failure hook has spoken before the guest powers off.
# The nbd driver would make 16 devices before it is asked for one.
COMMON_WORDS = (
    *("console=ttyS0", "panic=-1", "oops=panic", "rdinit=/bench/init", "orion.on_failure=poweroff"),
    "nbd.nbds_max=0",
)


@dataclasses.dataclass(frozen=True)
class Scene:
    """The same for every run.

    Attributes:
        kernel: bzImage.
        initramfs: the node's own image.
        initrd: the same with the bench's behind it.
        root: the node's root as a directory.
        disk: the same as an ext4 image.
        release: a release of it, as a directory; None if no variant wants one.
        release_disk: the same as an ext4 image.
        bundled: the release with a bundle; None if no variant wants one.
        bundled_disk: the same as an ext4 image.
        squashed: a directory with the root's squashfs image and what serves it; None if no variant wants it.
        squashed_disk: the same as an ext4 image.
        init: path of the root's init.
        append: what the user adds to the kernel command line.
        servers: how many.
        accel: ``tcg`` or ``kvm``.
        copies: how many servers get a copy of their own of what they export, in the guest's memory.
    """

    kernel: Path
    initramfs: Path
    initrd: Path
    root: Path
    disk: Path
    init: str
    release: Path | None = None
    release_disk: Path | None = None
    bundled: Path | None = None
    bundled_disk: Path | None = None
    squashed: Path | None = None
    squashed_disk: Path | None = None
    append: Sequence[str] = ()
    servers: int = 2
    accel: str = "tcg"
    copies: int = 0

    def export(self, variant: Variant) -> tuple[Path, Path]:
        """What the servers of a variant have, as a directory and as an image."""
        if variant.source == "nbd":
            assert self.squashed is not None and self.squashed_disk is not None
            return self.squashed, self.squashed_disk
        if not variant.released:
            return self.root, self.disk
        if variant.bundled:
            assert self.bundled is not None and self.bundled_disk is not None
            return self.bundled, self.bundled_disk
        assert self.release is not None and self.release_disk is not None
        return self.release, self.release_disk

    @property
    def memory_mb(self) -> int:
        """Guest memory (MiB), the same for all variants: `ram` holds the root twice while it copies."""
        disk = self.disk.stat().st_size if self.disk.exists() else 0
        needed = BASE_MEMORY_MB + max(2, 1 + self.copies) * disk // MIB
        return needed + -needed % 256

    def command_line(self, words: Sequence[str]) -> list[str]:
        """The kernel command line; the user's words come last, where the last one wins."""
        return [*COMMON_WORDS, f"init={self.init}", *words, *self.append]
