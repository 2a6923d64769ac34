"""The socket's end in a running cache: a thread that nothing else can hold up."""

import contextlib
import errno
import json
import logging
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from orioncache.control import REQUEST_BYTES
from orioncache.errors import UserError

log = logging.getLogger(__name__)

# Seconds that a client may take over its request or over reading our answer.
CLIENT_TIMEOUT = 2.0


class ControlServer:
    """Answers requests between ``__enter__`` and ``__exit__``.

    It runs in a thread of its own, with blocking calls: a mount that hangs holds up the event loop's threads,
    and requests must be answered just then.
    """

    def __init__(self, path: str, status: Callable[[], dict[str, object]]) -> None:
        """Prepares, without doing anything.

        Args:
            path: where the socket shall be.
            status: gives the answer to ``status``; called in the thread.
        """
        self.path = path
        self._status = status
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def __enter__(self) -> "ControlServer":
        """Listens.

        Raises:
            UserError: the socket cannot be made there, or another cache listens on it.
        """
        try:
            Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            _remove_stale(self.path)
            mask = os.umask(0o177)
            try:
                self._socket.bind(self.path)
            finally:
                os.umask(mask)
        except OSError as error:
            self._socket.close()
            raise UserError(
                f"control socket {self.path}: {error.strerror or error}", "choose another with --control"
            ) from None
        self._socket.listen(16)
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
                    client.sendall(json.dumps(self._answer(_request(client))).encode() + b"\n")
                except OSError as error:
                    log.debug("control client: %s", error)
                except Exception:
                    # A bug costs the request that met it: the next one must be answered again.
                    log.exception("control request failed")

    def _answer(self, request: bytes) -> dict[str, object]:
        try:
            asked = json.loads(request)["op"]
        except (ValueError, TypeError, KeyError, RecursionError):
            return {"error": 'a request is {"op": "…"} in one line'}
        if asked == "status":
            return self._status()
        return {"error": f"unknown op '{asked}'"}


def _request(client: socket.socket) -> bytes:
    request = b""
    while not request.endswith(b"\n") and len(request) < REQUEST_BYTES:
        more = client.recv(REQUEST_BYTES)
        if not more:
            break
        request += more
    return request


def _remove_stale(path: str) -> None:
    """Removes a socket that nobody listens on; nothing else."""
    if not Path(path).is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(CLIENT_TIMEOUT)
        try:
            probe.connect(path)
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            Path(path).unlink()
            return
    raise FileExistsError(errno.EEXIST, "another cache listens on it")
