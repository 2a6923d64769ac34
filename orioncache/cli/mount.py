"""Serve a directory, or NFS mounts of servers with the same tree, read-only and through a cache in RAM.

The sources are copies of one tree; the first is read from until it fails, then the next one. The command
returns once the mount can be used, and the cache runs in the background until `umount MOUNTPOINT`.

Examples:
  orioncache mount /srv/root /mnt/cached
  orioncache mount /mnt/nfs1,/mnt/nfs2 /mnt/cached --cache-size 256M
  orioncache mount --foreground --debug /srv/root /mnt/cached
  mount -t overlay none -o lowerdir=/mnt/cached,upperdir=/tmp/up,workdir=/tmp/work /mnt/writable
  umount /mnt/cached
"""

import argparse
import contextlib
import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from orioncache import options
from orioncache.background import run_in_background
from orioncache.control.listening import listen_for_metrics
from orioncache.control.places import socket_path
from orioncache.errors import UserError
from orioncache.options import Options

if TYPE_CHECKING:
    from orioncache.fs.supervisor import Held

# What ends a mount.
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of ``orioncache mount``."""
    parser.add_argument("sources", metavar="SOURCE[,SOURCE…]", help="directories that hold the same tree")
    parser.add_argument("mountpoint", metavar="MOUNTPOINT", help="where to serve it")
    parser.add_argument("-f", "--foreground", action="store_true", help="stay, and end with Ctrl-C")
    parser.add_argument("--debug", action="store_true", help="log every step")
    options.add_arguments(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    settings = options.from_arguments(args)
    sources = [source for source in args.sources.split(",") if source]
    if not sources:
        raise UserError("no source given", "orioncache mount SOURCE[,SOURCE…] MOUNTPOINT")
    from orioncache.fs import mounting  # noqa: PLC0415

    mountpoint = mounting.check(sources, args.mountpoint)
    if not settings.control:
        settings = settings.replace(control=socket_path(mountpoint))

    def serve(ready: Callable[[], None]) -> None:
        _serve(sources, mountpoint, settings, ready, stays=args.foreground)

    level = logging.DEBUG if args.debug else logging.INFO if args.foreground else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if args.foreground:
        serve(lambda: None)
    else:
        run_in_background(serve, _log_to_syslog)
    return 0


def _serve(
    sources: list[str], mountpoint: str, settings: Options, ready: Callable[[], None], *, stays: bool
) -> None:
    """Serves until the end; ``stays``: in this process's name, which others wait for."""
    metrics = listen_for_metrics(settings)
    if settings.engine != "native":
        _serve_with_pyfuse3(sources, mountpoint, settings, ready, metrics=metrics)
        return
    from orioncache.control.listening import listen  # noqa: PLC0415
    from orioncache.fs import mounting, native_release, supervisor  # noqa: PLC0415

    # All that a daemon imports: the one after a death shall not have to.
    from orioncache.fs.native_serving import ReleaseCache  # noqa: F401, PLC0415
    from orioncache.prefetch.runner import check  # noqa: PLC0415
    from orioncache.release.holding import hold_meanwhile  # noqa: F401, PLC0415

    check(settings)
    servers, device = native_release.open_servers(sources), mounting.open_device()
    control = listen(settings.control)

    def serve(held: supervisor.Held) -> None:
        if not _serve_release(
            sources, mountpoint, settings, held, control=control, metrics=metrics, ready=ready
        ):
            held.decline()

    held = supervisor.Held(servers, device, keeps_root=False)
    code: int | None = 1
    try:
        code = supervisor.Supervisor(
            held,
            serve,
            ready=ready,
            stop_on=ENDS,
            survived=not stays,
            unmount=lambda: mounting.unmount(mountpoint),
        ).run()
    finally:
        if code:
            # No daemon has done it.
            with contextlib.suppress(OSError):
                Path(settings.control).unlink()
    if code is None:
        held.close()
        _serve_with_pyfuse3(sources, mountpoint, settings, ready, control=control, metrics=metrics)
    elif code:
        raise SystemExit(code)


def _serve_with_pyfuse3(
    sources: list[str],
    mountpoint: str,
    settings: Options,
    ready: Callable[[], None],
    *,
    control: int | None = None,
    metrics: int | None,
) -> None:
    import trio  # noqa: PLC0415

    from orioncache.fs.serving import Cache  # noqa: PLC0415
    from orioncache.upstream import ProcPaths  # noqa: PLC0415

    cache = Cache(sources, mountpoint, settings, ProcPaths(), control=control, metrics=metrics)

    async def main() -> None:
        await cache.serve(ready, stop_on=ENDS)

    trio.run(main)


def _serve_release(
    sources: list[str],
    mountpoint: str,
    settings: Options,
    held: "Held",
    *,
    control: int,
    metrics: int | None,
    ready: Callable[[], None],
) -> bool:
    """Serves a release with the native engine; False, having done nothing, if the sources are none."""
    from orioncache.fs import mounting, native_release  # noqa: PLC0415
    from orioncache.fs.native_serving import ReleaseCache  # noqa: PLC0415
    from orioncache.prefetch.runner import start_beside  # noqa: PLC0415
    from orioncache.release.holding import hold_meanwhile  # noqa: PLC0415

    engine = native_release.start(sources, mountpoint, settings, held, mounting.mount)
    if engine is None:
        return False
    hold_meanwhile(sources)
    speculation = start_beside(engine, settings, len(sources))
    cache = ReleaseCache(
        engine,
        sources,
        mountpoint,
        settings,
        held,
        control=control,
        metrics=metrics,
        speculation=speculation,
    )
    cache.serve(ready, stop_on=ENDS)
    if speculation is not None:
        speculation.close()
    engine.close()
    return True


class _Syslog(logging.Handler):
    """Log records for the system's log."""

    def emit(self, record: logging.LogRecord) -> None:
        """Sends one record."""
        import syslog  # noqa: PLC0415

        if record.levelno >= logging.ERROR:
            priority = syslog.LOG_ERR
        elif record.levelno >= logging.WARNING:
            priority = syslog.LOG_WARNING
        else:
            priority = syslog.LOG_INFO if record.levelno >= logging.INFO else syslog.LOG_DEBUG
        syslog.syslog(priority | syslog.LOG_DAEMON, f"orioncache: {self.format(record)}")


def _log_to_syslog() -> None:
    logger = logging.getLogger()
    logger.handlers[:] = [_Syslog()]
    logger.setLevel(min(logger.level, logging.INFO))
