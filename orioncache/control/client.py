"""Asking running caches."""

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orioncache.control.places import socket_directory, socket_path
from orioncache.errors import UserError

# Seconds within which a cache must answer: it does so without asking any server.
TIMEOUT = 1.0
# The same for a trace, which has megabytes.
TRACE_TIMEOUT = 15.0
# The same for a change of the servers, which waits for a new server's directory.
CHANGE_TIMEOUT = 20.0
# No trace is larger: the most records, with a name and some digests for each.
TRACE_MOST = 1 << 30


def status(path: str) -> dict[str, Any]:
    """The status of the cache that listens on this socket.

    Raises:
        UserError: nobody listens, or no answer comes within :data:`TIMEOUT`.
    """
    return _ask(path, {"op": "status"}, TIMEOUT)[0]


def trace(path: str) -> bytes:
    """What the cache that listens on this socket has recorded: a trace file's bytes.

    Raises:
        UserError: it records nothing; nobody listens; not all of it comes within :data:`TRACE_TIMEOUT`.
    """
    answer, data = _ask(path, {"op": "trace"}, TRACE_TIMEOUT)
    if "error" in answer:
        raise UserError(
            f"{path}: {answer['error']}",
            "a native mount of a release does: mount it with --trace=on, or boot with orion.trace=on",
        )
    if answer.get("bytes") != len(data):
        raise UserError(f"{path}: {len(data)} of {answer.get('bytes')} bytes came", "ask again")
    return data


def metrics(path: str) -> str:
    """The metrics of the cache that listens on this socket, as Prometheus' text.

    Raises:
        UserError: as for :func:`status`.
    """
    answer, data = _ask(path, {"op": "metrics"}, TIMEOUT)
    _check(path, answer)
    return data.decode()


def servers(path: str) -> dict[str, Any]:
    """The servers of the cache that listens on this socket, and the figures of its failover.

    Raises:
        UserError: as for :func:`status`.
    """
    answer, _ = _ask(path, {"op": "server-list"}, TIMEOUT)
    return _check(path, answer)


def change(path: str, op: str, **arguments: object) -> dict[str, Any]:
    """Has the servers changed: ``server-add``, ``server-remove``, ``server-drain``.

    Raises:
        UserError: it cannot be done, or is not done within :data:`CHANGE_TIMEOUT`.
    """
    answer, _ = _ask(path, {"op": op, **arguments}, CHANGE_TIMEOUT)
    return _check(path, answer)


def events(path: str, since: int = 0) -> dict[str, Any]:
    """The events kept whose number is larger, as ``events``; ``lost`` and ``seq``.

    Raises:
        UserError: as for :func:`status`.
    """
    answer, _ = _ask(path, {"op": "events", "since": since}, TIMEOUT)
    return _check(path, answer)


def follow(path: str, since: int = 0) -> Iterator[dict[str, Any]]:
    """First what the cache says of itself (``seq``, ``pid``), then events as they come, and ``lost`` ones.

    Ends when the cache does.

    Raises:
        UserError: as for :func:`status`.
    """
    with _connected(path, TIMEOUT) as connection:
        _say(connection, {"op": "events", "follow": True, "since": since})
        with connection.makefile("rb") as lines:
            yield _check(path, dict(json.loads(lines.readline())))
            connection.settimeout(None)
            for line in lines:
                if line.endswith(b"\n"):
                    yield dict(json.loads(line))


def _ask(path: str, request: Mapping[str, object], timeout: float) -> tuple[dict[str, Any], bytes]:
    """The answer, and the bytes behind it."""
    with _connected(path, timeout) as connection:
        _say(connection, request)
        with connection.makefile("rb") as answer:
            found = dict(json.loads(answer.readline()))
            length = found.get("bytes", 0)
            follows = isinstance(length, int) and 0 <= length <= TRACE_MOST
            return found, answer.read(length) if follows else b""


def _say(connection: socket.socket, request: Mapping[str, object]) -> None:
    connection.sendall(json.dumps(request).encode() + b"\n")


def _check(path: str, answer: dict[str, Any]) -> dict[str, Any]:
    if "error" in answer:
        raise UserError(f"{path}: {answer['error']}", answer.get("mend", ""))
    return answer


@contextmanager
def _connected(path: str, timeout: float) -> Iterator[socket.socket]:
    """A connection; what fails within is told as the user's."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            connection.connect(path)
            yield connection
    except TimeoutError:
        raise UserError(
            f"{path}: no answer within {timeout:g} s", "its process is stopped or has no CPU time"
        ) from None
    except FileNotFoundError:
        raise UserError(
            f"there is no control socket {path}", "is the cache running? see: findmnt -t fuse.orioncache"
        ) from None
    except ConnectionRefusedError:
        raise UserError(f"nobody listens on {path}", f"the cache is gone: rm {path}") from None
    except PermissionError:
        raise UserError(f"{path}: permission denied", "ask as the user who mounted it, or as root") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}", "is it the control socket of a cache?") from None


def find(where: str | None) -> dict[str, Any]:
    """The status of the cache that the user means; arguments and errors as for :func:`locate`."""
    path, found = locate(where)
    return found or status(path)


def locate(where: str | None) -> tuple[str, dict[str, Any]]:
    """The control socket of the cache that the user means, and its status, empty if it was not asked yet.

    The mount point itself is never looked at, because that would ask the cache's file system.

    Args:
        where: a mount point, a control socket, or None for the only cache that runs.

    Raises:
        UserError: there is none, or several and none was named.
    """
    if where is not None and where.endswith(".sock"):
        return where, {}
    mountpoint = None
    if where is not None:
        plain = Path(os.path.normpath(Path.cwd() / where))
        mountpoint = str(plain.parent.resolve() / plain.name)
    running = []
    for path in sorted(socket_directory().glob("*.sock")):
        try:
            found = status(str(path))
        except UserError:
            # Somebody's stale socket; an error only if it is the one that is asked for.
            if mountpoint is not None and str(path) == socket_path(mountpoint):
                raise
            continue
        if found.get("mountpoint") == mountpoint:
            return str(path), found
        running.append((str(path), found))
    if mountpoint is not None:
        raise UserError(f"no cache is running on {mountpoint}", "see: findmnt -t fuse.orioncache")
    if not running:
        raise UserError("no cache is running", "start one: orioncache mount SOURCE MOUNTPOINT")
    if len(running) > 1:
        points = ", ".join(str(found["mountpoint"]) for _, found in running)
        raise UserError(f"{len(running)} caches are running: {points}", "name one of them")
    return running[0]
