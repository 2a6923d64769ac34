"""Servers that fail on demand: directories shown through a small FUSE file system (``faulty_source.c``)."""

import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from orioncache.bench.fs.programs import compiled, libfuse
from orioncache.errors import UserError

_PROGRAM = Path(__file__).with_name("faulty_source.c")

# Seconds.
START_TIMEOUT = 10.0
ANSWER_TIMEOUT = 10.0
POLL = 0.005


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
        program = compiled(_PROGRAM, [], libfuse())
        self.process = subprocess.Popen(
            [program, self._directory, self.path, self._socket], stdin=subprocess.DEVNULL
        )
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise UserError(
                    f"the faulty source on {self.path} does not come up", "see what it said above"
                )
            time.sleep(POLL)

    def tell(self, line: str) -> dict[str, int]:
        """Has it do what a line of its language says (``hang``, ``delay 500 percent=5``, ``heal``, …).

        Returns:
            Its counters at that moment: requests by kind, bytes read, requests that hang, faults so far.

        Raises:
            ValueError: it does not understand.
            OSError: it is not there.
        """
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_TIMEOUT)
            connection.connect(self._socket)
            connection.sendall(line.encode() + b"\n")
            answer = connection.makefile().readline().split()
        if answer[:1] != ["ok"]:
            raise ValueError(f"{line}: {' '.join(answer)}")
        return {name: int(value) for name, _, value in (word.partition("=") for word in answer[1:])}

    def counters(self) -> dict[str, int]:
        """What it has been asked so far."""
        return self.tell("counters")

    def kill(self) -> None:
        """Ends it at once: all that was waiting, and all that comes, fails; the dead mount stays."""
        self.process.kill()
        self.process.wait()
        Path(self._socket).unlink()

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
        try:
            self.counters()
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True
