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
        f"{found['mountpoint']}  up {_duration(found['uptime_s'])}, pid {found['pid']}, "
        f"{found['mode']} mode, {found['engine']} engine, version {found['version']}",
        "",
    ]
    rows: list[tuple[str, ...]] = [("server", "state", "reads", "bytes", "errors", "timeouts", "p50", "p95")]
    for server in found["servers"]:
        mark = "*" if server["current"] else " "
        latency = server["latency_ms"]
        rows.append(
            (
                f"{mark} {server['source']}",
                server["state"],
                f"{server['reads']:,}",
                _bytes(server["bytes"]),
                f"{server['errors']:,}",
                f"{server['timeouts']:,}",
                f"{latency['p50']:.1f} ms",
                f"{latency['p95']:.1f} ms",
            )
        )
    text += _table(rows)
    cache = found["cache"]
    hits = cache["hits"] + cache["packed_hits"] + cache["zero_hits"]
    asked = hits + cache["misses"]
    text += [
        "",
        *_table(
            [
                ("cache", "blocks", "used", "of"),
                (
                    "  as they are",
                    f"{cache['raw_blocks']:,}",
                    _bytes(cache["raw_bytes"]),
                    _bytes(cache["cache_size"]),
                ),
                (
                    "  packed",
                    f"{cache['packed_blocks']:,}",
                    _bytes(cache["packed_bytes"]),
                    _bytes(cache["compressed_size"]),
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
            text.append(f"{at} {'! ' if event['severity'] == 'warning' else '  '}{event['text']}")
    return text


def _bundle(counts: dict[str, int]) -> list[str]:
    """What was streamed ahead of the boot; nothing where there is no bundle."""
    if not counts.get("frames"):
        return []
    state = "all read" if counts["ended_at"] else "being read"
    failed = f", {counts['failed']:,} failed" if counts["failed"] else ""
    return [
        "",
        f"bundle: {state}, {counts['landed']:,} of {counts['frames']:,} frames{failed}; "
        f"{_bytes(counts['packed_bytes'])} read, {_bytes(counts['stored_bytes'])} given to the kernel",
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
        text.append(f"  {name}: {counts['issued']:,} fetched, {figures}; {_bytes(counts['issued_bytes'])}")
    return text


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _bytes(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def _duration(seconds: float) -> str:
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s"
