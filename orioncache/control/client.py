"""Asking running caches."""

import json
import os
import socket
from pathlib import Path
from typing import Any

from orioncache.control.places import socket_directory, socket_path
from orioncache.errors import UserError

# Seconds within which a cache must answer: it does so without asking any server.
TIMEOUT = 1.0
# The same for a trace, which has megabytes.
TRACE_TIMEOUT = 15.0
# No trace is larger: the most records, with a name and some digests for each.
TRACE_MOST = 1 << 30


def status(path: str) -> dict[str, Any]:
    """The status of the cache that listens on this socket.

    Raises:
        UserError: nobody listens, or no answer comes within :data:`TIMEOUT`.
    """
    return _ask(path, "status", TIMEOUT)[0]


def trace(path: str) -> bytes:
    """What the cache that listens on this socket has recorded: a trace file's bytes.

    Raises:
        UserError: it records nothing; nobody listens; not all of it comes within :data:`TRACE_TIMEOUT`.
    """
    answer, data = _ask(path, "trace", TRACE_TIMEOUT)
    if "error" in answer:
        raise UserError(
            f"{path}: {answer['error']}",
            "a native mount of a release does: mount it with --trace=on, or boot with orion.trace=on",
        )
    if answer.get("bytes") != len(data):
        raise UserError(f"{path}: {len(data)} of {answer.get('bytes')} bytes came", "ask again")
    return data


def _ask(path: str, op: str, timeout: float) -> tuple[dict[str, Any], bytes]:
    """The answer, and the bytes behind it."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            connection.connect(path)
            connection.sendall(json.dumps({"op": op}).encode() + b"\n")
            with connection.makefile("rb") as answer:
                found = dict(json.loads(answer.readline()))
                length = found.get("bytes", 0)
                follows = isinstance(length, int) and 0 <= length <= TRACE_MOST
                return found, answer.read(length) if follows else b""
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
