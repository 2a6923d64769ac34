"""Show what happened to a running cache: switches of servers and why, stalls, quarantines.

The last 1000 events are kept by the cache; all of them are in the system's log as well. With --follow, what
happens from now on is shown too, until Ctrl-C, or until the cache ends (exit code 0); a daemon that is
restarted is found again.

Examples:
  orioncache events
  orioncache events /mnt/cached --follow
  orioncache events --since 10m --kind switch --kind stall
  orioncache events --since 120 --json /run/orion/control.sock
"""

import argparse
import datetime
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orioncache.cli import INTERRUPTED
from orioncache.control import client
from orioncache.errors import UserError
from orioncache.events import KINDS

# Seconds for which a daemon that does not listen any more is given, to be started again.
RESTART = 5.0
PAUSE = 0.1

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

MARKS = {"info": " ", "warning": "!", "error": "X"}


class Since:
    """From when on events are wanted: a number, or a time.

    Attributes:
        seq: the number of the last event that is not wanted.
        time: seconds since 1970 before which none is wanted.
    """

    def __init__(self, seq: int = 0, time: float = 0.0) -> None:
        self.seq = seq
        self.time = time


def since(text: str) -> Since:
    """What ``--since`` says: ``120`` (a number), ``90s``, ``10m``, ``2h``, ``1d``, ``14:30``, or ISO 8601."""
    if text.isdecimal() and text.isascii():
        return Since(seq=int(text))
    try:
        if text[-1:] in UNITS and text[:1].isdecimal():
            return Since(time=time.time() - float(text[:-1]) * UNITS[text[-1]])
        if text[:3].isdecimal():
            return Since(time=datetime.datetime.fromisoformat(text).timestamp())
        at = datetime.time.fromisoformat(text)
        return Since(time=datetime.datetime.combine(datetime.datetime.now().date(), at).timestamp())
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"'{text}' is no number of an event and no time: write 120, 10m, 14:30 or 2026-01-31T14:30"
        ) from None


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of ``orioncache events``."""
    parser.add_argument(
        "where", nargs="?", metavar="MOUNTPOINT|SOCKET", help="which cache (default: the only one)"
    )
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what happens from now on")
    parser.add_argument(
        "--since",
        type=since,
        default=Since(),
        metavar="SEQ|TIME",
        help="only those after this number, or since this time: 10m, 2h, 14:30, 2026-01-31T14:30",
    )
    parser.add_argument(
        "--kind", action="append", choices=KINDS, metavar="KIND", help=f"only of: {', '.join(KINDS)}"
    )
    parser.add_argument("--json", action="store_true", help="a JSON object in each line, for programs")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    path, _ = client.locate(args.where)
    try:
        for event in _follow(path, args.since.seq) if args.follow else _kept(path, args.since.seq):
            if "lost" not in event and (
                event["time"] < args.since.time or (args.kind and event["kind"] not in args.kind)
            ):
                continue
            print(json.dumps(event) if args.json else line(event), flush=args.follow)
    except KeyboardInterrupt:
        # This is how following ends; nothing is to be said of it.
        if not args.follow:
            raise
        return INTERRUPTED
    return 0


def line(event: dict[str, Any]) -> str:
    """An event as text for people."""
    if "lost" in event:
        return f"{'':23} ! {event['lost']} events were lost"
    at = datetime.datetime.fromtimestamp(event["time"]).isoformat(" ", "milliseconds")
    return f"{at} {MARKS.get(event['severity'], '?')} {event['kind']:<10} {event['text']}"


def _kept(path: str, seq: int) -> Iterator[dict[str, Any]]:
    found = client.events(path, seq)
    # Those before the first one that is kept are no news, unless they were asked for.
    if found["lost"] and seq:
        yield {"lost": found["lost"]}
    yield from found["events"]


def _follow(path: str, seq: int) -> Iterator[dict[str, Any]]:
    """Events as they come; a daemon that takes the place of the one that was asked begins with the first."""
    pid = None
    while True:
        for found in client.follow(path, seq if pid is None else 0):
            if "follow" in found:
                if pid not in (None, found["pid"]):
                    seq = 0
                known, pid = pid is not None, found["pid"]
            elif "lost" in found:
                if known or seq:
                    yield found
            elif found["seq"] > seq:
                seq = found["seq"]
                yield found
        if not _comes_back(path):
            print("orioncache: the cache has ended", file=sys.stderr)
            return


def _comes_back(path: str) -> bool:
    """Whether somebody listens again; false when the socket was taken away, as at an orderly end.

    Raises:
        UserError: its daemon is gone, and none came.
    """
    until = time.monotonic() + RESTART
    missing = 0
    while True:
        # A daemon that starts makes the socket anew: for a moment there is none.
        missing = 0 if Path(path).is_socket() else missing + 1
        if missing > 2:
            return False
        try:
            client.events(path, sys.maxsize)
        except UserError:
            if time.monotonic() >= until:
                raise
        else:
            return True
        time.sleep(PAUSE)
