"""Show what a running cache does: its servers, what it holds, what the kernel asks of it.

It asks the cache through its control socket and never touches the mount or a server, so it answers while
every server hangs.

Examples:
  orioncache status
  orioncache status /mnt/cached
  orioncache status --json /run/orion/control.sock
"""

import argparse
import json
import time
from typing import Any

from orioncache.cli.text import duration, size, table
from orioncache.control import client


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of ``orioncache status``."""
    parser.add_argument(
        "where", nargs="?", metavar="MOUNTPOINT|SOCKET", help="which cache (default: the only one)"
    )
    parser.add_argument("--json", action="store_true", help="print all there is, for programs")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    found = client.find(args.where)
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(lines(found)))
    return 0


def lines(found: dict[str, Any]) -> list[str]:
    """The status as text for people."""
    text = [
        f"{found['mountpoint']}  up {duration(found['uptime_s'])}, pid {found['pid']}, "
        f"{found['mode']} mode, {found['engine']} engine, version {found['version']}",
    ]
    if restarts := (found.get("daemon") or {}).get("restarts"):
        text.append(f"! its daemon died {_many(restarts, 'time')}, and another one took its place")
    text += ["", *servers(found)]
    cache = found["cache"]
    hits = cache["hits"] + cache["packed_hits"] + cache["zero_hits"]
    asked = hits + cache["misses"]
    text += [
        "",
        *table(
            [
                ("cache", "blocks", "used", "of"),
                (
                    "  as they are",
                    f"{cache['raw_blocks']:,}",
                    size(cache["raw_bytes"]),
                    size(cache["cache_size"]),
                ),
                (
                    "  packed",
                    f"{cache['packed_blocks']:,}",
                    size(cache["packed_bytes"]),
                    size(cache["compressed_size"]),
                ),
            ]
        ),
        f"  found {hits:,} of {asked:,} blocks looked for; {cache['evictions']:,} evicted",
    ]
    text += _bundle(found.get("bundle") or {})
    text += _prefetch(found.get("prefetch") or {})
    if found.get("upload"):
        text += ["", f"upload: {found['upload']['state']}, {found['upload']['text']}"]
    upcalls = sorted(found["fuse"]["upcalls"].items(), key=lambda item: -item[1])
    text += [
        "",
        "kernel's requests: " + (", ".join(f"{kind} {count:,}" for kind, count in upcalls) or "none"),
    ]
    if found["events"]:
        text.append("")
        for event in found["events"][-10:]:
            at = time.strftime("%H:%M:%S", time.localtime(event["time"]))
            text.append(f"{at} {'  ' if event['severity'] == 'info' else '! '}{event['text']}")
    return text


def servers(found: dict[str, Any]) -> list[str]:
    """The servers as a table, why those that are not good are not, and what failover did."""
    columns = ("server", "state", "reads", "bytes", "errors", "timeouts", "hedges", "resent", "p50", "p95")
    rows: list[tuple[str, ...]] = [("", *columns)]
    notes = []
    for index, server in enumerate(found["servers"]):
        number = str(server.get("number", index))
        latency = server["latency_ms"]
        rows.append(
            (
                f"{'*' if server['current'] else ' '} {number}",
                server["source"],
                server["state"] + (", draining" if server.get("draining") else ""),
                f"{server['reads']:,}",
                size(server["bytes"]),
                f"{server['errors']:,}",
                f"{server['timeouts']:,}",
                _count(server, "hedges"),
                _count(server, "resent"),
                f"{latency['p50']:.1f} ms",
                f"{latency['p95']:.1f} ms",
            )
        )
        if server.get("reason"):
            notes.append(f"  {number} is {server['state']}: {server['reason']}")
    return [*table(rows, left=3), *notes, *_failover(found.get("failover") or {})]


def _count(found: dict[str, Any], key: str) -> str:
    return f"{found[key]:,}" if key in found else "-"


def _many(count: int, what: str, ending: str = "s") -> str:
    return f"{count:,} {what}{ending if count != 1 else ''}"


def _failover(counts: dict[str, Any]) -> list[str]:
    """What failover did; nothing where it is not told."""
    if not counts:
        return []
    text = (
        f"failover: {_many(counts['switches'], 'switch', 'es')}, {_many(counts['hedges'], 'read')} hedged "
        f"({counts['hedges_won']:,} won), {counts['resent']:,} sent again"
    )
    if counts.get("stalls"):
        text += f"; {_many(counts['stalls'], 'stall')}, the longest {counts['longest_stall_ms'] / 1000:.2f} s"
    waiting = counts.get("waiting")
    return [text, *([f"! {_many(waiting, 'read')} wait: no server answers"] if waiting else [])]


def _bundle(counts: dict[str, int]) -> list[str]:
    """What was streamed ahead of the boot; nothing where there is no bundle."""
    if not counts.get("frames"):
        return []
    state = "all read" if counts["ended_at"] else "being read"
    failed = f", {counts['failed']:,} failed" if counts["failed"] else ""
    return [
        "",
        f"bundle: {state}, {counts['landed']:,} of {counts['frames']:,} frames{failed}; "
        f"{size(counts['packed_bytes'])} read, {size(counts['stored_bytes'])} given to the kernel",
    ]


def _prefetch(found: dict[str, Any]) -> list[str]:
    """What heuristics asked for, and what became of it; nothing where none are chosen."""
    if not found:
        return []
    states = {
        "waits": "no round trip so far that is worth it",
        "runs": "at work",
        "ended": "the boot is over",
    }
    text = ["", f"heuristics: {states[found['state']]}"]
    for name, counts in found.get("heuristics", {}).items():
        if counts["cut_off"]:
            text.append(f"  {name}: cut off: {counts['cut_off']}")
        figures = ", ".join(f"{counts[key]:,} {key}" for key in ("useful", "late", "wasted", "declined"))
        text.append(f"  {name}: {counts['issued']:,} fetched, {figures}; {size(counts['issued_bytes'])}")
    return text
