"""Boots whose servers fail: what a process sees through the cache, and that the bench sees what is there."""

import json

import pytest

from tests import needs
from tests.qemu.test_boot import bench

pytestmark = [needs.QEMU, needs.ROOT, pytest.mark.timeout(3600)]

FAULTS = ("kill@switch_root", "hang@userland+0.1", "corrupt@mount")


def boots(path, *arguments):
    """Samples by fault, and what was printed."""
    code, out, error = bench(*arguments, "--json", path)
    assert code == 0, out + error
    found = json.loads(path.read_text())["samples"]
    return {sample["fault"]: sample for sample in found}, out


def test_no_process_sees_an_error_or_a_wrong_byte(tmp_path):
    found, out = boots(tmp_path / "samples.json", "--variant", "orion", "--fault", ",".join(FAULTS))
    assert set(found) == {"", *FAULTS}
    for fault, sample in found.items():
        assert sample["ok"], (fault, sample["error"])
        assert (sample["errors"], sample["wrong_bytes"]) == (0, 0), (fault, sample["probe"])
        probe = sample["probe"]
        assert probe["finished"]
        # Not by looking away: a boot reads 30 MB, and the probe a hundred files a second.
        assert probe["checked_bytes"] > 20e6
        assert probe["reads"] > 100
        assert (probe["fault_at_s"] is not None) == bool(fault)
        assert fault == "" or fault in out
    # The bars. That there is a stall at all shows that there was a fault.
    for fault, bar in (("kill@switch_root", 0.25), ("hang@userland+0.1", 0.4), ("corrupt@mount", 0.25)):
        assert found[fault]["longest_stall_s"] <= bar, found[fault]["probe"]
    assert found["kill@switch_root"]["longest_stall_s"] > found[""]["longest_stall_s"]
    first, second = found["corrupt@mount"]["cache"]["servers"]
    assert (first["state"], second["state"]) == ("quarantined", "good")


def test_plain_nfs_hangs_and_lies_and_the_bench_sees_it(tmp_path):
    faults = "kill@mount,corrupt@idle"
    found, out = boots(tmp_path / "samples.json", "--variant", "nfs-hard", "--fault", faults)
    assert found[""]["ok"]
    assert (found[""]["errors"], found[""]["wrong_bytes"]) == (0, 0)
    dead = found["kill@mount"]
    assert not dead["ok"]
    assert "not ready within" in dead["error"] or "cannot" in dead["error"]
    assert dead["errors"] >= 1
    lies = found["corrupt@idle"]
    # It was ready before; what it read from then on is wrong, without an error.
    assert lies["ok"]
    assert lies["wrong_bytes"] > 0
    assert lies["probe"]["failed_reads"] == 0
    assert "failed" in out
