"""From source directories to the release that they hold, and to the servers that have it."""

import contextlib
import errno
import os
from collections.abc import Callable, Sequence

import trio

from orioncache.errors import UserError
from orioncache.events import Events
from orioncache.native import digests
from orioncache.release import format as layout
from orioncache.release.detect import MANIFEST, SIGNATURE, is_release
from orioncache.release.format import ManifestError
from orioncache.release.holding import hold
from orioncache.release.manifest import Manifest
from orioncache.upstream import Place, Server

# Bytes of a manifest that are asked of a server at once.
PIECE = 1 << 20

# Seconds that further servers are given to say what they hold, once one has; and until the next one is asked
# for its manifest as well, from one that has not begun to answer, and from one that has.
GRACE = 0.1
NEXT = 0.1
NEXT_AFTER_HEADER = 2.0

AGAIN = "build the release anew, or copy it to the server again"
UNSIGNED = "sign it with orioncache release sign, or say verify=off if you trust it as it is"


class _RefusedError(Exception):
    """A server's release cannot be used: why, and what mends it."""

    def __init__(self, message: str, mend: str) -> None:
        super().__init__(message)
        self.mend = mend


async def are_releases(servers: Sequence[Server], patience: float) -> bool:
    """Whether the sources hold a release, and not plain trees.

    A server that does not answer is what the others are; of several kinds releases count, and
    :func:`load_release` leaves the plain trees out.

    Raises:
        UserError: none answers.
    """
    kinds: dict[str, bool] = {}
    failures: list[OSError] = []

    async def ask(server: Server, scope: trio.CancelScope) -> None:
        try:
            kinds[server.source] = await server.call(lambda s: is_release(s.directory), patience=patience)
        except OSError as error:
            failures.append(error)
            return
        # A dead server must not hold up a boot that another one can serve.
        grace = 0.0 if kinds[server.source] else GRACE
        scope.deadline = min(scope.deadline, trio.current_time() + grace)

    async with trio.open_nursery() as nursery:
        for server in servers:
            nursery.start_soon(ask, server, nursery.cancel_scope)
    if not kinds:
        raise UserError(f"{servers[0].source}: {failures[0].strerror}", "check the server and the network")
    return any(kinds.values())


async def load_release(
    servers: Sequence[Server], patience: float, events: Events, *, key: bytes | None = None
) -> tuple[Manifest, Server]:
    """The manifest of the first server that gives a good one, and that server.

    They are asked in the user's order, each next one a moment after one that does not answer. Those found to
    have something else are quarantined for good, with an event. One that does not answer is left as it is:
    :func:`vetting` looks at it when it does, and what it gives is verified like everything else.

    Args:
        servers: in the user's order.
        patience: seconds that each is given.
        events: is told who is left out.
        key: the public key that must have signed the release; None if any will do.

    Raises:
        UserError: no server has a manifest that can be used.
    """
    refused: list[tuple[Server, _RefusedError]] = []
    silent: dict[Server, OSError] = {}
    found: list[tuple[Manifest, Server]] = []

    async def load(server: Server, scope: trio.CancelScope, begun: trio.Event, ended: trio.Event) -> None:
        try:
            await server.call(_digest, patience=patience)
            begun.set()
            found.append((await server.call(lambda s: _load(s, key), patience=patience), server))
            scope.cancel()
        except _RefusedError as error:
            refused.append((server, error))
        except OSError as error:
            silent[server] = error
        begun.set()
        ended.set()

    async with trio.open_nursery() as nursery:
        for server in servers:
            begun, ended = trio.Event(), trio.Event()
            nursery.start_soon(load, server, nursery.cancel_scope, begun, ended)
            with trio.move_on_after(NEXT):
                await begun.wait()
            if begun.is_set():
                with trio.move_on_after(NEXT_AFTER_HEADER):
                    await ended.wait()
    for server, error in silent.items():
        events.warning(f"{server.source}: its manifest could not be read: {error.strerror}", "server")
    if not found:
        if refused:
            raise UserError(f"{refused[0][0].source}: {refused[0][1]}", refused[0][1].mend)
        raise UserError(f"{servers[0].source}: no manifest could be read", "check the server and the network")
    manifest, first = found[0]
    for server, reason in refused:
        _leave_out(server, str(reason), events)
    vet = vetting(manifest, first)

    async def compare(server: Server) -> None:
        with contextlib.suppress(OSError):
            reason = await server.call(vet, patience=patience)
            if reason is not None:
                _leave_out(server, reason, events)

    with trio.move_on_after(GRACE):
        async with trio.open_nursery() as nursery:
            for server in servers:
                if server is not first and server not in silent and not server.health.excluded:
                    nursery.start_soon(compare, server)
    return manifest, first


async def hold_all(servers: Sequence[Server], patience: float) -> list[int]:
    """Locks the release on each server that keeps it on a local file system (``orioncache.release.holding``).

    Raises:
        UserError: one is just being removed.
    """
    held: list[int] = []
    failures: list[UserError] = []

    async def lock(server: Server, scope: trio.CancelScope) -> None:
        with contextlib.suppress(OSError):
            try:
                held.extend(await server.call(lambda s: hold([(s.source, s.directory)]), patience=patience))
            except UserError as error:
                failures.append(error)
            scope.deadline = min(scope.deadline, trio.current_time() + GRACE)

    async with trio.open_nursery() as nursery:
        for server in servers:
            if not server.health.excluded:
                nursery.start_soon(lock, server, nursery.cancel_scope)
    if failures:
        raise failures[0]
    return held


def vetting(manifest: Manifest, first: Server) -> Callable[[Server], str | None]:
    """What says why a server cannot serve this release, or None if it can; it blocks.

    Args:
        manifest: of the release.
        first: where it is from.
    """
    digest = manifest.header.digest

    def vet(server: Server) -> str | None:
        found = _digest(server)
        if found == digest:
            return None
        return f"it has another release than {first.source}" if found else "it is no release"

    return vet


def _leave_out(server: Server, reason: str, events: Events) -> None:
    server.health.quarantine(server.clock(), reason, for_good=True)
    events.warning(f"{server.source} is left out: {reason}", "quarantine", server=server.source)


def _load(server: Server, key: bytes | None) -> Manifest:
    """Reads and checks a server's manifest. Blocks."""
    try:
        data = _read(server, MANIFEST)
    except FileNotFoundError:
        raise _RefusedError("it is no release", AGAIN) from None
    try:
        manifest = Manifest(data)
    except ManifestError as error:
        raise _RefusedError(f"the manifest cannot be used: {error}", AGAIN) from None
    if not manifest.verify():
        raise _RefusedError("the manifest is damaged: its digest does not match", AGAIN)
    if key is not None:
        _check_signature(server, manifest, key)
    return manifest


def _check_signature(server: Server, manifest: Manifest, key: bytes) -> None:
    try:
        signature = _read(server, SIGNATURE)
    except FileNotFoundError:
        raise _RefusedError("the manifest is not signed", UNSIGNED) from None
    header = manifest.header
    if not digests.signature_is_good(header.digest_kind, header.digest, signature, key):
        raise _RefusedError("the manifest's signature is not by the key", UNSIGNED)


def _read(server: Server, name: str) -> bytes:
    """A whole file of the source, into memory of our own: a page of a mapped one could fail to come later."""
    opened = server.open(Place(Place(), os.fsencode(name)))
    size = opened.attributes.st_size
    data = bytearray()
    while len(data) < size:
        piece, _ = opened.read(len(data), min(PIECE, size - len(data)))
        if not piece:
            raise OSError(errno.EIO, f"{name} is shorter than it says")
        data += piece
    return bytes(data)


def _digest(server: Server) -> bytes | None:
    """The digest in the header of a server's manifest; None if it has no good header. Blocks."""
    try:
        opened = server.open(Place(Place(), os.fsencode(MANIFEST)))
    except FileNotFoundError:
        return None
    data, attributes = opened.read(0, layout.HEADER_SIZE)
    try:
        return layout.read_header(data, attributes.st_size).digest
    except ManifestError:
        return None
