"""The port on which metrics are to be had: ``GET /metrics`` over HTTP, and nothing else.

A thread answers one request after the other, each for a bounded time and with bounded memory. What it says is
what the control socket says to ``metrics``; it changes nothing.
"""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable

from orioncache.control.metrics import CONTENT_TYPE

log = logging.getLogger(__name__)

# Seconds for one connection, from its first byte to the last.
CLIENT_TIMEOUT = 2.0
# Bytes of a request, whose headers mean nothing to us.
REQUEST_BYTES = 8192


class MetricsPort:
    """Answers from construction until :meth:`close`."""

    def __init__(self, listening: int, text: Callable[[], str]) -> None:
        """Starts the thread.

        Args:
            listening: a listening TCP socket, taken over.
            text: gives the metrics; called in the thread.
        """
        self._socket = socket.socket(fileno=listening)
        self._text = text
        threading.Thread(target=self._serve, name="metrics", daemon=True).start()

    @property
    def address(self) -> str:
        """Where metrics are to be had."""
        host, port = self._socket.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"

    def close(self) -> None:
        """Listens no more."""
        # Wakes the thread up, which close() alone would not.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError as error:
                if self._socket.fileno() < 0 or error.errno is None:
                    return
                log.debug("metrics: %s", error)
                if not _is_listening(self._socket):
                    return
                time.sleep(0.1)  # out of descriptors, perhaps: not a whole processor for that
                continue
            with client:
                try:
                    self._answer(client)
                except OSError as error:
                    log.debug("metrics client: %s", error)
                except Exception:
                    log.exception("metrics request failed")

    def _answer(self, client: socket.socket) -> None:
        until = time.monotonic() + CLIENT_TIMEOUT
        request = b""
        while b"\r\n\r\n" not in request and b"\n\n" not in request and len(request) < REQUEST_BYTES:
            more = _receive(client, until)
            if not more:
                break
            request += more
        method, target = (*request.split(b"\n", 1)[0].split(), b"", b"")[:2]
        path = target.partition(b"?")[0]
        kind, body = "text/plain; charset=utf-8", b""
        if method not in (b"GET", b"HEAD"):
            status = "405 Method Not Allowed" if method.isalpha() else "400 Bad Request"
        elif path != b"/metrics":
            status, body = "404 Not Found", b"see /metrics\n"
        else:
            status, kind, body = "200 OK", CONTENT_TYPE, self._text().encode()
        head = (
            f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
            "Allow: GET, HEAD\r\nConnection: close\r\n\r\n"
        )
        client.settimeout(max(0.01, until - time.monotonic()))
        client.sendall(head.encode() + (body if method != b"HEAD" else b""))
        # What is still on its way to us would make close() a reset, which can take the answer along.
        client.shutdown(socket.SHUT_WR)
        while _receive(client, until):
            pass


def _receive(client: socket.socket, until: float) -> bytes:
    """What comes, or nothing at the end of the connection or of the time."""
    left = until - time.monotonic()
    if left <= 0:
        return b""
    client.settimeout(left)
    try:
        return client.recv(4096)
    except TimeoutError:
        return b""


def _is_listening(found: socket.socket) -> bool:
    try:
        return bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False
