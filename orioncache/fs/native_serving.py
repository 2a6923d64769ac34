"""A release that the native engine serves: control socket, events, signals, and the end."""

import errno
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence

from orioncache import __version__
from orioncache.control.changing import Changes
from orioncache.control.server import ControlServer
from orioncache.events import KINDS, SHOWN, Events
from orioncache.fs.mounting import unmount
from orioncache.fs.supervisor import Held
from orioncache.fs.uploading import Upload
from orioncache.native.engine import Engine
from orioncache.options import Options
from orioncache.prefetch.runner import Runner


class ReleaseCache:
    """One mounted release, around an engine that has loaded it.

    Attributes:
        sources: the servers' directories.
        mountpoint: where it is served.
        options: as given by the user.
    """

    def __init__(
        self,
        engine: Engine,
        sources: Sequence[str],
        mountpoint: str,
        options: Options,
        held: Held,
        *,
        control: int | None = None,
        metrics: int | None = None,
        born: float | None = None,
        speculation: Runner | None = None,
        mount: Callable[[str], int] | None = None,
    ) -> None:
        """Takes over an engine that serves.

        Args:
            engine: started.
            sources: the servers' directories.
            mountpoint: where it is served.
            options: as given by the user.
            held: by the supervisor.
            control: the listening control socket, if it has been made already.
            metrics: the listening socket for metrics, if they are wanted on a port.
            speculation: what guesses beside it, if anything does.
            mount: mounts ``HOST:/PATH`` for a server that is added, and returns a descriptor (O_PATH) of it.
            born: when the process began, on the clock of ``time.monotonic()``; None: /proc is asked.
        """
        self.sources = list(sources)
        self.mountpoint = mountpoint
        self.options = options
        self._engine = engine
        self._held = held
        self._control = control
        self._metrics = metrics
        self._speculation = speculation
        self._mount = mount
        self._release = engine.release()
        self._started = time.monotonic()
        self._born = _process_start() if born is None else born
        self._events = Events()
        self._asking = threading.Lock()
        self._upload = None
        if options.upload and not held.restarts:
            self._upload = Upload(engine, options, self._events, self._born)

    def serve(self, ready: Callable[[], None], *, stop_on: Sequence[signal.Signals]) -> None:
        """Answers for the mount, which the engine serves already, until it is taken away or a signal comes.

        Args:
            ready: called once the control socket answers.
            stop_on: the signals that end it.
        """
        ours, kernels = socket.socketpair()
        with ours, kernels:
            ours.setblocking(False)
            kernels.setblocking(False)
            before = signal.set_wakeup_fd(kernels.fileno(), warn_on_full_buffer=False)
            for number in stop_on:
                signal.signal(number, lambda *_: None)
            try:
                with ControlServer(
                    self.options.control,
                    self.status,
                    self._control,
                    metrics=self._metrics,
                    trace=self.trace,
                    events=self._events,
                    changes=Changes(self._engine, self.status, self._mount),
                ):
                    self._events.info(
                        f"{self.mountpoint}: serving {self._release['name']} {self._release['version']} "
                        f"from {', '.join(self.sources)}",
                        "daemon",
                    )
                    ready()
                    if self._upload is not None:
                        self._upload.start()
                    self._wait(ours.fileno(), set(stop_on))
                    self._tell_events()
            finally:
                if self._upload is not None:
                    self._upload.close()
                signal.set_wakeup_fd(before)
        self._events.info(f"{self.mountpoint}: ended", "daemon")

    def status(self) -> dict[str, object]:
        """What ``orioncache status`` shows; never asks a server, and may be called from any thread."""
        self._tell_events()
        with self._asking:
            figures, moments = self._engine.statistics(), self._engine.moments()
        return {
            "version": __version__,
            "pid": os.getpid(),
            "mountpoint": self.mountpoint,
            "uptime_s": round(time.monotonic() - self._started, 3),
            "engine": "native",
            "mode": "release",
            "release": self._release,
            "options": vars(self.options),
            **figures,
            "prefetch": self._speculation.statistics() if self._speculation is not None else None,
            "upload": None if self._upload is None else self._upload.status(),
            "started_ms": {name: round(1000 * (at - self._born), 3) for name, at in moments.items() if at},
            "daemon": {
                "supervised": self._held.is_supervised,
                "restarts": self._held.restarts,
                # By the machine's uptime, in seconds.
                "last_restart": round(self._held.died, 3) if self._held.restarts else None,
                "resend": figures["fuse"]["resends"],  # type: ignore[index]
            },
            "events": self._events.last(SHOWN),
        }

    def trace(self) -> tuple[dict[str, object], bytes] | None:
        """The answer to ``trace``; None if nothing is recorded. Never asks a server."""
        try:
            return self._engine.trace()
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise
            return None

    def _wait(self, signals: int, stop_on: set[int]) -> None:
        """Until the mount is gone, or one of the signals came; takes the mount away then."""
        poller = select.poll()
        ended, events = self._engine.ended_fd(), self._engine.events_fd()
        for fd in (signals, ended, events):
            poller.register(fd, select.POLLIN)
        while True:
            found = {fd for fd, _ in poller.poll()}
            if events in found:
                self._tell_events()
            if ended in found:
                return
            if signals in found and stop_on.intersection(os.read(signals, 64)):
                unmount(self.mountpoint)
                return

    def _tell_events(self) -> None:
        with self._asking:
            happened = self._engine.events()
        since_1970 = time.time() - time.monotonic()
        for event in happened:
            self._events.note(
                event.severity, KINDS[event.kind], event.text, event.fields, at=since_1970 + event.at
            )


def _process_start() -> float:
    """When this process began, on the clock of ``time.monotonic()`` in seconds, to a hundredth (proc(5))."""
    with open("/proc/self/stat", "rb") as file:  # noqa: PTH123
        ticks = int(file.read().rpartition(b")")[2].split()[19])
    asleep = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    return ticks / os.sysconf("SC_CLK_TCK") - asleep
