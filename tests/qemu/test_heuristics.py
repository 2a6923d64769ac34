"""Heuristics on a node: over a slow link they fetch ahead, next to its server they cost nothing."""

import argparse
import dataclasses

import pytest

from orioncache.bench.cli import configure, prepare
from orioncache.bench.plan import VARIANTS, Link, Run
from orioncache.bench.qemu import boot
from orioncache.bench.virtual import virtual_clock
from tests import needs
from tests.qemu.test_boot import BOOT

pytestmark = [needs.QEMU, needs.ROOT, pytest.mark.timeout(3600)]

# Boots of the virtual clock differ by some tenths of a percent.
SLOWER_AT_MOST = 1.02


@pytest.fixture(scope="module")
def scene():
    parser = argparse.ArgumentParser()
    configure(parser)
    return prepare(parser.parse_args([]), "tcg", [VARIANTS["orion"]])


def booted(scene, rtt, heuristics, logs):
    scene = dataclasses.replace(scene, append=[*scene.append, f"orion.heuristics={heuristics}"])
    with virtual_clock(scene) as machine:
        outcome = boot(machine(Run(VARIANTS["orion"], Link(rtt), 1)), logs, BOOT)
    assert outcome.error == "", outcome.console
    return outcome.report


def test_over_a_slow_link_they_fetch_ahead_and_one_that_is_missing_costs_nothing(scene, tmp_path):
    status = booted(scene, 10, "elf,nonsense,script", tmp_path).cache()
    counts = status["prefetch"]["heuristics"]
    assert set(counts) == {"elf", "script"}
    assert counts["elf"]["issued"] > 0
    assert counts["elf"]["useful"] + counts["elf"]["late"] > counts["elf"]["issued"] / 2
    assert not any(count["cut_off"] or count["failed"] for count in counts.values())
    assert any("heuristic nonsense does not run" in event["text"] for event in status["events"])


def test_next_to_its_server_a_node_boots_as_without_them(scene, tmp_path):
    boots = [booted(scene, 0, each, tmp_path / each[:3]) for each in ("none", "elf,script,sequential")]
    without, beside = (report.phases().boot for report in boots)
    print(f"boot at RTT 0: {without:.3f} s without heuristics, {beside:.3f} s with them")
    assert beside <= SLOWER_AT_MOST * without
    assert boots[1].cache()["prefetch"]["state"] == "waits"
