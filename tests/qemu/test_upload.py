"""A node sends what it read when its boot is over: from the initramfs, which its root has covered by then."""

import argparse
import dataclasses

import pytest

from orioncache.bench.cli import configure, prepare
from orioncache.bench.plan import VARIANTS, Link, Run
from orioncache.bench.qemu import boot
from orioncache.bench.virtual import virtual_clock
from orioncache.initramfs.cpio import Entry, pack
from tests import needs
from tests.qemu.test_boot import BOOT, script

pytestmark = [needs.QEMU, needs.ROOT, pytest.mark.timeout(3600)]

# A receiver in the node itself, on its loopback device; /run moves, and so it is its working directory.
START = b"""#!/bench/bin/busybox sh
set -eu
/bench/bin/busybox ip link set lo up
cd /run/orion
/bench/bin/busybox nc -ll -p 8465 -e /bench/receive </dev/null >/dev/null 2>&1 &
"""

RECEIVE = rb"""#!/bench/bin/busybox sh
set -eu
length=0
while read -r line; do
    line=${line%?}
    [ -n "$line" ] || break
    case $line in
    PUT*) echo "$line" >asked ;;
    Content-Length:*) length=${line#*: } ;;
    esac
done
/bench/bin/busybox head -c "$length" >part
/bench/bin/busybox mv part upload
printf 'HTTP/1.1 201 \r\n\r\nkept\n'
"""

READY = """#!/bin/sh
cd /run/orion
tries=0
until [ -s upload ] || [ $tries = 100 ]; do
    sleep 0.2
    tries=$((tries + 1))
done
echo "ASKED $(cat asked)"
echo "SENT $(head -c 7 upload) $(od -An -tu4 -j20 -N8 upload)"
sleep 1
"""


def test_a_node_sends_what_it_read(tmp_path):
    parser = argparse.ArgumentParser()
    configure(parser)
    variant = VARIANTS["orion"]
    ready = script(tmp_path / "ready", READY)
    scene = prepare(parser.parse_args(["--workload", str(ready)]), "tcg", [variant])
    files = {"hooks/mount/60-receive": START, "bench/receive": RECEIVE}
    more = pack({name: Entry.file(data, executable=True) for name, data in files.items()})
    image = tmp_path / "initrd"
    image.write_bytes(scene.initrd.read_bytes() + more)
    words = ["orion.bundle=kiosk", "orion.upload=http://127.0.0.1:8465/in", "orion.upload_after=1s"]
    scene = dataclasses.replace(scene, initrd=image, append=[*scene.append, *words])

    with virtual_clock(scene) as machine:
        outcome = boot(machine(Run(variant, Link(0), 1)), tmp_path / "logs", BOOT)

    assert outcome.error == "", outcome.console
    said = {line.split()[0]: line.split()[1:] for line in outcome.report.log if line}
    status = outcome.report.cache()["upload"]
    assert said["ASKED"] == ["PUT", f"/in/kiosk/{status['boot']}.trace", "HTTP/1.1"]
    magic, flags, records = said["SENT"]
    assert (magic, flags) == ("ORIONTR", "1")  # first touches, not degraded
    assert int(records) > 100
    assert status["state"] == "sent", status
