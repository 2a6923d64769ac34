"""The cache of a diskless node: ``python3 -m orioncache.node SERVERDIR [SERVERDIR…] MOUNTPOINT``.

It is started from the initramfs and serves the node's root until power-off. It exits 0 once the mount can be
used, and leaves behind two processes that nothing at shutdown kills, that stay in RAM, and that never open a
path of the root that they serve: a daemon, and a supervisor that forks the next one should it die.
Descriptors and working directory are taken while the initramfs, where their files stay, is still the root.
"""

from __future__ import annotations

import os
import sys
import time

from orioncache import options
from orioncache.background import run_in_background
from orioncache.control.listening import listen, listen_for_metrics
from orioncache.errors import UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orioncache.fs.supervisor import Held
    from orioncache.mounter import Listed
    from orioncache.native.engine import Engine
    from orioncache.options import Options
    from orioncache.prefetch.runner import Runner

CONTROL_SOCKET = "/run/orion/control.sock"

# Where `orioncache initramfs build --key` puts the public key.
KEY = "/etc/orion/release.pub"

# Where sysvinit's killall5 finds the pids that it shall spare.
OMITTED = "/run/sendsigs.omit.d/orion"

# systemd spares processes of root whose first argument begins with '@'
# (https://systemd.io/ROOT_STORAGE_DAEMONS).
NAME, SUPERVISOR = "@orioncache", "@orionsupervisor"


def main(arguments: Sequence[str]) -> int:
    """Starts the cache of a node; returns the exit code."""
    if len(arguments) < 2:
        print("usage: python3 -m orioncache.node SERVERDIR [SERVERDIR…] MOUNTPOINT", file=sys.stderr)
        return 2
    *sources, mountpoint = arguments
    try:
        run_in_background(lambda ready: _supervise(sources, mountpoint, ready))
    except UserError as error:
        print(error.lines(), file=sys.stderr)
        return error.code
    return 0


def _supervise(sources: Sequence[str], mountpoint: str, ready: Callable[[], None]) -> None:
    born = time.monotonic()
    with open("/proc/cmdline", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
        settings = options.collect(command_line=file.read(), environment=os.environ)
    if not settings.control:
        settings = settings.replace(control=CONTROL_SOCKET)
    if not settings.key and os.path.exists(KEY):  # noqa: PTH110
        settings = settings.replace(key=KEY)
    if settings.engine != "native":
        _serve_with_pyfuse3(sources, mountpoint, settings, ready)
        return
    from orioncache import mounter  # noqa: PLC0415
    from orioncache.fs import native_release  # noqa: PLC0415
    from orioncache.fs.supervisor import Held, Supervisor  # noqa: PLC0415

    # While /dev, /proc and /run are ours: the node's root takes them with it.
    held = Held(native_release.open_servers(sources), native_release.open_device(), keeps_root=True)
    log, control, omitted = _open_log(), listen(settings.control), _open_omitted()
    metrics, problem = _listen_for_metrics(settings)
    _ignore_signals()

    kept = _Kept(born, log, control, metrics, mounter.read_list())

    def serve(held: Held) -> None:
        _serve(sources, mountpoint, settings, held, ready=ready, kept=kept, problem=problem)

    def began(daemon: int) -> None:
        if held.restarts:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        else:
            # What is done here takes no time from the first daemon, for which a boot waits.
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            _stay(SUPERVISOR)
        _omit(omitted, os.getpid(), daemon)

    def serves() -> None:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        ready()

    if Supervisor(held, serve, ready=serves, began=began, gives_up=False).run() is None:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        held.close()
        _omit(omitted, os.getpid())
        _serve_with_pyfuse3(sources, mountpoint, settings, ready, kept)


class _Kept:
    """What was opened in time.

    Attributes:
        born: when the first process began, on the clock of ``time.monotonic()``.
        log: of the kernel, if it can be written.
        control: the listening control socket.
        metrics: the listening socket for metrics, if they are wanted on a port.
        listed: the servers that the initramfs was told of, mounted or not.
    """

    def __init__(
        self,
        born: float,
        log: int | None,
        control: int,
        metrics: int | None,
        listed: tuple[str, list[Listed]] | None,
    ) -> None:
        self.born = born
        self.log = log
        self.control = control
        self.metrics = metrics
        self.listed = listed


def _serve(
    sources: Sequence[str],
    mountpoint: str,
    settings: Options,
    held: Held,
    *,
    ready: Callable[[], None],
    kept: _Kept,
    problem: str,
) -> None:
    from orioncache import mounter  # noqa: PLC0415
    from orioncache.fs import native_release  # noqa: PLC0415

    was_ready = held.is_ready
    engine = native_release.start(sources, mountpoint, settings, held)
    if engine is None:
        held.decline()
        return
    _stay(NAME)
    if problem and not held.restarts:
        engine.warn(problem)
    if not was_ready:
        ready()
    mounting = mounter.begin(engine, kept.listed)
    speculation = _speculate(engine, settings, len(sources))
    uploads = settings.upload and not held.restarts
    # What follows is for people, and slower to import than all before: not while a node boots.
    _sleep_until_needed(
        (kept.control, kept.metrics), engine, kept.born + settings.upload_after if uploads else None
    )
    from orioncache.fs.native_serving import ReleaseCache  # noqa: PLC0415
    from orioncache.kernel_log import log_to_kernel  # noqa: PLC0415

    log_to_kernel(kept.log)
    cache = ReleaseCache(
        engine,
        sources,
        mountpoint,
        settings,
        held,
        control=kept.control,
        metrics=kept.metrics,
        born=kept.born,
        speculation=speculation,
        mount=mounting.mount if mounting is not None else None,
    )
    cache.serve(lambda: None, stop_on=())


def _speculate(engine: Engine, settings: Options, servers: int) -> Runner | None:
    if not settings.speculates:
        return None
    from orioncache.prefetch.runner import start_beside  # noqa: PLC0415

    return start_beside(engine, settings, servers)


def _listen_for_metrics(settings: Options) -> tuple[int | None, str]:
    """The port for metrics, and why there is none: a boot goes on without it."""
    try:
        return listen_for_metrics(settings), ""
    except UserError as error:
        return None, error.message


def _sleep_until_needed(listening: Sequence[int | None], engine: Engine, until: float | None) -> None:
    """Until somebody connects to one of the sockets, something happens, the mount is gone, or it is time."""
    import select  # noqa: PLC0415

    waiting = select.poll()
    for fd in (*listening, engine.events_fd(), engine.ended_fd()):
        if fd is not None:
            waiting.register(fd, select.POLLIN)
    waiting.poll(None if until is None else max(0.0, 1000 * (until - time.monotonic())))


def _serve_with_pyfuse3(
    sources: Sequence[str],
    mountpoint: str,
    settings: Options,
    ready: Callable[[], None],
    kept: _Kept | None = None,
) -> None:
    import trio  # noqa: PLC0415

    from orioncache.fs import mounting  # noqa: PLC0415
    from orioncache.fs.serving import Cache  # noqa: PLC0415
    from orioncache.kernel_log import log_to_kernel  # noqa: PLC0415
    from orioncache.upstream import ProcPaths  # noqa: PLC0415

    mountpoint = mounting.check(sources, mountpoint)
    sources = [os.path.realpath(source) for source in sources]
    if kept is None:
        _ignore_signals()
        _omit(_open_omitted(), os.getpid())
    log_to_kernel(_open_log() if kept is None else kept.log)
    _stay(NAME)
    cache = Cache(
        sources,
        mountpoint,
        settings,
        ProcPaths(from_working_directory=True),
        control=None if kept is None else kept.control,
        metrics=listen_for_metrics(settings) if kept is None else kept.metrics,
    )

    async def run() -> None:
        await cache.serve(ready, stop_on=())

    trio.run(run)


def _ignore_signals() -> None:
    """Keeps this process and its children from init, and from the kernel when memory is short."""
    from _signal import SIG_IGN, SIGHUP, SIGINT, SIGTERM, signal  # noqa: PLC0415  # signal itself imports enum

    for number in (SIGTERM, SIGINT, SIGHUP):
        signal(number, SIG_IGN)
    try:
        _write("/proc/self/oom_score_adj", "-1000\n")
    except PermissionError:
        # In a container root may not; on a node it may.
        _complain("the kernel may end this process when memory is short")


def _stay(name: str) -> None:
    """Keeps this process in RAM, and out of the way of systemd."""
    from orioncache import native  # noqa: PLC0415

    try:
        native.lock_memory()
    except OSError as error:
        _complain(f"memory is not locked: {error.strerror}")
    native.rename_process(name)


def _open_omitted() -> int:
    os.makedirs(os.path.dirname(OMITTED), exist_ok=True)  # noqa: PTH103,PTH120
    return os.open(OMITTED, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _omit(file: int, *pids: int) -> None:
    """Has sysvinit spare these processes, and nobody else."""
    text = "".join(f"{pid}\n" for pid in pids).encode()
    os.pwrite(file, text, 0)
    os.ftruncate(file, len(text))


def _open_log() -> int | None:
    try:
        return os.open("/dev/kmsg", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:  # noqa: PTH123
        file.write(text)


def _complain(text: str) -> None:
    import logging  # noqa: PLC0415

    logging.getLogger("orioncache").warning(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
