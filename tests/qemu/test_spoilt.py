"""A node one of whose servers has damaged content: it boots, and says so."""

import argparse
import dataclasses
import hashlib

import pytest

from orioncache.bench.cli import configure, prepare
from orioncache.bench.plan import VARIANTS, Link, Run
from orioncache.bench.qemu import boot
from orioncache.bench.root import debian_root
from orioncache.bench.virtual import virtual_clock
from orioncache.initramfs.cpio import Entry, pack
from orioncache.release.manifest import Manifest
from orioncache.trace.format import decode
from tests import needs
from tests.qemu.test_boot import BOOT, script

pytestmark = [needs.QEMU, needs.ROOT, pytest.mark.timeout(3600)]

# No boot does without them.
NEEDED = ("usr/bin/dash", "usr/lib/x86_64-linux-gnu/libc.so.6")

# When the servers are mounted, the first one's directory becomes a copy with damaged packs.
SPOIL = """#!/bench/bin/busybox sh
set -eu
busybox=/bench/bin/busybox
cd /run/orion/server/1
$busybox mkdir /spoilt
$busybox mount -t tmpfs -o size=100% spoilt /spoilt
$busybox cp -rL manifest packs /spoilt/
for offset in {offsets}; do
    printf damaged | $busybox dd of=/spoilt/packs/{pack}.pack bs=1 seek=$offset conv=notrunc 2>/dev/null
done
$busybox mount -o bind /spoilt /run/orion/server/1
# The server that was mounted first is asked first.
$busybox mount -o bind /run/orion/server/2 /run/orion/server/2
"""


def spoil(release):
    """The hook that damages the first block of each file that is needed."""
    manifest = Manifest((release / "manifest").read_bytes())
    offsets = []
    for name in NEEDED:
        number = 0
        for part in name.split("/"):
            number = manifest.lookup(number, part.encode())
        offsets.append(str(manifest.block(number, 0).offset))
    identity, _ = manifest.pack(0)
    text = SPOIL.format(offsets=" ".join(offsets), pack=identity.hex())
    return pack({"hooks/mount/60-spoil": Entry.file(text.encode(), executable=True)})


def test_a_node_takes_damaged_blocks_from_another_server(tmp_path):
    sums = script(tmp_path / "sums", f"#!/bin/sh\ncd /\nmd5sum {' '.join(NEEDED)}\n")
    parser = argparse.ArgumentParser()
    configure(parser)
    variant = VARIANTS["orion"]
    scene = prepare(parser.parse_args(["--workload", str(sums)]), "tcg", [variant])
    assert scene.release is not None
    spoilt = tmp_path / "initrd"
    spoilt.write_bytes(scene.initrd.read_bytes() + spoil(scene.release))
    scene = dataclasses.replace(scene, initrd=spoilt, append=[*scene.append, "orion.trace=on"])

    with virtual_clock(scene) as machine:
        outcome = boot(machine(Run(variant, Link(0), 1)), tmp_path / "logs", BOOT)

    assert outcome.error == "", outcome.console
    here = [f"{hashlib.md5((debian_root() / name).read_bytes()).hexdigest()}  {name}" for name in NEEDED]
    assert [line for line in outcome.report.log if line.endswith(NEEDED)] == here
    status = outcome.report.cache()
    first, second = status["servers"]
    assert first["mismatches"] >= 1
    assert second["mismatches"] == 0
    assert second["reads"] >= 1
    assert status["fetch"]["failed_blocks"] == 0
    assert any("does not match its digest" in str(event) for event in status["events"])
    assert decode(outcome.report.files["trace"], "its trace").degraded
