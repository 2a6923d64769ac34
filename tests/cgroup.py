"""A memory cgroup of a test's own, in either version of the interface."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import wait_until

CGROUPS = Path("/sys/fs/cgroup")


class MemoryGroup:
    """Processes that may have so much memory together, their page cache included."""

    def __init__(self, path: Path, *, second_version: bool) -> None:
        self._path = path
        self._v2 = second_version

    def limit(self, size: int) -> None:
        """Sets the most bytes; more is reclaimed, and then killed."""
        self._write("memory.max" if self._v2 else "memory.limit_in_bytes", size)

    def take(self, pid: int) -> None:
        """Has a process in it, whose memory so far is not counted."""
        self._write("cgroup.procs", pid)

    def times_at_limit(self) -> int:
        """How often something had to be reclaimed."""
        if self._v2:
            return self._events("memory.events")["max"]
        return int((self._path / "memory.failcnt").read_text())

    def killed(self) -> int:
        """How many processes were killed for want of memory."""
        return self._events("memory.events" if self._v2 else "memory.oom_control")["oom_kill"]

    def remove(self) -> None:
        """Ends it; whoever is in it must have ended."""

        def removed() -> bool:
            with contextlib.suppress(OSError):
                self._path.rmdir()
            return not self._path.exists()

        wait_until(removed, "the cgroup is empty")

    def _write(self, name: str, value: int) -> None:
        (self._path / name).write_text(str(value))

    def _events(self, name: str) -> dict[str, int]:
        return {
            key: int(value) for key, value in map(str.split, (self._path / name).read_text().splitlines())
        }


def _parent() -> tuple[Path, bool]:
    """Where a group can be made, and whether that is the interface's second version."""
    first = CGROUPS / "memory"
    if first.is_dir():
        return first, False
    controllers = CGROUPS / "cgroup.subtree_control"
    if controllers.is_file() and "memory" in controllers.read_text().split():
        return CGROUPS, True
    pytest.skip("there is no memory cgroup controller")


@contextlib.contextmanager
def memory_group() -> Iterator[MemoryGroup]:
    """Makes one; skips the test aloud where that cannot be."""
    parent, second_version = _parent()
    path = parent / f"orion-test-{uuid.uuid4().hex[:12]}"
    try:
        path.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made: {os.strerror(error.errno or 0)}")
    group = MemoryGroup(path, second_version=second_version)
    try:
        yield group
    finally:
        group.remove()
