"""What happened to a running cache, for its log and for ``orioncache status``."""

import collections
import logging
import time
from typing import TypedDict

# How many events are kept; older ones are only in the log.
KEPT = 100

# Texts name files, and those come from servers: no name may steer a terminal, or begin a line of its own.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}

log = logging.getLogger("orioncache")


class Event(TypedDict):
    """One event: seconds since 1970, severity (``info`` or ``warning``), and one line of text."""

    time: float
    severity: str
    text: str


class Events:
    """The last events, each of which also goes to the log. May be called from any thread."""

    def __init__(self) -> None:
        self._kept: collections.deque[Event] = collections.deque(maxlen=KEPT)

    def info(self, text: str) -> None:
        """Notes something that is as it should be."""
        self._note("info", logging.INFO, text)

    def warning(self, text: str) -> None:
        """Notes something that an operator should look at."""
        self._note("warning", logging.WARNING, text)

    def last(self) -> list[Event]:
        """The events kept, oldest first."""
        return list(self._kept)

    def _note(self, severity: str, level: int, text: str) -> None:
        text = text.translate(_CONTROLS)
        self._kept.append({"time": time.time(), "severity": severity, "text": text})
        log.log(level, text)
