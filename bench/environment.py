"""Under which circumstances a bench ran: all that a reader needs to judge its figures, or to run it again."""

import argparse
import datetime
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from orioncache import __version__
from orioncache.bench.plan import VARIANTS
from orioncache.bench.scene import Scene
from orioncache.process import command_line


def origin() -> dict[str, Any]:
    """What every bench says of itself: version, commit, date, command and machine."""
    return {
        "orioncache": __version__,
        "commit": _said(
            ["git", "-C", str(Path(__file__).resolve().parent), "describe", "--always", "--dirty"]
        ),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command_line(["orioncache", *sys.argv[1:]]),
        "host": {
            "cpu": _first_field(Path("/proc/cpuinfo"), "model name"),
            "cores": len(os.sched_getaffinity(0)),
            "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
            "kernel": platform.release(),
        },
    }


def environment(args: argparse.Namespace, scene: Scene) -> dict[str, Any]:
    """Machine, versions, what was booted and the command that was given."""
    common = origin()
    common["host"]["qemu"] = _said(["qemu-system-x86_64", "--version"]).splitlines()[0]
    return {
        **common,
        "clock": args.clock,
        "accel": scene.accel,
        "kernel": {
            "version": kernel_version(scene.kernel),
            "file": str(scene.kernel),
            "bytes": scene.kernel.stat().st_size,
        },
        "initramfs": {"file": str(scene.initramfs), "bytes": scene.initramfs.stat().st_size},
        "root": {"path": str(scene.root), "init": scene.init, "image_bytes": scene.disk.stat().st_size},
        "workload": args.workload,
        "append": list(scene.append),
        "guest_memory_mb": scene.memory_mb,
        "variants": {name: VARIANTS[name].help for name in args.variant.split(",")},
        "link": {
            "rtt_ms": args.rtt,
            "rate_mbit": args.rate,
            "jitter_ms": args.jitter,
            "loss_percent": args.loss,
        },
        "servers": scene.servers,
        "faults": args.fault,
    }


def kernel_version(image: Path) -> str:
    """What ``uname -r`` will say, from a bzImage's header (Documentation/arch/x86/boot.rst)."""
    with image.open("rb") as file:
        head = file.read(0x10000)
    at = int.from_bytes(head[0x20E:0x210], "little") + 0x200
    return head[at : at + 200].partition(b"\0")[0].decode(errors="replace").partition(" ")[0]


def _said(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() or "unknown"
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _first_field(path: Path, name: str) -> str:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"
