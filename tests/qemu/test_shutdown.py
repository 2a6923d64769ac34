"""A node's shutdown ends every process but the cache, whose root the shutdown itself runs from."""

import subprocess

import pytest

from tests import needs
from tests.program import COMMAND

pytestmark = [
    needs.QEMU,
    needs.ROOT,
    pytest.mark.timeout(3600),  # without a kernel and a root in the cache, they are built
]

# Real seconds. A boot takes 10 to 30 on an idle machine.
BOOT = 600

SHUT_DOWN = """#!/bin/sh
init 0
exec sleep 1000
"""

# What Debian's shutdown says, in this order. After the second line every script is read through the cache.
STAGES = (
    "Asking all remaining processes to terminate...done.",
    "All processes ended within",
    "Deactivating swap...",
    "Will now halt.",
    "runit: sending KILL signal to all processes...",
    "reboot: Power down",
)


def test_shutdown_goes_to_its_end_on_the_cache(tmp_path):
    workload = tmp_path / "shut-down"
    workload.write_text(SHUT_DOWN)
    workload.chmod(0o755)
    command = [*COMMAND, "bench", "--variant", "orion", "--rtt", "0"]
    command += ["--workload", workload, "--keep", tmp_path / "logs", "--timeout", str(BOOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    # To the bench, a node that switches itself off before it is ready is one that failed.
    assert "switched off without a verdict in the phase workload" in done.stderr
    console = (tmp_path / "logs" / "orion-rtt0-run1" / "console").read_text(errors="replace")
    position = 0
    for stage in STAGES:
        assert stage in console[position:], f"'{stage}' is missing in {console[-3000:]}"
        position = console.index(stage, position)
    for trouble in ("Kernel panic", "Input/output error", "Bus error", "Transport endpoint"):
        assert trouble not in console
