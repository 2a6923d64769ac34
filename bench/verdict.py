"""What a guest says over its virtio port (guest/guest.c), and what a sample is made of from it."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from orioncache.bench.sample import Nbd, Nfs, Phases

MIB = 1 << 20
SECTOR = 512  # bytes; what a block device counts in, whatever its blocks are


@dataclasses.dataclass(frozen=True)
class Report:
    """All that one guest said until it ended.

    Attributes:
        marks: name to nanoseconds on the guest's monotonic clock: kernel (the first process runs), start (the
            node's init begins), initramfs (it hands over), workload (started), ready.
        files: name to content of what it sent of itself: nfs, mountstats, meminfo, nbd, cache, trace, daemon.
        log: what the workload printed, and what the guest remarked.
        verdict: ``ok``, ``failed``, or empty if it never came to one.
        message: why it failed.
    """

    marks: Mapping[str, int]
    files: Mapping[str, bytes]
    log: Sequence[str]
    verdict: str
    message: str

    def text(self, name: str) -> str:
        """A file as text; empty if it was not sent."""
        return self.files.get(name, b"").decode(errors="replace")

    def phases(self) -> Phases | None:
        """The boot's phases, if it came to its end."""
        try:
            return Phases(
                kernel=self.marks["kernel"] / 1e9,
                initramfs=(self.marks["initramfs"] - self.marks["start"]) / 1e9,
                userland=(self.marks["ready"] - self.marks["initramfs"]) / 1e9,
            )
        except KeyError:
            return None

    def phase(self) -> str:
        """The phase in which the guest was when it ended."""
        phases = {
            "workload": "workload",
            "initramfs": "userland",
            "start": "initramfs",
            "kernel": "scene",
        }
        return next((phase for mark, phase in phases.items() if mark in self.marks), "kernel")

    def nfs(self) -> Nfs | None:
        """The node's NFS traffic; None if the guest did not say."""
        if "nfs" not in self.files:
            return None
        calls = 0
        for line in self.text("nfs").splitlines():
            if line.startswith("rpc "):
                calls = int(line.split()[1])
        read_bytes, operations = _mountstats(self.text("mountstats"))
        return Nfs(calls=calls, read_bytes=read_bytes, operations=operations)

    def nbd(self) -> Nbd | None:
        """The node's reads from a block device on a server; None if it has none."""
        words = self.text("nbd").split()
        # Documentation/block/stat.rst: reads, reads merged, sectors read, …
        return Nbd(int(words[0]), int(words[2]) * SECTOR) if len(words) > 2 else None

    def memory_mb(self) -> dict[str, float]:
        """MiB of total, available, used, page_cache and daemon_rss, as far as the guest said."""
        memory = _kib_fields(self.text("meminfo"))
        if not memory:
            return {}
        result = {
            "total": memory["MemTotal"],
            "available": memory["MemAvailable"],
            "used": memory["MemTotal"] - memory["MemAvailable"],
            "page_cache": memory["Cached"],
        }
        daemon = _kib_fields(self.text("daemon"))
        if "VmRSS" in daemon:
            result["daemon_rss"] = daemon["VmRSS"]
        return {name: round(kib / 1024, 1) for name, kib in result.items()}

    def cache(self) -> dict[str, Any]:
        """The cache's statistics; empty without a cache."""
        text = self.text("cache").strip()
        if not text:
            return {}
        try:
            status = json.loads(text)
        except json.JSONDecodeError:
            return {"error": f"the control socket answered no JSON: {text[:200]}"}
        return status if isinstance(status, dict) else {"status": status}


def parse(data: bytes) -> Report:
    """Reads what came through the port; what was cut off in the middle is left out."""
    marks: dict[str, int] = {}
    files: dict[str, bytes] = {}
    log: list[str] = []
    verdict = message = ""
    at = 0
    while (end := data.find(b"\n", at)) >= 0:
        word, _, rest = data[at:end].decode(errors="replace").partition(" ")
        at = end + 1
        if word == "mark":
            name, _, value = rest.partition(" ")
            marks[name] = int(value)
        elif word == "log":
            log.append(rest)
        elif word == "verdict":
            verdict, _, message = rest.partition(" ")
        elif word == "file":
            name, _, length = rest.partition(" ")
            content = data[at : at + int(length)]
            at += int(length) + 1
            if at <= len(data):
                files[name] = content
    return Report(marks, files, log, verdict, message)


def _mountstats(text: str) -> tuple[int, dict[str, int]]:
    """Bytes read from servers, and calls by operation, over all NFS mounts (nfs_show_stats())."""
    read_bytes = 0
    operations: dict[str, int] = {}
    per_operation = False
    for line in text.splitlines():
        words = line.split()
        if line.startswith("device "):
            per_operation = False
        elif words[:1] == ["bytes:"]:
            read_bytes += int(words[5])
        elif words[:1] == ["per-op"]:
            per_operation = True
        elif per_operation and len(words) > 1 and words[1] != "0":
            name = words[0].rstrip(":")
            operations[name] = operations.get(name, 0) + int(words[1])
    return read_bytes, operations


def _kib_fields(text: str) -> dict[str, int]:
    """``Name:  123 kB`` lines of /proc."""
    fields = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[2] == "kB":
            fields[words[0].rstrip(":")] = int(words[1])
    return fields
