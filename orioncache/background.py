"""Going to the background once the work is under way, and not before."""

from __future__ import annotations

import os
import sys

from orioncache.errors import UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    # Neither this nor anything else that a node's boot would have to wait for.
    from collections.abc import Callable

SIGTERM = 15

# Separates message and mend in what the child tells.
_BETWEEN = "\0"
# No message begins so. Several may say it.
_READY = "\1"
# What a pipe takes at once (PIPE_BUF).
_MESSAGE_BYTES = 4096


def run_in_background(
    work: Callable[[Callable[[], None]], None], until_ready: Callable[[], None] = lambda: None
) -> None:
    """Runs ``work`` in a child process, and returns in the parent as soon as the child is ready.

    Args:
        work: given a function to call when it is ready, there or in a child of it; the child ends when it
            returns.
        until_ready: called in the child when it is ready, after its standard streams were let go.

    Raises:
        UserError: the child ended before it was ready; with the child's own message.
    """
    reading, writing = os.pipe()
    is_told = False
    child = os.fork()
    if child:
        os.close(writing)
        _wait(child, reading)
        return
    os.close(reading)
    code = 1
    try:
        os.setsid()

        # Now: a node's supervisor gets to this when /dev may have gone to the node's root already.
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)

        def ready() -> None:
            _let_streams_go(null)
            until_ready()
            nonlocal is_told
            if not is_told:
                _tell(writing, _READY)
                os.close(writing)
            is_told = True

        work(ready)
        code = 0
    except UserError as error:
        if not is_told:
            _tell(writing, f"{error.message}{_BETWEEN}{error.mend}")
    except BaseException:
        import logging  # noqa: PLC0415

        # Logged, for once it is ready there is no standard error; and the parent's code must not run on here.
        logging.getLogger("orioncache").exception("the cache failed")
    finally:
        os._exit(code)


def _tell(pipe: int, text: str) -> None:
    try:
        os.write(pipe, text.encode()[:_MESSAGE_BYTES])
    except OSError:
        return  # it was ready, and the parent has gone


def _wait(child: int, reading: int) -> None:
    """Waits until the child says that it is ready, or is gone."""
    try:
        # One message, whoever sends it; all that hold the other end may live on.
        said = os.read(reading, _MESSAGE_BYTES)
    except KeyboardInterrupt:
        os.kill(child, SIGTERM)
        os.waitpid(child, 0)
        raise
    finally:
        os.close(reading)
    if said.startswith(_READY.encode()):
        return
    os.waitpid(child, 0)
    message, _, mend = said.decode(errors="replace").partition(_BETWEEN)
    raise UserError(
        message or "the cache ended before it was ready",
        mend or "run it with --foreground --debug to see why",
    )


def _let_streams_go(null: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    for stream in (0, 1, 2):
        os.dup2(null, stream)
