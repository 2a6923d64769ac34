"""The cache of a diskless node: ``python3 -m orioncache.node SERVERDIR [SERVERDIR…] MOUNTPOINT``.

It is started from the initramfs and serves the node's root until power-off. It exits 0 once the mount can be
used, and leaves behind a process that nothing at shutdown kills, that stays in RAM, and that never opens a
path of the root that it serves: descriptors and working directory are taken while the initramfs, where its
files stay, is still the root.
"""

import ctypes
import dataclasses
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from orioncache.background import run_in_background
from orioncache.errors import UserError

CONTROL_SOCKET = "/run/orion/control.sock"

# Where sysvinit's killall5 finds the pids that it shall spare.
OMITTED = "/run/sendsigs.omit.d/orion"

# systemd spares processes of root whose first argument begins with '@'
# (https://systemd.io/ROOT_STORAGE_DAEMONS).
NAME = b"@orioncache"

# <sys/prctl.h>
_PR_SET_NAME = 15


def main(arguments: Sequence[str]) -> int:
    """Starts the cache of a node; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="orioncache: %(message)s")
    if len(arguments) < 2:
        print("usage: python3 -m orioncache.node SERVERDIR [SERVERDIR…] MOUNTPOINT", file=sys.stderr)
        return 2
    *sources, mountpoint = arguments
    try:
        run_in_background(lambda ready: _serve(sources, mountpoint, ready), _stay_alive)
    except UserError as error:
        print(error.lines(), file=sys.stderr)
        return error.code
    return 0


def _serve(sources: Sequence[str], mountpoint: str, ready: Callable[[], None]) -> None:
    import trio  # noqa: PLC0415

    from orioncache import native, options  # noqa: PLC0415
    from orioncache.fs import mounting  # noqa: PLC0415
    from orioncache.fs.serving import Cache  # noqa: PLC0415
    from orioncache.upstream import ProcPaths  # noqa: PLC0415

    mountpoint = mounting.check(sources, mountpoint)
    sources = [os.path.realpath(source) for source in sources]
    words = Path("/proc/cmdline").read_text(encoding="utf-8", errors="replace")
    settings = options.collect(command_line=words, environment=os.environ)
    if not settings.control:
        settings = dataclasses.replace(settings, control=CONTROL_SOCKET)
    _log_to_kernel()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        native.lock_memory()
    except OSError as error:
        logging.getLogger("orioncache").warning("memory is not locked: %s", error.strerror)
    cache = Cache(sources, mountpoint, settings, ProcPaths(from_working_directory=True))

    async def run() -> None:
        await cache.serve(ready, stop_on=())

    trio.run(run)


def _stay_alive() -> None:
    """Keeps away from those who end processes: the kernel when memory is short, init at shutdown."""
    try:
        Path("/proc/self/oom_score_adj").write_text("-1000\n", encoding="ascii")
    except PermissionError:
        # In a container root may not; on a node it may.
        logging.getLogger("orioncache").info("the kernel may end this process when memory is short")
    omitted = Path(OMITTED)
    omitted.parent.mkdir(parents=True, exist_ok=True)
    omitted.write_text(f"{os.getpid()}\n", encoding="ascii")
    _rename(NAME)


def _rename(name: bytes) -> None:
    """Writes another command line over our own, where the kernel shows it."""
    # After the command's name, which may hold anything: where the arguments begin (field 48) and end (49).
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    begin, end = int(fields[45]), int(fields[46])
    if end - begin <= len(name):
        return
    ctypes.memset(begin, 0, end - begin)
    ctypes.memmove(begin, name, len(name))
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.lstrip(b"@"), 0, 0, 0)


class _KernelLog(logging.Handler):
    """Log records for the kernel's log, which needs no daemon of the root that we serve."""

    def __init__(self) -> None:
        super().__init__()
        self._fd = os.open("/dev/kmsg", os.O_WRONLY | os.O_CLOEXEC)

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one record, with syslog's number for its severity."""
        severity = 3 if record.levelno >= logging.ERROR else 4 if record.levelno >= logging.WARNING else 6
        text = f"<{severity}>orioncache: {self.format(record)}".replace("\n", " | ")
        try:
            # Without a newline at its end the kernel would keep it back until the next message.
            os.write(self._fd, text.encode(errors="backslashreplace")[:900] + b"\n")
        except OSError:
            self.handleError(record)


def _log_to_kernel() -> None:
    try:
        handler = _KernelLog()
    except OSError:
        return  # Standard error has to do, until it is let go.
    logging.getLogger().handlers[:] = [handler]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
