"""The layers of the suite, in order of their cost, each told apart in the closing summary."""

import signal
from collections import Counter
from pathlib import Path

import pytest

LAYERS = {
    "unit": "pure Python: parsers, policies, builders' parts",
    "native": "the C library against xxhash, lz4 and a plain-Python model; sanitizers; fuzzing",
    "fuse": "real FUSE mounts on this machine",
    "failover": "two real NFS servers, one of which dies",
    "qemu": "whole machines under QEMU",
}
HERE = Path(__file__).parent


def _layer(path: Path) -> str:
    return path.relative_to(HERE).parts[0]


def pytest_configure() -> None:
    # A shell's background job ignores SIGINT, and hands that on to all its children; tests send it to some.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = list(LAYERS)
    items.sort(key=lambda item: order.index(_layer(item.path)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    seconds: Counter[str] = Counter()
    counts: dict[str, Counter[str]] = {layer: Counter() for layer in LAYERS}
    reasons: dict[str, Counter[str]] = {layer: Counter() for layer in LAYERS}
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.getreports(outcome):
            layer = report.nodeid.removeprefix("tests/").partition("/")[0]
            if layer not in counts:
                continue
            counts[layer][outcome] += 1
            if outcome == "skipped" and isinstance(report.longrepr, tuple):
                reasons[layer][report.longrepr[2]] += 1
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[report.nodeid.removeprefix("tests/").partition("/")[0]] += report.duration
    terminalreporter.section("layers")
    for layer, what in LAYERS.items():
        done = ", ".join(f"{number} {outcome}" for outcome, number in counts[layer].items()) or "not run"
        terminalreporter.write_line(f"{layer:9} {done:32} {seconds[layer]:6.0f} s   {what}")
        for reason, number in reasons[layer].items():
            terminalreporter.write_line(f"{'':9} skipped {number}: {reason}", yellow=True)
