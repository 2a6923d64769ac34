"""Long calls into C from a thread of their own, so that the caller hears of Ctrl-C and can show progress."""

import contextlib
from collections.abc import Callable
from threading import Event, Thread

POLL = 0.1  # seconds between two looks at the progress


def call(step: Callable[[], int], cancel: Callable[[], None], watch: Callable[[], None]) -> int:
    """What ``step`` returns.

    Args:
        step: blocks without the interpreter's lock.
        cancel: makes it return soon; called when an exception ends the waiting; that goes on when the
            step has returned.
        watch: called every ``POLL`` seconds.
    """
    results: list[int] = []
    done = Event()

    def run() -> None:
        try:
            results.append(step())
        finally:
            done.set()

    thread = Thread(target=run, name="native")
    thread.start()
    # Not thread.join(timeout): interrupted by a signal, it takes a thread that runs for one that has ended.
    try:
        while not done.wait(POLL):
            watch()
    except BaseException:
        cancel()
        # Whoever called may free what the step still uses, so another Ctrl-C must wait as well.
        while not done.is_set():
            with contextlib.suppress(KeyboardInterrupt):
                done.wait()
        raise
    return results[0]
