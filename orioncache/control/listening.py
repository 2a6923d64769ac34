"""The control socket and the port for metrics, up to the moment at which somebody can connect to them.

A node's boot waits for this: ``_socket``, because ``socket`` takes longer to import than all the rest.
"""

import _socket
import os
import stat

from orioncache.errors import UserError
from orioncache.options import Options, metrics_place

# Clients that may wait; the socket is answered one by one, each in no time.
BACKLOG = 16


def listen(path: str) -> int:
    """Listens on a path that only its owner may connect to, and returns the descriptor.

    Raises:
        UserError: the socket cannot be made there, or another cache listens on it.
    """
    made = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)  # noqa: PTH103,PTH120
        _remove_stale(path)
        mask = os.umask(0o177)
        try:
            made.bind(path)
        finally:
            os.umask(mask)
        made.listen(BACKLOG)
    except OSError as error:
        made.close()
        raise UserError(
            f"control socket {path}: {error.strerror or error}", "choose another with --control"
        ) from None
    return made.detach()


def listen_for_metrics(options: Options) -> int | None:
    """The listening descriptor of the port that the options name for metrics, if they name one.

    Raises:
        UserError: it cannot be made.
    """
    return listen_on_port(*metrics_place(options.metrics_port)) if options.metrics_port else None


def listen_on_port(address: str, port: int) -> int:
    """Listens on a TCP port of an address, and returns the descriptor.

    Raises:
        UserError: it cannot be.
    """
    shown = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    made = None
    try:
        made = _socket.socket(_socket.AF_INET6 if ":" in address else _socket.AF_INET, _socket.SOCK_STREAM)
        made.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        made.bind((address, port))
        made.listen(BACKLOG)
    except OSError as error:
        if made is not None:
            made.close()
        raise UserError(
            f"metrics on {shown}: {error.strerror or error}", "choose another with --metrics-port"
        ) from None
    return made.detach()


def _remove_stale(path: str) -> None:
    """Removes a socket that nobody listens on; nothing else."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
    except FileNotFoundError:
        return
    probe = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        # An AF_UNIX connect() waits only while the backlog is full, and then somebody listens.
        probe.setblocking(False)
        probe.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        os.unlink(path)  # noqa: PTH108
        return
    except BlockingIOError:
        pass
    finally:
        probe.close()
    raise FileExistsError(17, "another cache listens on it")
