"""Where it is measured: a tmpfs in a mount namespace of its own, file systems that run there, the probe."""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import orioncache
from orioncache.bench.fs import programs
from orioncache.bench.fs.figures import Sample
from orioncache.control import client
from orioncache.errors import UserError
from orioncache.process import command_line, require, run

CLONE_NEWNS = 0x00020000  # <linux/sched.h>; os.unshare came with Python 3.12

# Seconds: a mount that does not come up, a probe whose mount hangs, a build.
START_TIMEOUT = 30.0
PROBE_TIMEOUT = 120.0
BUILD_TIMEOUT = 300.0
END_TIMEOUT = 20.0
POLL = 0.002

LOG_TAIL = 5  # lines of a file system's log, when it fails


class Mounted:
    """A file system that runs in a process of its own.

    Attributes:
        path: its mount point.
        pid: of the process that answers.
        started: when it was started (``time.monotonic``).
        socket: its control socket; None where it has none.
    """

    def __init__(self, path: Path, pid: int, started: float, socket: Path | None) -> None:
        self.path = path
        self.pid = pid
        self.started = started
        self.socket = socket

    def status(self) -> dict[str, Any]:
        """What the cache says of itself.

        Raises:
            UserError: it does not answer.
        """
        if self.socket is None:
            raise UserError("this file system has no control socket", "")
        return client.status(str(self.socket))

    def answers(self) -> bool:
        """Whether its control socket does."""
        try:
            self.status()
        except UserError:
            return False
        return True

    def upcalls(self) -> dict[str, int]:
        """How many requests of each kind the kernel has sent to it."""
        return dict(self.status()["fuse"]["upcalls"])

    def resident_mb(self) -> float:
        """MiB of memory that its process has in use."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return 0.0


class Stage:
    """A tmpfs in a mount namespace of this process; all goes with the process, however it ends.

    Attributes:
        path: the tmpfs.
        probe: the program that times.
        samples: all that was measured.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.probe = programs.probe()
        self.samples: list[Sample] = []
        self._count = 0

    def directory(self, name: str) -> Path:
        """A new directory on the tmpfs."""
        self._count += 1
        path = self.path / f"{name}-{self._count}"
        path.mkdir()
        return path

    @contextmanager
    def minimal(self, source: Path) -> Iterator[Mounted]:
        """The rival, over a directory."""
        with self._served([programs.minimal_server(), source], None) as mounted:
            yield mounted

    @contextmanager
    def cache(self, source: Path, engine: str, options: Sequence[str] = ()) -> Iterator[Mounted]:
        """A cache over a directory or a release."""
        socket = self.directory("control") / "control.sock"
        command: list[str | Path] = [
            *orion("mount"),
            "--foreground",
            f"--control={socket}",
            f"--engine={engine}",
            *options,
            source,
        ]
        with self._served(command, socket) as mounted:
            yield mounted

    @contextmanager
    def overlay(self, lower: Path) -> Iterator[Path]:
        """An overlay with an upper layer in RAM, as a node's root is."""
        top = self.directory("overlay")
        upper, work, merged = top / "upper", top / "work", top / "merged"
        for path in (upper, work, merged):
            path.mkdir()
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        run([require("mount", "mount"), "-t", "overlay", "bench", "-o", options, merged])
        try:
            yield merged
        finally:
            run([require("umount", "mount"), "-l", merged])

    def time(
        self,
        cell: str,
        operation: str,
        roots: dict[str, Path],
        paths: Sequence[str],
        *,
        slice: int = 1,
        rounds: int = 1,
    ) -> None:
        """Times an operation of the probe on each path under each root, and keeps the samples.

        Args:
            cell: name for the samples.
            operation: one of the probe's.
            roots: subject to directory.
            paths: relative to each root.
            slice: paths that are done under one root before the next root has its turn.
            rounds: how often the whole list is done.

        Raises:
            UserError: an operation failed or hung.
        """
        command: list[str | Path] = [self.probe, operation, str(slice), str(rounds), *roots.values()]
        said = self._run_probe(command, "\n".join(paths))
        names = list(roots)
        for line in said.splitlines():
            turn, root, *numbers = map(int, line.split())
            self.samples.append(Sample(cell, names[root], turn, *numbers))

    def _run_probe(self, command: Sequence[str | Path], paths: str) -> str:
        try:
            done = subprocess.run(
                command, input=paths, capture_output=True, text=True, timeout=PROBE_TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired:
            raise UserError(f"the probe hung: {command_line(command)}", "") from None
        if done.returncode:
            raise UserError(done.stderr.strip() or f"the probe failed: {command_line(command)}", "")
        return done.stdout

    @contextmanager
    def _served(self, command: Sequence[str | Path], socket: Path | None) -> Iterator[Mounted]:
        """Runs a file system that gets its mount point as the last argument, and waits until it answers."""
        point = self.directory("mount")
        log = point.with_suffix(".log")
        started = time.monotonic()
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*map(str, command), str(point)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=environment(),
            )
        try:
            mounted = Mounted(point, process.pid, started, socket)
            try:
                self._await(process, mounted)
            except UserError as error:
                raise UserError(f"{error}: {_tail(log)}", "") from None
            yield mounted
        finally:
            _end(process)
            subprocess.run(["umount", "-l", point], stderr=subprocess.DEVNULL, check=False)

    def _await(self, process: subprocess.Popen[bytes], mounted: Mounted) -> None:
        deadline = mounted.started + START_TIMEOUT
        marker = f" {mounted.path} "
        while marker not in Path("/proc/self/mountinfo").read_text():
            self._check(process, deadline)
            time.sleep(POLL)
        # The first answer: the root's attributes.
        self._run_probe([self.probe, "stat", "1", "1", mounted.path], ".")
        while mounted.socket is not None and not mounted.answers():
            self._check(process, deadline)
            time.sleep(POLL)

    def _check(self, process: subprocess.Popen[bytes], deadline: float) -> None:
        if process.poll() is not None:
            raise UserError(f"{command_line(process.args)} ended with {process.returncode}", "")  # type: ignore[arg-type]
        if time.monotonic() > deadline:
            raise UserError(f"{command_line(process.args)} does not come up", "")  # type: ignore[arg-type]


def orion(*words: str) -> list[str]:
    """A command of this very package."""
    return [sys.executable, "-m", "orioncache", *words]


def environment() -> dict[str, str]:
    """The environment for it: the same package, wherever this one was imported from."""
    top = str(Path(orioncache.__file__).resolve().parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([top, *filter(None, [os.environ.get("PYTHONPATH")])])}


def timed(command: Sequence[str | Path]) -> float:
    """Runs a program to its end and returns the seconds that it took.

    Raises:
        UserError: it failed or hung.
    """
    since = time.monotonic()
    try:
        done = subprocess.run(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(),
            timeout=BUILD_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"no end after {BUILD_TIMEOUT:g} s: {command_line(command)}", "") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise UserError(f"{command_line(command)}: {' '.join(said[-2:])}", "")
    return time.monotonic() - since


@contextmanager
def one_processor() -> Iterator[None]:
    """Keeps this process, and what it starts meanwhile, on one processor.

    What is compared is then what a request costs, and not where the scheduler puts who answers it: an idle
    processor of a virtual machine takes tens of microseconds to wake up, or none, by chance.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def private_stage(needed: int) -> Iterator[Stage]:
    """A stage with room for ``needed`` bytes.

    Raises:
        UserError: there is not that much memory, or we are not root.
    """
    available = _available_memory()
    if available < needed:
        raise UserError(
            f"{available / 1e9:.1f} GB of memory are free, and the trees take {needed / 1e9:.1f} GB",
            "ask for smaller ones (--files, --big, --rebuild-files, --inodes), or for less (--only)",
        )
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS):
        raise UserError(
            f"no mount namespace of our own: {os.strerror(ctypes.get_errno())}", "run it as root (sudo)"
        )
    mount, umount = require("mount", "mount"), require("umount", "mount")
    run([mount, "--make-rprivate", "/"])
    with tempfile.TemporaryDirectory(prefix="orion-bench-fs-") as name, ExitStack() as stack:
        run([mount, "-t", "tmpfs", "-o", f"size={available},nr_inodes=0,mode=755", "bench", name])
        stack.callback(run, [umount, "-l", name])
        yield Stage(Path(name))


def _available_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _tail(log: Path) -> str:
    return " | ".join(log.read_text(errors="replace").splitlines()[-LOG_TAIL:])


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(END_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
