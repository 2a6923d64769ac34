"""A node's daemon is killed again and again while the node boots: it becomes ready all the same."""

import argparse
import dataclasses
import subprocess

import pytest

from orioncache.bench.cli import configure, prepare
from orioncache.bench.plan import VARIANTS, Link, Run
from orioncache.bench.qemu import boot
from orioncache.bench.root import debian_root
from orioncache.bench.virtual import virtual_clock
from orioncache.initramfs.cpio import Entry, pack
from tests import needs
from tests.qemu.test_boot import BOOT, LOOK, script

pytestmark = [needs.QEMU, needs.ROOT, pytest.mark.timeout(3600)]

KILLS = 12
# What it alone has in RAM, KiB.
SUPERVISOR_KIB = 8192

# In the initramfs, as the daemon itself: /proc moves to the node's root, and so it is its working directory.
START = b"""#!/bench/bin/busybox sh
set -eu
cd /proc
/bench/bin/busybox sh /bench/kill </dev/null >/dev/null 2>&1 &
"""

KILL = f"""#!/bench/bin/busybox sh
killed=0
while [ $killed -lt {KILLS} ]; do
    for file in $(/bench/bin/busybox grep -l '^@orioncach[e]' [0-9]*/cmdline); do
        kill -9 "${{file%/*}}" && killed=$((killed + 1))
    done
    /bench/bin/busybox usleep 60000
done
""".encode()

READY = """
while read -r pid; do
    echo "KEPT $(tr -d '\\0' <"/proc/$pid/cmdline") $(cat "/proc/$pid/oom_score_adj")"
    echo "SIZE $(grep -E '^(Rss|Pss|Locked):' "/proc/$pid/smaps_rollup" | tr -s '\\n ' ' ')"
done </run/sendsigs.omit.d/orion
"""


def test_a_boot_survives_its_daemons(tmp_path):
    parser = argparse.ArgumentParser()
    configure(parser)
    variant = VARIANTS["orion"]
    ready = script(tmp_path / "ready", LOOK + READY)
    scene = prepare(parser.parse_args(["--workload", str(ready)]), "tcg", [variant])
    files = {"hooks/mount/60-kill": START, "bench/kill": KILL}
    more = pack({name: Entry.file(data, executable=True) for name, data in files.items()})
    image = tmp_path / "initrd"
    image.write_bytes(scene.initrd.read_bytes() + more)
    scene = dataclasses.replace(scene, initrd=image)

    with virtual_clock(scene) as machine:
        outcome = boot(machine(Run(variant, Link(0), 1)), tmp_path / "logs", BOOT)

    assert outcome.error == "", outcome.console
    said = outcome.report.log
    here = subprocess.run(
        [script(tmp_path / "look", LOOK), debian_root()], capture_output=True, text=True, check=True
    )
    assert [line for line in said if " LOOK " in line] == here.stdout.splitlines()
    assert [line for line in said if "KEPT" in line] == [
        "KEPT @orionsupervisor -1000",
        "KEPT @orioncache -1000",
    ]
    # The supervisor beside it is small, and all of both stays in RAM.
    sizes = [[int(word) for word in line.split() if word.isdigit()] for line in said if "SIZE" in line]
    (_, small, small_locked), (_, _, _) = sizes
    assert small_locked >= small - 16
    assert small < SUPERVISOR_KIB
    status = outcome.report.cache()
    daemon = status["daemon"]
    assert (daemon["supervised"], daemon["restarts"], daemon["resend"]) == (True, KILLS, True)
    assert {server["state"] for server in status["servers"]} <= {"unknown", "good"}
    assert any(
        f"restart {KILLS}" in event["text"] and "SIGKILL" in event["text"] for event in status["events"]
    )
