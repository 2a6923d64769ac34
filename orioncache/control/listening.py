"""The control socket, up to the moment at which somebody can connect to it.

A node's boot waits for this: ``_socket``, because ``socket`` takes longer to import than all the rest.
"""

import _socket
import os
import stat

from orioncache.errors import UserError

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
