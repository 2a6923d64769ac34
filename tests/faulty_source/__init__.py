"""Servers that fail on demand: directories shown through a small FUSE file system (``faulty_source.c``)."""

import functools
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from tests.waiting import wait_until

_PROGRAM = Path(__file__).with_name("faulty_source.c")


@functools.cache
def compiled() -> Path:
    """The program, compiled once for this run of tests."""
    program = Path(tempfile.mkdtemp(prefix="orion-faulty-")) / "faulty_source"
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True, check=True
    )
    subprocess.run(
        ["gcc", "-O1", "-o", program, _PROGRAM, *flags.stdout.split(), "-lpthread"],
        check=True,
    )
    return program


class FaultySource:
    """One server: a context manager that mounts it, and takes it away whatever state it is in.

    Attributes:
        path: where it is mounted; what a cache is given as its source.
        process: the server.
    """

    def __init__(self, directory: Path, path: Path) -> None:
        """Mounts ``directory`` on ``path``, read-only, without faults."""
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._directory = directory
        # Paths of sockets are short, those of pytest's directories are not.
        self._sockets = tempfile.mkdtemp(prefix="orion-faulty-")
        self._socket = f"{self._sockets}/control"
        self.start()

    def start(self) -> None:
        """Mounts it (again, after :meth:`kill`)."""
        self.process = subprocess.Popen(
            [compiled(), self._directory, self.path, self._socket], stdin=subprocess.DEVNULL
        )
        wait_until(self._answers, f"{self.path} is served", 10)

    def tell(self, line: str) -> dict[str, int]:
        """Has it do what a line of its language says (``hang``, ``delay 500 percent=5``, ``heal``, …).

        Returns:
            Its counters at that moment: requests by kind, bytes read, requests that hang, faults so far.
        """
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(self._socket)
            connection.sendall(line.encode() + b"\n")
            answer = connection.makefile().readline().split()
        assert answer[:1] == ["ok"], f"{line}: {' '.join(answer)}"
        return {name: int(value) for name, _, value in (word.partition("=") for word in answer[1:])}

    def counters(self) -> dict[str, int]:
        """What it has been asked so far."""
        return self.tell("counters")

    def kill(self) -> None:
        """Ends it at once: all that was waiting, and all that comes, fails; the dead mount stays."""
        self.process.kill()
        self.process.wait()
        os.unlink(self._socket)

    def unmount(self) -> None:
        """Takes the mount of a killed server away; whoever has descriptors of it keeps them."""
        subprocess.run(["umount", "-l", self.path], stderr=subprocess.DEVNULL, check=False)

    def close(self) -> None:
        """Ends it and takes the mount away; what hangs there fails, so that whoever waits can end."""
        self.process.kill()
        self.process.wait()
        self.unmount()
        shutil.rmtree(self._sockets, ignore_errors=True)

    def __enter__(self) -> "FaultySource":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answers(self) -> bool:
        assert self.process.poll() is None, f"the faulty source ended with {self.process.returncode}"
        try:
            self.counters()
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True
