"""Two real NFS servers behind a node's root: one dies while the node reads, and the node reads on.

This machine's kernel need not have an NFS client: the node is a guest under QEMU, which boots as nodes do.
"""

import hashlib
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from orioncache.bench.ganesha import Ganesha, servers
from orioncache.bench.netns import lan
from orioncache.initramfs.build import build_initramfs
from orioncache.kernel.build import build_kernel
from tests import needs
from tests.needs import BUSYBOX_PROGRAM, QEMU_PROGRAM
from tests.waiting import wait_until

SIZE = 160 << 20

# Seconds. It takes 20 on an idle machine under TCG.
DEADLINE = 300

# Reads a large file piece by piece, says through the virtio port when it has read a part, then what it read.
INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
port= tries=1000
until [ -c "$port" ] || [ $tries = 0 ]; do
    /bin/busybox usleep 10000
    for port in /dev/vport*p1; do :; done
    tries=$((tries - 1))
done
exec 3> "$port"
{
    /bin/busybox dd bs=1M count=20 iflag=fullblock 2>/dev/null
    echo reading >&3
    /bin/busybox cat
} < /large | /bin/busybox sha256sum | /bin/busybox sed 's/ .*//; s/^/large=/' >&3
echo "small=$(/bin/busybox cat /directory/small)" >&3
echo "names=$(/bin/busybox ls /directory | /bin/busybox wc -l)" >&3
/bin/busybox dmesg | /bin/busybox grep orioncache: >&3
echo end >&3
/bin/busybox poweroff -f
"""

pytestmark = [needs.ROOT, needs.QEMU, needs.GANESHA, needs.BUSYBOX]


@pytest.fixture
def copies(tmp_path: Path) -> tuple[list[Path], str]:
    """Two copies of a root, alike but for inode numbers and change times; and the large file's digest."""
    root = tmp_path / "first"
    for name in ("bin", "sbin", "proc", "dev", "run", "directory"):
        (root / name).mkdir(parents=True)
    shutil.copy(BUSYBOX_PROGRAM, root / "bin/busybox")
    (root / "sbin/init").write_text(INIT)
    (root / "sbin/init").chmod(0o755)
    data = random.Random(0).randbytes(SIZE)
    (root / "large").write_bytes(data)
    (root / "directory/small").write_text("both")
    for number in range(300):
        (root / f"directory/{number}").touch()
    subprocess.run(["cp", "-a", root, tmp_path / "second"], check=True)
    return [root, tmp_path / "second"], hashlib.sha256(data).hexdigest()


# The kernel is there after `make bench`; without it this test builds it.
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("failure", [Ganesha.kill, Ganesha.freeze], ids=["killed", "frozen"])
def test_reading_goes_on_from_the_other_server(
    failure: Callable[[Ganesha], None], copies: tuple[list[Path], str], tmp_path: Path
) -> None:
    roots, digest = copies
    said, console = tmp_path / "said", tmp_path / "console"
    with lan(servers=2) as net, servers(net, [{"/export": path} for path in roots]) as running:
        words = [
            "console=ttyS0 panic=-1 orion.on_failure=poweroff orion.read_timeout=3s init=/sbin/init",
            f"root=orion:{','.join(f'{address}:/export' for address in net.addresses)}",
            f"ip={net.node_address}:::255.255.255.0:node:eth0:none",
        ]
        command = [
            *("ip", "netns", "exec", net.space),
            *(QEMU_PROGRAM, "-machine", "pc", "-accel", "tcg", "-cpu", "max"),
            *("-m", "768", "-display", "none", "-no-reboot", "-nodefaults"),
            *("-kernel", str(build_kernel(["bench"]).image), "-initrd", str(build_initramfs())),
            *("-append", " ".join(words), "-serial", f"file:{console}"),
            *("-netdev", f"tap,id=net,ifname={net.tap},script=no,downscript=no"),
            *("-device", "virtio-net-pci,netdev=net,romfile="),
            *("-device", "virtio-serial-pci", "-chardev", f"file,id=said,path={said}"),
            *("-device", "virtserialport,chardev=said,nr=1"),
        ]
        guest = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

        def has_said(text: str) -> bool:
            lines = said.read_text().splitlines() if said.exists() else []
            if guest.poll() is not None and text not in lines:
                tail = "\n".join(console.read_text(errors="replace").splitlines()[-30:])
                raise AssertionError(f"the guest ended and said {lines}: {tail}")
            return text in lines

        try:
            wait_until(lambda: has_said("reading"), "the node reads", DEADLINE)
            failure(running[0])
            assert "large=" not in said.read_text(), "the node was done before the server failed"
            wait_until(lambda: has_said("end"), "the node has read everything", DEADLINE)
        finally:
            guest.kill()
            guest.wait()
    lines = said.read_text().splitlines()
    assert f"large={digest}" in lines
    assert "small=both" in lines
    assert "names=301" in lines
    assert any("reading from /run/orion/server/2 instead of /run/orion/server/1" in line for line in lines), (
        "\n".join(lines)
    )
