"""NFS servers in user space: nfs-ganesha processes of the bench's own, each in its network namespace."""

import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from orioncache.bench.netns import Lan, socket_inside
from orioncache.errors import UserError
from orioncache.process import TAIL_LINES, command_line, require

NFS_PORT = 2049
PREFIX = "orion-ganesha-"  # of its directory's name; the process id follows

# Deadlines (seconds): for the first answer, on a machine that is busy; for a server to end when asked to.
START_DEADLINE = 60.0
STOP_DEADLINE = 10.0
# Between two tries of a server that does not listen yet.
RETRY_INTERVAL = 0.01

# NFSv4 alone: nothing else listens, and no rpcbind is wanted. No minor version 0: falling back to it would
# hide a mistake. Numeric owners, because there is no idmapd here and names would come out as nobody. No
# grace period, because clients have nothing to reclaim from a new server, and the first OPEN would wait 90 s.
CONFIG = """
NFS_CORE_PARAM {{
    Protocols = 4;
    NFS_Port = {port};
    Bind_addr = {address};
    Enable_NLM = false;
    Enable_RQUOTA = false;
    Enable_UDP = false;
}}
NFSv4 {{
    Graceless = true;
    Only_Numeric_Owners = true;
    Minor_Versions = 1, 2;
    RecoveryBackend = fs;
    RecoveryRoot = "{recovery}";
}}
LOG {{
    Default_Log_Level = EVENT;
}}
"""
EXPORT = """
EXPORT {{
    Export_Id = {number};
    Path = "{path}";
    Pseudo = "{pseudo}";
    Protocols = 4;
    Transports = TCP;
    SecType = sys;
    Access_Type = RO;
    Squash = No_Root_Squash;
    FSAL {{
        Name = VFS;
    }}
}}
"""


class Ganesha:
    """One nfs-ganesha process; a context manager that yields itself once the server answers.

    Attributes:
        exports: directories on this machine, by the paths that clients mount (``server:/export``).
        address: where it listens.
        log: its log file, gone with the server.
    """

    def __init__(
        self,
        exports: Mapping[str, Path],
        *,
        namespace: str | None = None,
        address: str = "127.0.0.1",
        port: int = NFS_PORT,
        name: str = "",
    ) -> None:
        """Prepares a server.

        Args:
            exports: the directories to export, read-only, by the paths that clients mount.
            namespace: network namespace to run in; None for this process's.
            address: of the namespace, to listen on.
            port: TCP port.
            name: host name of the server; by default made of address and port. A client takes two servers of
                one name for one server with two addresses (RFC 8881, 2.10.5), and never asks the second.
        """
        self.exports = {pseudo: path.resolve() for pseudo, path in exports.items()}
        self.namespace = namespace
        self.address = address
        self.port = port
        self.name = name or f"server-{address.replace('.', '-').replace(':', '-')}-{port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._directory: Path | None = None

    @property
    def log(self) -> Path:
        """Its log file."""
        assert self._directory is not None
        return self._directory / "log"

    @property
    def running(self) -> bool:
        """Whether the process lives (stopped ones do)."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Self:
        for path in self.exports.values():
            if not path.is_dir():
                raise UserError(f"{path} is no directory to export", "give an existing one")
        _sweep()
        self._directory = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            if self._directory is not None:
                shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def _command(self) -> list[str]:
        assert self._directory is not None
        inside = ["ip", "netns", "exec", self.namespace] if self.namespace else []
        return [
            *inside,
            # Its own host name, and its end if we die without a chance to end it.
            *(require("unshare", "util-linux"), "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', self.name),
            *(require("setpriv", "util-linux"), "--pdeathsig", "KILL", "--"),
            *(
                require("ganesha.nfsd", "nfs-ganesha nfs-ganesha-vfs"),
                "-F",
                "-f",
                str(self._directory / "config"),
            ),
            *("-L", str(self.log), "-p", str(self._directory / "pid"), "-N", "NIV_EVENT"),
        ]

    def start(self) -> None:
        """Starts the process, for the first time or after :meth:`kill`, and returns once it answers a call.

        Raises:
            UserError: it ended or did not answer in time, with its log's tail; or another server is there.
        """
        assert self._directory is not None and not self.running
        if self.answers():
            raise UserError(
                f"another NFS server answers at {self.address} port {self.port}", "give another port"
            )
        recovery = self._directory / "recovery"
        recovery.mkdir(exist_ok=True)
        config = self._directory / "config"
        exports = [
            EXPORT.format(number=number, path=path, pseudo=pseudo)
            for number, (pseudo, path) in enumerate(self.exports.items(), 1)
        ]
        general = CONFIG.format(port=self.port, address=self.address, recovery=recovery)
        config.write_text(general + "".join(exports))
        command = self._command()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + START_DEADLINE
        while not self.answers():
            if not self.running:
                code = self._process.returncode
                raise self._failure(f"nfs-ganesha ended with exit code {code}", command)
            if time.monotonic() > deadline:
                raise self._failure(f"nfs-ganesha did not answer within {START_DEADLINE:.0f} s", command)
            # A process that ends is noticed at once, one that does not listen yet is asked again.
            self._wait_for_end(RETRY_INTERVAL)

    def _failure(self, message: str, command: Sequence[str]) -> UserError:
        tail = self.tail()
        return UserError(
            f"{message}: {tail[-1] if tail else 'no log'}", f"its command: {command_line(command)}"
        )

    def tail(self, lines: int = TAIL_LINES) -> list[str]:
        """The last lines of its log."""
        with contextlib.suppress(FileNotFoundError):
            return self.log.read_text(errors="replace").splitlines()[-lines:]
        return []

    def answers(self, timeout: float = 1.0) -> bool:
        """Whether the server answers a NULL call of NFSv4 (RFC 8881, 16.1) within ``timeout`` seconds."""
        try:
            family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
            with socket_inside(self.namespace, family) as connection:
                connection.settimeout(timeout)
                connection.connect((self.address, self.port))
                # One record: length with the last-fragment bit, then xid, call, RPC version 2, program NFS,
                # version 4, procedure NULL, and no credentials (RFC 5531).
                words = (0x6F72696F, 0, 2, 100003, 4, 0, 0, 0, 0, 0)
                call = b"".join(word.to_bytes(4, "big") for word in words)
                connection.sendall((0x80000000 | len(call)).to_bytes(4, "big") + call)
                reply = connection.recv(28, socket.MSG_WAITALL)
        except OSError:
            return False
        # xid, reply, accepted, no verifier (2 words), success
        return reply[4:8] == call[:4] and reply[24:28] == bytes(4)

    def _wait_for_end(self, timeout: float) -> bool:
        assert self._process is not None
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self) -> None:
        """Ends the process, kindly if it lets us, and waits until it is gone."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        self._process.send_signal(signal.SIGCONT)
        if not self._wait_for_end(STOP_DEADLINE):
            self.kill()

    def kill(self) -> None:
        """The server crashes: its connections are reset by the kernel. :meth:`start` brings it back."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        """The server hangs: connections stay, nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        # Threads stop one by one: the last of them would still answer.
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self) -> None:
        """The server goes on where it was frozen."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


def _sweep() -> None:
    """Removes the directories of processes that were killed before they could."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        pid = path.name.removeprefix(PREFIX).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists() and path.lstat().st_uid == os.geteuid():
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def servers(lan: Lan, exports: Sequence[Mapping[str, Path]]) -> Iterator[list[Ganesha]]:
    """One server for each namespace of the network, all answering, their exports in turn."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(Ganesha(exported, namespace=space, address=address))
            for space, address, exported in zip(
                lan.servers, lan.addresses, itertools.cycle(exports), strict=False
            )
        ]
