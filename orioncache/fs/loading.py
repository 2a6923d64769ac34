"""From source directories to the release that they hold, and to the servers that have it."""

import errno
import os
from collections.abc import Sequence

import trio

from orioncache.errors import UserError
from orioncache.events import Events
from orioncache.native import digests
from orioncache.release import format as layout
from orioncache.release.detect import MANIFEST, SIGNATURE, is_release
from orioncache.release.format import ManifestError
from orioncache.release.manifest import Manifest
from orioncache.upstream import Place, Server

# Bytes of a manifest that are asked of a server at once.
PIECE = 1 << 20

# Seconds that further servers are given to say what they hold, once one has.
GRACE = 1.0

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
        else:
            # A dead server must not hold up a boot that another one can serve.
            scope.deadline = min(scope.deadline, trio.current_time() + GRACE)

    async with trio.open_nursery() as nursery:
        for server in servers:
            nursery.start_soon(ask, server, nursery.cancel_scope)
    if not kinds:
        raise UserError(f"{servers[0].source}: {failures[0].strerror}", "check the server and the network")
    return any(kinds.values())


async def load_release(
    servers: Sequence[Server], patience: float, events: Events, *, key: bytes | None = None
) -> tuple[Manifest, list[Server]]:
    """The manifest of the first server that has a good one, and the servers that may have its blocks.

    Servers with another manifest are left out, with an event. One that does not answer is kept: what it gives
    later is verified like everything else.

    Args:
        servers: in the user's order.
        patience: seconds that each is given.
        events: is told who is left out.
        key: the public key that must have signed the release; None if any will do.

    Raises:
        UserError: no server has a manifest that can be used.
    """
    refused: list[tuple[Server, _RefusedError]] = []
    silent: list[Server] = []
    manifest = None
    for server in servers:
        try:
            manifest = await server.call(lambda s: _load(s, key), patience=patience)
            break
        except _RefusedError as error:
            refused.append((server, error))
        except OSError as error:
            silent.append(server)
            events.warning(f"{server.source}: its manifest could not be read: {error.strerror}")
    if manifest is None:
        if refused:
            raise UserError(f"{refused[0][0].source}: {refused[0][1]}", refused[0][1].mend)
        raise UserError(f"{silent[0].source}: no manifest could be read", "check the server and the network")
    for other, reason in refused:
        events.warning(f"{other.source} is left out: {reason}")
    out = {other for other, _ in refused}
    rest = [other for other in servers if other not in out and other not in silent and other is not server]
    digest = manifest.header.digest

    async def compare(other: Server) -> None:
        try:
            found = await other.call(_digest, patience=patience)
        except OSError as error:
            events.warning(f"{other.source}: its manifest could not be read: {error.strerror}")
            return
        if found != digest:
            out.add(other)
            why = f"it has another release than {server.source}" if found else "it is no release"
            events.warning(f"{other.source} is left out: {why}")

    async with trio.open_nursery() as nursery:
        for other in rest:
            nursery.start_soon(compare, other)
    return manifest, [other for other in servers if other not in out]


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
