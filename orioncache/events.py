"""What happened to a running cache, for its log, ``orioncache status`` and ``orioncache events``."""

import collections
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import TypedDict

# How many events are kept; older ones are only in the log.
KEPT = 1000
# How many of them a status has.
SHOWN = 100

# What an event is about; in the order of native/events.h.
KINDS = ("other", "switch", "state", "hedge", "stall", "quarantine", "server", "mount", "daemon")

LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

# Texts name files, and those come from servers: no name may steer a terminal, or begin a line of its own.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}

log = logging.getLogger("orioncache")

Value = str | int | float


class Event(TypedDict):
    """One event.

    Attributes:
        seq: 1 for the first one of this daemon, and one more for each that follows.
        time: seconds since 1970.
        severity: one of :data:`LEVELS`.
        kind: one of :data:`KINDS`.
        text: one line for people.
        fields: what the text says, for programs.
    """

    seq: int
    time: float
    severity: str
    kind: str
    text: str
    fields: dict[str, Value]


class Events:
    """The last events, each of which also goes to the log. May be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: collections.deque[Event] = collections.deque(maxlen=KEPT)
        self._told = 0
        self._watchers: list[Callable[[], None]] = []

    @property
    def told(self) -> int:
        """The number of the last one."""
        return self._told

    def info(self, text: str, kind: str = "other", **fields: Value) -> None:
        """Notes something that is as it should be."""
        self.note("info", kind, text, fields)

    def warning(self, text: str, kind: str = "other", **fields: Value) -> None:
        """Notes something that an operator should look at."""
        self.note("warning", kind, text, fields)

    def note(
        self, severity: str, kind: str, text: str, fields: Mapping[str, Value], at: float | None = None
    ) -> None:
        """Notes an event.

        Args:
            severity: one of :data:`LEVELS`.
            kind: one of :data:`KINDS`.
            text: one line.
            fields: the same for programs.
            at: when it was, in seconds since 1970; None: now.
        """
        text = text.translate(_CONTROLS)
        with self._lock:
            self._told += 1
            self._kept.append(
                {
                    "seq": self._told,
                    "time": time.time() if at is None else at,
                    "severity": severity,
                    "kind": kind,
                    "text": text,
                    "fields": dict(fields),
                }
            )
            watchers = list(self._watchers)
        log.log(LEVELS[severity], text)
        for watcher in watchers:
            watcher()

    def last(self, most: int = KEPT) -> list[Event]:
        """The last of the events kept, oldest first."""
        with self._lock:
            return list(self._kept)[-most:]

    def since(self, seq: int) -> tuple[list[Event], int]:
        """The events kept whose number is larger, and how many of those are kept no more."""
        with self._lock:
            found = [event for event in self._kept if event["seq"] > seq]
            return found, max(0, self._told - max(seq, 0) - len(found))

    def watch(self, watcher: Callable[[], None]) -> Callable[[], None]:
        """Has a function called after each event, in the thread that told of it; returns what ends that."""
        with self._lock:
            self._watchers.append(watcher)

        def end() -> None:
            with self._lock:
                self._watchers.remove(watcher)

        return end
