"""An HTTP server that takes nodes' traces (orioncache/fs/uploading.py) and has bundles made of them.

One request for each connection: ``PUT /…/ROLE/BOOT.trace``. Whoever is slow, or sends what is no good, takes
one of the few places that his address has, for a bounded time and with bounded memory.
"""

import contextlib
import json
import signal
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import h11
import trio

from orioncache.errors import UserError
from orioncache.profile.inbox import SUFFIX, Group, Inbox, Refused

# Bytes of a trace. One of 65,536 requests has 4 MB of them, and names and digests beside.
LARGEST = 16 << 20
# Connections at a time: all, and from one address.
OPEN_MOST, OPEN_OF_ONE = 64, 4
# Seconds: for a whole request; for an answer; for what is still on its way when an answer has been given.
RECEIVE, ANSWER, LINGER = 30.0, 5.0, 2.0
# Nothing is learned before nothing new came for so many seconds, or before the longer time has passed.
QUIET, QUIET_MOST = 5.0, 60.0

Tell = Callable[..., None]


class Receiver:
    """Takes traces, and learns from those of a group when it has become quiet.

    Attributes:
        inbox: where they are kept.
        learn: makes profile and bundle of a group, and says what became of it; called in a thread.
        tell: given what happened: a word, and facts by name.
        once: whether the first thing that is learned is the end.
    """

    def __init__(
        self, inbox: Inbox, learn: Callable[[Group], str], tell: Tell, *, once: bool = False
    ) -> None:
        self.inbox = inbox
        self.learn = learn
        self.tell = tell
        self.once = once
        self._open: Counter[str] = Counter()
        # To read a trace takes its size in memory many times.
        self._reading = trio.CapacityLimiter(1)
        # When something new came for a group first, and last.
        self._waiting: dict[Group, tuple[float, float]] = {}
        self._came = trio.Event()

    async def run(self, listeners: Sequence[trio.SocketListener]) -> None:
        """Serves until it is cancelled, or with ``once`` until something was learned."""
        for group in await trio.to_thread.run_sync(self.inbox.groups):
            if not self.inbox.is_learned(group):
                self._expect(group)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, self.connection, list(listeners))
            await self._learn_when_quiet()
            nursery.cancel_scope.cancel()

    async def connection(self, stream: trio.SocketStream) -> None:
        """Serves one connection to its end."""
        peer = "?"
        async with stream:
            try:
                peer = str(stream.socket.getpeername()[0])
                if self._open.total() >= OPEN_MOST or self._open[peer] >= OPEN_OF_ONE:
                    await self._answer(stream, 503, "too many connections")
                    return
                self._open[peer] += 1
                try:
                    await self._request(stream, peer)
                finally:
                    self._open[peer] -= 1
                    if not self._open[peer]:
                        del self._open[peer]
            except (OSError, trio.BrokenResourceError) as error:
                self.tell("refused", peer=peer, text=f"{type(error).__name__}: {error}")

    async def _request(self, stream: trio.SocketStream, peer: str) -> None:
        try:
            with trio.fail_after(RECEIVE):
                role, boot, data = await _receive(stream, self.inbox)
            group, is_new = await trio.to_thread.run_sync(
                self.inbox.take, role, boot, data, limiter=self._reading
            )
        except trio.TooSlowError:
            status, text = 408, f"not all of it came within {RECEIVE:g} s"
        except h11.RemoteProtocolError as error:
            status, text = 400, f"this is no HTTP: {error}"
        except Refused as error:
            status, text = error.status, error.text
        else:
            if is_new:
                self._expect(group)
                self.tell("received", peer=peer, group=str(group), boot=boot, bytes=len(data))
            await self._answer(stream, 201 if is_new else 200, "kept" if is_new else "it was here already")
            return
        self.tell("refused", peer=peer, status=status, text=text)
        await self._answer(stream, status, text)

    async def _answer(self, stream: trio.SocketStream, status: int, text: str) -> None:
        """Answers, and lets what is under way arrive: a reset could take the answer along."""
        body = text.encode("ascii", errors="backslashreplace") + b"\n"
        connection = h11.Connection(h11.SERVER)
        headers = [
            ("Content-Type", "text/plain"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        out = connection.send(h11.Response(status_code=status, headers=headers, reason=b"")) or b""
        with trio.move_on_after(ANSWER):
            await stream.send_all(out + body)
            with contextlib.suppress(OSError):
                await stream.send_eof()
        with trio.move_on_after(LINGER):
            while await stream.receive_some():
                pass

    def _expect(self, group: Group) -> None:
        now = trio.current_time()
        first, _ = self._waiting.get(group, (now, now))
        self._waiting[group] = first, now
        self._came.set()

    async def _learn_when_quiet(self) -> None:
        while True:
            if not self._waiting:
                self._came = trio.Event()
                await self._came.wait()
            due, group = min(
                (min(last + QUIET, first + QUIET_MOST), group)
                for group, (first, last) in self._waiting.items()
            )
            if due > trio.current_time():
                await trio.sleep_until(due)
                continue
            del self._waiting[group]
            try:
                text = await trio.to_thread.run_sync(self.learn, group)
            except UserError as error:
                self.tell("failed", group=str(group), text=error.message)
            except OSError as error:
                self.tell("failed", group=str(group), text=error.strerror or str(error))
            else:
                self.tell("learned", group=str(group), text=text)
            if self.once:
                return


async def _receive(stream: trio.SocketStream, inbox: Inbox) -> tuple[str, str, bytes]:
    """Role, boot and trace of a request.

    Raises:
        Refused: it is not to be had.
        h11.RemoteProtocolError: it is no HTTP.
    """
    connection = h11.Connection(h11.SERVER)
    role = boot = ""
    data = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if connection.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                await stream.send_all(connection.send(go_on) or b"")
            connection.receive_data(await stream.receive_some(1 << 16))
        elif isinstance(event, h11.Request):
            role, boot = _asked(event)
            inbox.check(role, boot)
        elif isinstance(event, h11.Data):
            data += event.data
            if len(data) > LARGEST:
                raise Refused(413, _TOO_LARGE)
        elif isinstance(event, h11.EndOfMessage):
            return role, boot, bytes(data)
        else:
            raise Refused(400, "the connection was closed too early")


_TOO_LARGE = f"a trace has at most {LARGEST} bytes"


def _asked(request: h11.Request) -> tuple[str, str]:
    """What the first lines of a request say."""
    if request.method != b"PUT":
        raise Refused(405, "only PUT is known here")
    for name, value in request.headers:
        if name == b"content-length" and int(value) > LARGEST:
            raise Refused(413, _TOO_LARGE)
    # What stands before is for whoever forwards requests; it is never used as a path.
    *_, role, file = ["", *request.target.decode("latin-1").split("/")]
    return role, file.removesuffix(SUFFIX) if file.endswith(SUFFIX) else ""


def place(text: str) -> tuple[str, int]:
    """Address and port of ``ADDRESS:PORT``, ``:PORT`` or ``[ADDRESS]:PORT``.

    Raises:
        ValueError: it is none.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdecimal() and int(port) < 1 << 16):
        raise ValueError(f"'{text}' is no place to listen: write ADDRESS:PORT")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return host or "0.0.0.0", int(port)


async def listen(host: str, port: int) -> list[trio.SocketListener]:
    """Listens there.

    Raises:
        UserError: it cannot be.
    """
    try:
        return list(await trio.open_tcp_listeners(port, host=host))
    except (OSError, socket.gaierror) as error:
        raise UserError(f"{host}:{port}: {error.strerror or error}", "choose another with --listen") from None


def serve(receiver: Receiver, host: str, port: int) -> None:
    """Listens and serves until SIGINT or SIGTERM comes, or with ``once`` until something was learned."""

    async def main() -> None:
        listeners = await listen(host, port)
        for listener in listeners:
            address = listener.socket.getsockname()
            receiver.tell("listening", address=address[0], port=address[1])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_signal, nursery.cancel_scope)
            await receiver.run(listeners)
            nursery.cancel_scope.cancel()

    trio.run(main)


async def _until_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
        async for _ in received:
            scope.cancel()
            return


def tell_as_text(event: str, **facts: Any) -> None:  # noqa: ANN401
    """One line for people."""
    text = {
        "listening": "listening on {address}:{port}; nodes: orion.upload=http://ADDRESS:{port}/",
        "received": "{peer}: a boot of {group}, {bytes} bytes",
        "refused": "{peer}: refused: {text}",
        "learned": "{group}: {text}",
        "failed": "{group}: nothing is learned: {text}",
    }[event]
    plain = "".join(c if c.isprintable() else "?" for c in text.format(**facts))
    print(plain, flush=True)


def tell_as_json(event: str, **facts: Any) -> None:  # noqa: ANN401
    """One line for programs."""
    print(json.dumps({"event": event, **facts}), flush=True)
