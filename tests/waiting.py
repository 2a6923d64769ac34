"""Waiting for conditions, with a deadline."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Returns as soon as ``condition()`` is true.

    Raises:
        AssertionError: it was not within so many seconds.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds} s still not: {what}")
        time.sleep(0.02)
