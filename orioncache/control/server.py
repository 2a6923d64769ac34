"""The socket's end in a running cache: a thread that nothing else can hold up."""

import contextlib
import json
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from orioncache.control import REQUEST_BYTES
from orioncache.control.changing import Changes
from orioncache.control.following import Followers
from orioncache.control.listening import listen
from orioncache.control.metrics import CONTENT_TYPE, metrics_of
from orioncache.control.scraping import MetricsPort
from orioncache.errors import UserError
from orioncache.events import Events

log = logging.getLogger(__name__)

# Seconds that a client may take over its request or over reading our answer.
CLIENT_TIMEOUT = 2.0
# The same for reading a trace, of megabytes; meanwhile no other client is answered.
TRACE_TIMEOUT = 10.0

# The answer to a request, and the bytes that follow it.
Answer = tuple[dict[str, object], bytes]

# What only root and the daemon's own user may ask for.
CHANGES = ("server-add", "server-remove", "server-drain")


class ControlServer:
    """Answers requests between ``__enter__`` and ``__exit__``.

    It runs in a thread of its own, with blocking calls: a mount that hangs holds up the event loop's threads,
    and requests must be answered just then. Who follows events, and who changes the servers, which may take
    time, is left to other threads.
    """

    def __init__(
        self,
        path: str,
        status: Callable[[], dict[str, object]],
        listening: int | None = None,
        *,
        metrics: int | None = None,
        trace: Callable[[], Answer | None] = lambda: None,
        events: Events | None = None,
        changes: Changes | None = None,
    ) -> None:
        """Prepares, without doing anything.

        Args:
            path: where the socket shall be.
            status: gives the answer to ``status``; called in the thread, and in others.
            listening: the socket, if it has been made already.
            metrics: a listening TCP socket, taken over, on which metrics are to be had as well.
            trace: gives the answer to ``trace``, or None if nothing is recorded; called in the thread.
            events: the answer to ``events``.
            changes: does what the changes of servers want.
        """
        self.path = path
        self._status = status
        self._trace = trace
        self._listening = listening
        self._events = events or Events()
        self._followers = Followers(self._events)
        self._changes = changes
        self._metrics_socket = metrics
        self._metrics_port: MetricsPort | None = None

    def __enter__(self) -> "ControlServer":
        """Listens.

        Raises:
            UserError: the socket cannot be made there, or another cache listens on it.
        """
        self._socket = socket.socket(fileno=listen(self.path) if self._listening is None else self._listening)
        threading.Thread(target=self._serve, name="control", daemon=True).start()
        if self._metrics_socket is not None:
            self._metrics_port = MetricsPort(self._metrics_socket, self._metrics_text)
            self._events.info(f"metrics are at {self._metrics_port.address}", "daemon")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self._listening is not None:
            # Whoever made it may have it answered by another process.
            return
        with contextlib.suppress(OSError):
            Path(self.path).unlink()
        # Wakes the thread up, which close() alone would not.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        if self._metrics_port is not None:
            self._metrics_port.close()
        self._followers.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            left = False
            try:
                client.settimeout(CLIENT_TIMEOUT)
                left = self._serve_client(client)
            except OSError as error:
                log.debug("control client: %s", error)
            except Exception:
                # A bug costs the request that met it: the next one must be answered again.
                log.exception("control request failed")
            finally:
                if not left:
                    client.close()

    def _serve_client(self, client: socket.socket) -> bool:
        """Answers a request; whether the connection was left to another thread."""
        try:
            request = json.loads(_request(client))
            asked = request["op"]
        except (ValueError, TypeError, KeyError, RecursionError):
            _send(client, {"error": 'a request is {"op": "…"} in one line'})
            return False
        if asked == "events" and request.get("follow") is True:
            if self._followers.add(client, _since(request)):
                return True
            _send(client, {"error": "too many follow the events already", "mend": "end one of them"})
        elif asked in CHANGES and self._changes is not None:
            if not _may_change(client):
                _send(client, {"error": "this is for root, and for the user whose cache it is"})
                return False
            threading.Thread(target=self._change, args=[client, request], name="change", daemon=True).start()
            return True
        else:
            _send(client, *self._answer(asked, request))
        return False

    def _answer(self, asked: object, request: dict[str, object]) -> Answer:
        answers: dict[object, Callable[[], Answer]] = {
            "status": lambda: (self._status(), b""),
            "trace": lambda: self._trace() or ({"error": "this cache records no trace"}, b""),
            "events": lambda: self._kept_events(_since(request)),
            "metrics": self._metrics,
            "server-list": self._servers,
            **dict.fromkeys(CHANGES, lambda: ({"error": "the servers of this cache cannot be changed"}, b"")),
        }
        if not isinstance(asked, str) or asked not in answers:
            return {"error": f"unknown op '{asked}'"}, b""
        return answers[asked]()

    def _kept_events(self, since: int) -> Answer:
        events, lost = self._events.since(since)
        return {"events": events, "lost": lost, "seq": self._events.told, "pid": os.getpid()}, b""

    def _metrics(self) -> Answer:
        text = self._metrics_text().encode()
        return {"bytes": len(text), "type": CONTENT_TYPE}, text

    def _metrics_text(self) -> str:
        return metrics_of(self._status())

    def _servers(self) -> Answer:
        status = self._status()
        return {key: status[key] for key in ("mountpoint", "servers", "failover") if key in status}, b""

    def _change(self, client: socket.socket, request: dict[str, object]) -> None:
        assert self._changes is not None
        with client:
            try:
                try:
                    answer = self._changes.do(request)
                except UserError as error:
                    answer = {"error": error.message, "mend": error.mend}
                _send(client, answer)
            except OSError as error:
                log.debug("control client: %s", error)
            except Exception:
                log.exception("control request failed")


def _since(request: dict[str, object]) -> int:
    since = request.get("since")
    return since if isinstance(since, int) else 0


def _send(client: socket.socket, answer: dict[str, object], data: bytes = b"") -> None:
    if data:
        client.settimeout(TRACE_TIMEOUT)
    client.sendall(json.dumps(answer).encode() + b"\n")
    client.sendall(data)


def _may_change(client: socket.socket) -> bool:
    """Whether it is root or our own user; the socket's mode lets nobody else in anyway."""
    credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return uid in (0, os.geteuid())


def _request(client: socket.socket) -> bytes:
    request = b""
    while not request.endswith(b"\n") and len(request) < REQUEST_BYTES:
        more = client.recv(REQUEST_BYTES)
        if not more:
            break
        request += more
    return request
