"""The socket's end in a running cache: a thread that nothing else can hold up."""

import contextlib
import json
import logging
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from orioncache.control import REQUEST_BYTES
from orioncache.control.listening import listen

log = logging.getLogger(__name__)

# Seconds that a client may take over its request or over reading our answer.
CLIENT_TIMEOUT = 2.0
# The same for reading a trace, of megabytes; meanwhile no other client is answered.
TRACE_TIMEOUT = 10.0

# The answer to a request, and the bytes that follow it.
Answer = tuple[dict[str, object], bytes]


class ControlServer:
    """Answers requests between ``__enter__`` and ``__exit__``.

    It runs in a thread of its own, with blocking calls: a mount that hangs holds up the event loop's threads,
    and requests must be answered just then.
    """

    def __init__(
        self,
        path: str,
        status: Callable[[], dict[str, object]],
        listening: int | None = None,
        trace: Callable[[], Answer | None] = lambda: None,
    ) -> None:
        """Prepares, without doing anything.

        Args:
            path: where the socket shall be.
            status: gives the answer to ``status``; called in the thread.
            listening: the socket, if it has been made already.
            trace: gives the answer to ``trace``, or None if nothing is recorded; called in the thread.
        """
        self.path = path
        self._status = status
        self._trace = trace
        self._listening = listening

    def __enter__(self) -> "ControlServer":
        """Listens.

        Raises:
            UserError: the socket cannot be made there, or another cache listens on it.
        """
        self._socket = socket.socket(fileno=listen(self.path) if self._listening is None else self._listening)
        threading.Thread(target=self._serve, name="control", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            Path(self.path).unlink()
        # Wakes the thread up, which close() alone would not.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            with client:
                try:
                    client.settimeout(CLIENT_TIMEOUT)
                    answer, data = self._answer(_request(client))
                    if data:
                        client.settimeout(TRACE_TIMEOUT)
                    client.sendall(json.dumps(answer).encode() + b"\n")
                    client.sendall(data)
                except OSError as error:
                    log.debug("control client: %s", error)
                except Exception:
                    # A bug costs the request that met it: the next one must be answered again.
                    log.exception("control request failed")

    def _answer(self, request: bytes) -> Answer:
        try:
            asked = json.loads(request)["op"]
        except (ValueError, TypeError, KeyError, RecursionError):
            return {"error": 'a request is {"op": "…"} in one line'}, b""
        if asked == "status":
            return self._status(), b""
        if asked == "trace":
            return self._trace() or ({"error": "this cache records no trace"}, b"")
        return {"error": f"unknown op '{asked}'"}, b""


def _request(client: socket.socket) -> bytes:
    request = b""
    while not request.endswith(b"\n") and len(request) < REQUEST_BYTES:
        more = client.recv(REQUEST_BYTES)
        if not more:
            break
        request += more
    return request
