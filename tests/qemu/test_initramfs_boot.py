"""The initramfs on a real kernel: boots that go well, and what is said when one cannot go on."""

import contextlib
import hashlib
import os
import random
import select
import shutil
import subprocess
import time

import pytest

from orioncache.bench.ganesha import servers
from orioncache.bench.netns import lan
from orioncache.initramfs.build import build_initramfs
from orioncache.initramfs.cpio import Entry, pack
from orioncache.kernel.build import build_kernel
from tests import needs
from tests.needs import BUSYBOX_PROGRAM, QEMU_PROGRAM

# Seconds. A boot takes 5 to 15 on an idle machine under TCG.
BOOT_DEADLINE = 240

pytestmark = [
    needs.QEMU,
    needs.BUSYBOX,
    pytest.mark.timeout(3600),  # without a kernel in the cache, one is built
]

REPORT_FAILURE = '#!/bin/sh\necho "HOOK says $1"\n'
TINY_INIT = """#!/bin/sh
echo "tiny init with '$*', SYSROOT '${SYSROOT-}'"
busybox poweroff -f
"""


def boot(tmp_path, arguments, files=None, *, talk=(), before=(), devices=()):
    """Boots the image with more files appended as another archive; returns all that the console said.

    ``talk`` has pairs: what to wait for on the console, and what to type then.
    """
    extra = {"tiny/bin/busybox": Entry.file(BUSYBOX_PROGRAM.read_bytes(), executable=True)}
    extra |= {"tiny/bin/sh": Entry.link("busybox"), "tiny/sbin/init": Entry.link("/etc/real-init")}
    extra |= {"tiny/etc/real-init": Entry.file(TINY_INIT.encode(), executable=True)}
    extra |= {"empty/usr/nothing": Entry.file(b"")}
    for place, text in (files or {}).items():
        extra[place] = Entry.file(text.encode(), executable=True)
    image = tmp_path / "initramfs"
    image.write_bytes(build_initramfs().read_bytes() + pack(extra))
    command = [
        *before,
        *(
            QEMU_PROGRAM,
            "-machine",
            "pc",
            "-accel",
            "tcg",
            "-cpu",
            "max",
            "-m",
            "1G",
            "-display",
            "none",
            "-no-reboot",
        ),
        *("-nodefaults", "-serial", "stdio", *devices),
        *("-kernel", str(build_kernel(["bench"]).image), "-initrd", str(image)),
        *("-append", f"console=ttyS0 quiet panic=-1 {arguments}"),
    ]
    return converse(command, list(talk))


def converse(command, talk):
    said, deadline = "", time.monotonic() + BOOT_DEADLINE
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as guest:
        try:
            while time.monotonic() < deadline:
                ready, _, _ = select.select([guest.stdout], [], [], 1)
                if not ready:
                    continue
                data = os.read(guest.stdout.fileno(), 65536)
                if not data:
                    return said
                said += data.decode(errors="replace").replace("\r", "")
                if talk and talk[0][0] in said:
                    guest.stdin.write(talk.pop(0)[1].encode())
                    guest.stdin.flush()
        finally:
            with contextlib.suppress(ProcessLookupError):
                guest.kill()
    pytest.fail(f"the guest did not end by itself: {said[-3000:]}")


def test_boots_into_a_directory(tmp_path):
    hooks = {
        f"hooks/{point}/10-say": f"#!/bin/sh\necho at {point}\n" for point in ("network", "cache", "overlay")
    }
    hooks["hooks/switch/10-say"] = '#!/bin/sh\necho "at switch with $(ls "$SYSROOT")"\n'
    said = boot(tmp_path, "root=dir:/tiny orion.on_failure=poweroff single", hooks)
    assert "tiny init with 'single', SYSROOT ''" in said
    points = [line.split()[1] for line in said.splitlines() if line.startswith("at ")]
    assert points == ["network", "cache", "overlay", "switch"]
    assert "at switch with bin\netc\nsbin" in said


def test_shell_at_a_point_and_on_with_the_boot(tmp_path):
    talk = [("at the point 'overlay'", "echo answer $((6 * 7)) $(ls $SYSROOT/bin/busybox)\nexit\n")]
    said = boot(tmp_path, "root=dir:/tiny orion.shell=overlay orion.on_failure=poweroff", talk=talk)
    assert "answer 42 /sysroot/bin/busybox" in said
    assert "tiny init with" in said


def test_failure_ends_in_a_shell_by_default(tmp_path):
    talk = [("because the boot failed", "echo answer $((6 * 7))\npoweroff -f\n")]
    said = boot(tmp_path, "root=dir:/nowhere", talk=talk)
    assert "answer 42" in said


@pytest.mark.parametrize(
    ("arguments", "message", "mend"),
    [
        ("", "root= is missing", "root=orion:SERVER:/PATH"),
        ("root=nfs9:a:/x", "root=nfs9:a:/x is not understood", "root=nfs4:SERVER:/PATH"),
        ("root=dir:/nowhere", "root=dir:/nowhere: there is no such directory", "initramfs"),
        ("root=dir:/empty", "/empty: it is no root", "init="),
        ("root=dir:/tiny init=/sbin/other", "init=/sbin/other does not exist in this root", "init="),
        ("root=dir:/tiny init=/etc", "init=/etc is not executable in this root", "init="),
        ("root=orion:192.0.2.1:/x", "no network interface", "driver"),
        (
            "root=orion:127.0.0.1:/x,[::1]:/y orion.ip=off orion.mount_timeout=1",
            "127.0.0.1:/x: no route to the server",
            "network",
        ),
    ],
    ids=lambda value: value.partition("=")[2][:24] or value[:12],
)
def test_failure_says_why_and_ends_as_asked(tmp_path, arguments, message, mend):
    hooks = {"hooks/failure/10-report": REPORT_FAILURE}
    said = boot(tmp_path, f"{arguments} orion.on_failure=poweroff", hooks)
    lines = said.splitlines()
    errors = [number for number, line in enumerate(lines) if "orion: error: " in line]
    assert len(errors) == 1
    assert message in lines[errors[0]]
    assert "  mend: " in lines[errors[0] + 1]
    assert mend in lines[errors[0] + 1]
    assert lines[errors[0]].partition("orion: error: ")[2] in said.partition("HOOK says ")[2]
    assert "Kernel panic" not in said


def test_failing_hook_is_named(tmp_path):
    said = boot(
        tmp_path, "root=dir:/tiny orion.on_failure=reboot", {"hooks/cache/50-bad": "#!/bin/sh\nexit 7\n"}
    )
    assert "the hook /hooks/cache/50-bad failed with exit code 7" in said
    assert "tiny init" not in said


def test_network_that_cannot_be_set_up_names_the_word(tmp_path):
    devices = ("-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net")
    words = "root=orion:10.0.2.2:/x orion.ip=10.0.2.15::192.0.2.1:24::eth0:none orion.on_failure=poweroff"
    said = boot(tmp_path, words, devices=devices)
    assert "orion: error: ip=10.0.2.15::192.0.2.1:24::eth0:none: 'ip route add default via 192.0.2.1" in said


@pytest.mark.parametrize(
    ("arguments", "server"),
    [
        ("", "10.0.2.2"),
        ("ip=dhcp", "10.0.2.2"),
        ("orion.ip=eth0:dhcp", "10.0.2.2"),
        ("orion.ip=10.0.2.15::10.0.2.2:24:node:eth0:none", "10.0.2.2"),
        ("BOOTIF=01-52-54-00-12-34-56", "10.0.2.2"),
        ("orion.ip=auto6", "[fec0::2]"),
        ("orion.ip=[fec0::15]::[fec0::2]:64:node:eth0:none", "[fec0::2]"),
    ],
)
def test_network_comes_up(tmp_path, arguments, server):
    """QEMU's own network has DHCP and announces an IPv6 prefix. Nobody serves NFS: a refusal is an answer."""
    hook = {"hooks/network/10-say": "#!/bin/sh\nip addr show eth0\ncat /etc/resolv.conf || :\n"}
    devices = ("-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,mac=52:54:00:12:34:56")
    words = f"root=orion:{server}:/x orion.mount_timeout=4 orion.on_failure=poweroff {arguments}"
    said = boot(tmp_path, words, hook, devices=devices)
    assert ("inet6 fec0:" if ":" in server else "inet 10.0.2.15/24") in said
    assert f"{server}:/x: connection refused" in said


# Reads through the cache before and after everything was asked, and told, to end.
NFS_INIT = """#!/bin/sh
exec 2>&1
echo "root=$(busybox sed -n 's/^[^ ]* \\/ //p' /proc/mounts)"
echo "lower=$(busybox sed -n 's/^[^ ]* \\/run\\/orion\\/lower //p' /proc/mounts)"
echo "servers=$(busybox ls /run/orion/server | busybox tr '\\n' ' ')"
echo "digest=$(busybox sha256sum /data | busybox cut -d' ' -f1)"
echo new >/written && echo "written=$(busybox cat /written)"
trap : TERM
busybox kill -TERM -1
busybox usleep 100000
echo 3 >/proc/sys/vm/drop_caches
echo "again=$(busybox sha256sum /data | busybox cut -d' ' -f1)"
echo "missing=$(busybox cat /none 2>&1)"
for p in /proc/[0-9]*/cmdline; do busybox head -c 11 "$p"; echo; done >/names
echo "daemon=$(busybox grep -c '^@orioncache' /names)"
echo end
busybox poweroff -f
"""


@pytest.fixture
def exported(tmp_path):
    root = tmp_path / "root"
    for name in ("bin", "sbin"):
        (root / name).mkdir(parents=True)
    shutil.copy(BUSYBOX_PROGRAM, root / "bin/busybox")
    (root / "bin/sh").symlink_to("busybox")
    (root / "sbin/init").write_text(NFS_INIT)
    (root / "sbin/init").chmod(0o755)
    (root / "data").write_bytes(random.Random(0).randbytes((3 << 20) + 17))
    return root


def boot_over_nfs(tmp_path, net, arguments, files=None):
    return boot(
        tmp_path,
        f"ip={net.node_address}:::255.255.255.0:node:eth0:off orion.on_failure=poweroff {arguments}",
        files,
        before=("ip", "netns", "exec", net.space),
        devices=(
            *("-netdev", f"tap,id=net,ifname={net.tap},script=no,downscript=no"),
            *("-device", "virtio-net-pci,netdev=net"),
        ),
    )


def check_boot(said, root):
    assert "\nend\n" in said, said[-3000:]
    seen = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    digest = hashlib.sha256((root / "data").read_bytes()).hexdigest()
    assert seen["root"].startswith("overlay ")
    assert (seen["digest"], seen["again"]) == (digest, digest)
    assert seen["written"] == "new"
    assert "No such file" in seen["missing"]
    assert not (root / "written").exists()
    return seen


@needs.ROOT
@needs.GANESHA
def test_boots_through_the_cache_with_the_second_server_missing(tmp_path, exported):
    with lan(servers=2) as net, servers(net, [{"/export": exported}]) as running:
        running[1].kill()
        first, second = net.addresses
        said = boot_over_nfs(tmp_path, net, f"root=orion:{first}:/export,{second}:/export")
    assert f"warning: boot goes on without {second}:/export: connection refused" in said
    seen = check_boot(said, exported)
    assert seen["lower"].startswith("fuse")
    assert seen["servers"].split() == ["1"]
    assert seen["daemon"] == "1"


@needs.ROOT
@needs.GANESHA
def test_boots_over_plain_nfs(tmp_path, exported):
    with lan(servers=1) as net, servers(net, [{"/export": exported}]):
        said = boot_over_nfs(tmp_path, net, f"root=nfs4:{net.addresses[0]}:/export:rsize=65536")
    seen = check_boot(said, exported)
    assert seen["lower"].startswith("nfs4 ro,")
    assert "rsize=65536" in seen["lower"]


@needs.ROOT
@needs.GANESHA
def test_every_server_that_fails_is_named_with_its_reason(tmp_path, exported):
    with lan(servers=2) as net, servers(net, [{"/export": exported}]) as running:
        running[1].kill()
        first, second = net.addresses
        words = f"root=orion:{first}:/nothing,{second}:/export orion.mount_timeout=2"
        said = boot_over_nfs(tmp_path, net, words)
    assert "orion: error: no server can be mounted: " in said
    assert f"{first}:/nothing: no such export" in said
    assert f"{second}:/export: connection refused" in said
