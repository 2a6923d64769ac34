"""The kernel by itself: no initramfs, root over NFS from a real server, mounted by the kernel."""

import hashlib
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from orioncache.bench.ganesha import servers
from orioncache.bench.netns import lan
from orioncache.kernel.build import build_kernel
from tests import needs
from tests.needs import BUSYBOX_PROGRAM, QEMU_PROGRAM

# Seconds. It takes 5 on an idle machine under TCG.
BOOT_DEADLINE = 240

# Sends what it sees through the virtio port, apart from the console's noise, and switches the machine off.
INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
# Ports are announced by the host's side, some time after the driver is there.
port= tries=1000
until [ -c "$port" ] || [ $tries = 0 ]; do
    /bin/busybox usleep 10000
    for port in /dev/vport*p1; do :; done
    tries=$((tries - 1))
done
{
    echo "release=$(/bin/busybox uname -r)"
    echo "root=$(/bin/busybox sed -n 's/^[^ ]* \\/ //p' /proc/mounts)"
    echo "digest=$(/bin/busybox sha256sum /data | /bin/busybox cut -d' ' -f1)"
    echo "mode=$(/bin/busybox stat -c %a:%u:%g /data)"
    echo "dev=$(/bin/busybox sed -n 's/^[^ ]* \\/dev //p' /proc/mounts)"
    echo "end"
} > "$port"
/bin/busybox poweroff -f
"""

pytestmark = [needs.ROOT, needs.QEMU, needs.GANESHA, needs.BUSYBOX]


def make_root(root: Path) -> bytes:
    for name in ("bin", "sbin", "proc", "dev"):
        (root / name).mkdir(parents=True)
    shutil.copy(BUSYBOX_PROGRAM, root / "bin/busybox")
    init = root / "sbin/init"
    init.write_text(INIT)
    init.chmod(0o755)
    # Several reads long, and not a whole number of pages.
    data = random.Random(0).randbytes((3 << 20) + 17)
    (root / "data").write_bytes(data)
    (root / "data").chmod(0o640)
    os.chown(root / "data", 1234, 4321)
    return data


# The kernel is there after `make bench`; without it this test builds it.
@pytest.mark.timeout(3600)
def test_kernel_mounts_nfs_root_without_initramfs(tmp_path):
    kernel = build_kernel(["bench"])
    root = tmp_path / "root"
    data = make_root(root)
    verdict, console = tmp_path / "verdict", tmp_path / "console"
    with lan(servers=1) as net, servers(net, [{"/export": root}]):
        server = net.addresses[0]
        arguments = (
            "console=ttyS0 panic=-1 root=/dev/nfs ro "
            f"nfsroot={server}:/export,vers=4.1 ip={net.node_address}:{server}::255.255.255.0:node:eth0:off"
        )
        command = [
            *("ip", "netns", "exec", net.space),
            *(QEMU_PROGRAM, "-machine", "pc", "-accel", "tcg", "-cpu", "max"),
            *("-m", "512", "-display", "none", "-no-reboot", "-nodefaults"),
            *("-kernel", str(kernel.image), "-append", arguments, "-serial", f"file:{console}"),
            *("-netdev", f"tap,id=net,ifname={net.tap},script=no,downscript=no"),
            *("-device", "virtio-net-pci,netdev=net"),
            *("-device", "virtio-serial-pci", "-chardev", f"file,id=verdict,path={verdict}"),
            *("-device", "virtserialport,chardev=verdict,nr=1"),
        ]
        # `run` kills it when the time is over.
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=BOOT_DEADLINE,
            check=False,
        )
    said = verdict.read_text() if verdict.exists() else ""
    tail = (
        "\n".join(console.read_text(errors="replace").splitlines()[-30:]) if console.exists() else done.stderr
    )
    assert said.endswith("end\n"), f"the guest did not reach init: {tail}"
    seen = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    assert seen["release"] == kernel.version
    assert seen["root"].startswith("nfs4 ")
    assert "vers=4.1" in seen["root"]
    assert seen["digest"] == hashlib.sha256(data).hexdigest()
    assert seen["mode"] == "640:1234:4321"
    assert seen["dev"].startswith("devtmpfs ")
