"""Sends what a boot read to a server, which makes a bundle of it for the next boots of its role.

``orioncache profile serve`` is that server. Nothing of a node waits for this: it happens in a thread of its
own, when the boot is over, and what fails is told as an event.
"""

import os
import socket
import threading
import time

from orioncache import __version__
from orioncache.events import Events
from orioncache.native.engine import Engine
from orioncache.options import Options, upload_place

# Seconds: for the connection, and for all of one attempt.
CONNECT, ATTEMPT = 5.0, 30.0
# Seconds before each further attempt. Up to half as much again is added, as to the time of the first: a room
# of nodes that were switched on together shall not send together.
PAUSES = (5.0, 20.0, 60.0)
# Of an answer; more says nothing to us.
ANSWER_BYTES = 4096
# As docs/trace.md has it.
DEGRADED = 2


class Upload:
    """One boot's trace: waited for, taken, sent once; all of it behind :meth:`start`.

    Attributes:
        boot: names this boot, so that what is sent twice counts once.
    """

    def __init__(self, engine: Engine, options: Options, events: Events, born: float) -> None:
        """Prepares, without doing anything.

        Args:
            engine: started.
            options: with ``upload``.
            events: where it is told what became of it.
            born: about when the mount was made, on the clock of ``time.monotonic()``.
        """
        self.boot = os.urandom(16).hex()
        self._engine = engine
        self._options = options
        self._events = events
        self._due = born + options.upload_after
        self._state = "waiting"
        self._text = f"{options.upload_after:g} s after the mount, to {options.upload}"
        self._ending = threading.Event()
        self._using_engine = threading.Lock()

    def start(self) -> None:
        """Begins to wait."""
        threading.Thread(target=self._run, name="upload", daemon=True).start()

    def close(self) -> None:
        """The engine is not used after it; what is being sent then is given up."""
        self._ending.set()
        with self._using_engine:
            pass

    def status(self) -> dict[str, object]:
        """``state`` (``waiting``, ``sending``, ``sent``, ``not sent``, ``failed``), ``text`` and ``boot``."""
        return {"state": self._state, "text": self._text, "boot": self.boot}

    def _run(self) -> None:
        if self._ending.wait(max(0.0, self._due - time.monotonic())):
            return
        data = None
        with self._using_engine:
            if not self._ending.is_set():
                try:
                    data = self._take()
                except OSError as error:
                    self._fail("not sent", error.strerror or str(error))
                finally:
                    # The boot is over: from now on the kernel reads ahead as ever.
                    self._engine.end_learning()
        if data is not None and not self._ending.wait(_spread(self._options.upload_after)):
            self._send(data)

    def _take(self) -> bytes | None:
        """The trace, if others may learn from it."""
        if self._options.trace == "off" and not self._engine.is_learning():
            self._become("not sent", "nothing was recorded: there is a bundle, or nothing could be")
            return None
        facts, data = self._engine.trace()
        if facts["lost"]:
            why = f"{facts['lost']} requests found no room in it: see trace_records"
        elif int(str(facts["flags"])) & DEGRADED:
            why = "it is degraded: a server failed, or gave wrong bytes"
        elif not facts["records"]:
            why = "nothing was read"
        else:
            return data
        self._fail("not sent", why)
        return None

    def _send(self, data: bytes) -> None:
        address, port, path = upload_place(self._options.upload)
        target = f"{path}/{self._options.bundle}/{self.boot}.trace"
        for pause in (0.0, *PAUSES):
            if pause and self._ending.wait(pause + _spread(pause)):
                return
            self._become("sending", f"{len(data)} bytes to {self._options.upload}")
            again = True
            try:
                code, text = put(address, port, target, data)
            except OSError as error:
                why = f"{self._options.upload}: {error.strerror or error}"
            else:
                if 200 <= code < 300:
                    self._become("sent", f"{len(data)} bytes to {self._options.upload}: {text}")
                    self._events.info(f"what this boot read is uploaded: {self._text}")
                    return
                why = f"{self._options.upload} answered {code} {text}"
                again = code in (408, 429) or code >= 500
            if not again:
                break
            self._become("sending", f"{why}; it will be tried again")
        self._fail("failed", why)

    def _fail(self, state: str, why: str) -> None:
        self._become(state, why)
        self._events.warning(f"what this boot read is not uploaded: {why}")

    def _become(self, state: str, text: str) -> None:
        self._state, self._text = state, text


def put(address: str, port: int, target: str, data: bytes) -> tuple[int, str]:
    """One HTTP request (RFC 9112): the answer's code, and its text in one line.

    No redirect is followed: whoever gives the address gives the right one.

    Raises:
        OSError: no answer came, or none that is HTTP, within :data:`ATTEMPT`.
    """
    deadline = time.monotonic() + ATTEMPT
    shown = f"[{address}]" if ":" in address else address
    head = (
        f"PUT {target} HTTP/1.1\r\nHost: {shown}:{port}\r\nUser-Agent: orioncache/{__version__}\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    )
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(CONNECT)
        connection.connect((address, port))
        refused: OSError | None = None
        try:
            connection.settimeout(_left(deadline))
            connection.sendall(head.encode() + data)
        except (BrokenPipeError, ConnectionResetError) as error:
            refused = error  # it may have said why
        answer = b""
        while len(answer) < ANSWER_BYTES:
            connection.settimeout(_left(deadline))
            try:
                more = connection.recv(ANSWER_BYTES - len(answer))
            except ConnectionResetError:
                more = b""
            if not more:
                break
            answer += more
    head_lines, _, body = answer.partition(b"\r\n\r\n")
    words = head_lines.split(b"\r\n", 1)[0].split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise refused or OSError("its answer is no HTTP" if answer else "it closed without an answer")
    text = body.split(b"\n", 1)[0].strip() or (words[2] if len(words) > 2 else b"")
    return int(words[1]), text[:200].decode(errors="backslashreplace")


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("no answer in time")
    return left


def _spread(seconds: float) -> float:
    """Up to half of some seconds, by chance."""
    return seconds / 2 * int.from_bytes(os.urandom(2), "little") / (1 << 16)
