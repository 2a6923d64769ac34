"""Real mounts: each cache is a process of its own, whose log is searched for unexpected warnings."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orioncache.control import client
from orioncache.errors import UserError
from tests.fuse import kinds, oddities
from tests.program import COMMAND
from tests.waiting import wait_until

if os.geteuid() != 0:
    pytest.skip("mounting with devices and set-uid files needs root", allow_module_level=True)
if not Path("/dev/fuse").exists():
    pytest.skip("there is no /dev/fuse", allow_module_level=True)


class RunningCache:
    """``orioncache mount --foreground`` in a process.

    Attributes:
        path: the mount point.
        kind: of :mod:`tests.fuse.kinds`.
        sources: what it was given: in release mode, releases of the trees.
        process: the cache.
        expected: texts that a warning of its log may contain.
    """

    def __init__(self, sources: list[Path], path: Path, options: list[str], kind: str) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.kind = kind
        if kinds.is_release(kind):
            blocks = [option for option in options if option.startswith("--block-size=")]
            sources = [
                released(source, path.parent / f"{path.name}-store{number}", *blocks)
                for number, source in enumerate(sources)
            ]
        self.sources = sources
        self.expected: list[str] = []
        self.socket = path.parent / f"{path.name}.sock"
        self._log = path.parent / f"{path.name}.log"
        command = [
            *COMMAND,
            "mount",
            "--foreground",
            f"--engine={kinds.engine(kind)}",
            f"--control={self.socket}",
            *options,
        ]
        command += [",".join(map(str, sources)), str(path)]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            wait_until(self._serves, "the cache serves")
        except BaseException:
            self.end()
            raise

    def status(self) -> dict[str, Any]:
        """What it tells of itself."""
        return client.status(str(self.socket))

    def log(self) -> str:
        """All that it has logged."""
        return self._log.read_text(errors="replace")

    def daemon(self) -> int:
        """The process that serves; a supervised one is a child of ``process``."""
        return int(self.status()["pid"])

    def drop_page_cache(self) -> None:
        """Has the kernel forget the content of its files, so that reads reach the cache again."""
        for directory, _, names in os.walk(self.path):
            for name in names:
                path = Path(directory, name)
                if path.is_file() and not path.is_symlink():
                    with path.open("rb") as file:
                        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ends it as a user would, and returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            subprocess.run(["umount", "-l", self.path], stderr=subprocess.DEVNULL, check=False)

    def complaints(self) -> list[str]:
        """Warnings and errors that were logged and not expected."""
        said = [
            line
            for line in self.log().splitlines()
            if "WARNING" in line or "ERROR" in line or "Traceback" in line
        ]
        return [line for line in said if not any(text in line for text in self.expected)]

    def _serves(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the cache ended with {self.process.returncode}: {self.log()}")
        try:
            return any("serving" in event["text"] for event in self.status()["events"])
        except UserError:
            return False


def released(tree: Path, store: Path, *options: str) -> Path:
    """The directory of a release of a tree, in a store of its own."""
    command = [*COMMAND, "release", "build", str(tree), str(store)]
    done = subprocess.run(
        [*command, "--name=tree", "--version=1", *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return store / "releases/tree/1"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kind" in metafunc.fixturenames:
        marked = metafunc.definition.get_closest_marker("kinds")
        metafunc.parametrize("kind", marked.args if marked else kinds.ALL, scope="session")


StartCache = Callable[..., RunningCache]


@pytest.fixture
def start_cache(tmp_path: Path, kind: str) -> Iterator[StartCache]:
    """Starts caches: ``start_cache(source, …, options=[…])``; all are ended, and their logs looked at."""
    caches: list[RunningCache] = []

    def start(*sources: Path, options: list[str] | None = None) -> RunningCache:
        cache = RunningCache(list(sources), tmp_path / f"m{len(caches)}", options or [], kind)
        caches.append(cache)
        return cache

    yield start
    for cache in reversed(caches):
        cache.end()
    complaints = [line for cache in caches for line in cache.complaints()]
    assert not complaints
    mounts = Path("/proc/self/mountinfo").read_text()
    assert not [cache.path for cache in caches if f" {cache.path} " in mounts]


@pytest.fixture(scope="session")
def public_directory() -> Iterator[Path]:
    """A directory that other users can enter, as they cannot pytest's."""
    path = Path(tempfile.mkdtemp(prefix="orion-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def odd_tree(public_directory: Path) -> Path:
    """A tree with one of everything that a root may hold; read-only for its users."""
    return oddities.build(public_directory / "tree")
