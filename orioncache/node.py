"""The cache of a diskless node: ``python3 -m orioncache.node SERVERDIR [SERVERDIR…] MOUNTPOINT``.

It is started from the initramfs and serves the node's root until power-off. It exits 0 once the mount can be
used, and leaves behind a process that nothing at shutdown kills, that stays in RAM, and that never opens a
path of the root that it serves: descriptors and working directory are taken while the initramfs, where its
files stay, is still the root.
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
NAME = "@orioncache"


def main(arguments: Sequence[str]) -> int:
    """Starts the cache of a node; returns the exit code."""
    if len(arguments) < 2:
        print("usage: python3 -m orioncache.node SERVERDIR [SERVERDIR…] MOUNTPOINT", file=sys.stderr)
        return 2
    *sources, mountpoint = arguments
    try:
        run_in_background(lambda ready: _serve(sources, mountpoint, ready))
    except UserError as error:
        print(error.lines(), file=sys.stderr)
        return error.code
    return 0


def _serve(sources: Sequence[str], mountpoint: str, ready: Callable[[], None]) -> None:
    born = time.monotonic()
    with open("/proc/cmdline", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
        settings = options.collect(command_line=file.read(), environment=os.environ)
    if not settings.control:
        settings = settings.replace(control=CONTROL_SOCKET)
    if not settings.key and os.path.exists(KEY):  # noqa: PTH110
        settings = settings.replace(key=KEY)
    if settings.engine == "native":
        from orioncache.fs import native_release  # noqa: PLC0415

        engine = native_release.start(sources, mountpoint, settings)
        if engine is not None:
            # While /dev, /proc and /run are ours: the node's root takes them with it.
            log, control = _open_log(), listen(settings.control)
            _stay_alive()
            metrics = _listen_for_metrics(engine, settings)
            ready()
            speculation = _speculate(engine, settings, len(sources))
            # What follows is for people, and slower to import than all before: not while a node boots.
            _sleep_until_needed(
                (control, metrics), engine, born + settings.upload_after if settings.upload else None
            )
            from orioncache.fs.native_serving import ReleaseCache  # noqa: PLC0415
            from orioncache.kernel_log import log_to_kernel  # noqa: PLC0415

            log_to_kernel(log)
            cache = ReleaseCache(
                engine,
                sources,
                mountpoint,
                settings,
                control=control,
                metrics=metrics,
                born=born,
                speculation=speculation,
            )
            cache.serve(lambda: None, stop_on=())
            return
    _serve_with_pyfuse3(sources, mountpoint, settings, ready)


def _speculate(engine: Engine, settings: Options, servers: int) -> Runner | None:
    if not settings.speculates:
        return None
    from orioncache.prefetch.runner import start_beside  # noqa: PLC0415

    return start_beside(engine, settings, servers)


def _listen_for_metrics(engine: Engine, settings: Options) -> int | None:
    """The port for metrics; a boot goes on without it."""
    try:
        return listen_for_metrics(settings)
    except UserError as error:
        engine.warn(error.message)
        return None


def _sleep_until_needed(listening: Sequence[int | None], engine: Engine, until: float | None) -> None:
    """Until somebody connects to one of the sockets, something happens, the mount is gone, or it is time."""
    import select  # noqa: PLC0415

    waiting = select.poll()
    for fd in (*listening, engine.events_fd(), engine.ended_fd()):
        if fd is not None:
            waiting.register(fd, select.POLLIN)
    waiting.poll(None if until is None else max(0.0, 1000 * (until - time.monotonic())))


def _serve_with_pyfuse3(
    sources: Sequence[str], mountpoint: str, settings: Options, ready: Callable[[], None]
) -> None:
    import trio  # noqa: PLC0415

    from orioncache.fs import mounting  # noqa: PLC0415
    from orioncache.fs.serving import Cache  # noqa: PLC0415
    from orioncache.kernel_log import log_to_kernel  # noqa: PLC0415
    from orioncache.upstream import ProcPaths  # noqa: PLC0415

    mountpoint = mounting.check(sources, mountpoint)
    sources = [os.path.realpath(source) for source in sources]
    log_to_kernel(_open_log())
    _stay_alive()
    proc = ProcPaths(from_working_directory=True)
    cache = Cache(sources, mountpoint, settings, proc, metrics=listen_for_metrics(settings))

    async def run() -> None:
        await cache.serve(ready, stop_on=())

    trio.run(run)


def _stay_alive() -> None:
    """Keeps away from those who end processes: the kernel when memory is short, init at shutdown."""
    from _signal import SIG_IGN, SIGHUP, SIGINT, SIGTERM, signal  # noqa: PLC0415  # signal itself imports enum

    from orioncache import native  # noqa: PLC0415

    for number in (SIGTERM, SIGINT, SIGHUP):
        signal(number, SIG_IGN)
    try:
        native.lock_memory()
    except OSError as error:
        _complain(f"memory is not locked: {error.strerror}")
    try:
        _write("/proc/self/oom_score_adj", "-1000\n")
    except PermissionError:
        # In a container root may not; on a node it may.
        _complain("the kernel may end this process when memory is short")
    os.makedirs(os.path.dirname(OMITTED), exist_ok=True)  # noqa: PTH103,PTH120
    _write(OMITTED, f"{os.getpid()}\n")
    native.rename_process(NAME)


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
