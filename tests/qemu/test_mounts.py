"""A boot while servers are dead, half dead, late, or the same one twice; and what a daemon mounts by itself.

All on the virtual clock, with the kernel's own servers in the guest, so that times are exact.
"""

import json
import re
import shutil

import pytest

from orioncache.bench.image import bench_image
from orioncache.bench.plan import VARIANTS, Link, Run
from orioncache.bench.qemu import boot
from orioncache.bench.released import bench_release
from orioncache.bench.root import check_root, disk_image
from orioncache.bench.scene import Scene
from orioncache.bench.virtual import virtual_clock
from orioncache.bench.workload import inject
from orioncache.initramfs.build import build_initramfs
from orioncache.kernel.build import build_kernel
from tests import needs
from tests.needs import BUSYBOX_PROGRAM

# Real seconds. A boot takes 10 on an idle machine.
BOOT = 400

pytestmark = [
    needs.QEMU,
    needs.BUSYBOX,
    pytest.mark.timeout(3600),  # without a kernel in the cache, one is built
]

# The bar: what a dead first server may cost (seconds).
DEAD_MAY_COST = 0.3

FIRST, SECOND = "10.77.0.11:/", "10.77.0.12:/"

# Nobody has this address: what is sent there is lost.
LOST = "10.77.0.99:/"
# The node's own: nothing listens there.
REFUSED = "10.77.0.1:/"
# The kernel takes connections for a program that never looks at them.
SILENT = "10.77.0.21:/"
LISTEN = """
lan ip addr add 10.77.0.21/24 dev lan
lan nc -ll -p 2049 -e $busybox sleep 1000 </dev/null >/dev/null 2>&1 &
until lan netstat -ltn | $busybox grep -q :2049; do $busybox usleep 1000; done
"""
# A second address of the first server.
ALIAS = """
in_space server1 ip addr add 10.77.0.31/24 dev eth0
"""
# The second server's link is down, and comes up later.
LATE = """
lan ip link set server2 down
lan sh -c 'busybox=/bench/bin/busybox; $busybox sleep 5; $busybox ip link set server2 up' \
    </dev/null >/dev/null 2>&1 &
"""
# The second server starts again with a copy of its export on another file system: no handle is known there.
STALE = """
$busybox mkdir -p /bench/again
$busybox mount -t tmpfs -o mode=755 again /bench/again
$busybox cp -a /bench/root/. /bench/again/
# Files are found while /proc is here.
in_space server2 sh -c '
    busybox=/bench/bin/busybox
    exec 7>/proc/net/rpc/nfsd.export/channel 8>/proc/net/rpc/nfsd.fh/channel
    $busybox sleep 3
    echo 0 >/bench/server2/threads
    $busybox sleep 1
    echo "node /bench/again 2147483647 9219 65534 65534 0" >&7
    echo "node 1 \\\\x00000000 2147483647 /bench/again" >&8
    echo 8 >/bench/server2/threads
' </dev/null >/dev/null 2>&1 &
"""
# The scene's namespaces have names below the node's own /run.
SPACES = """#!/bench/bin/busybox sh
set -eu
busybox=/bench/bin/busybox
$busybox mkdir /scene
$busybox mount -o rbind / /scene
$busybox umount -l /scene/run
in_space() {
    space=$1
    shift
    $busybox nsenter --net=/scene/run/netns/$space $busybox "$@"
}
lan() { in_space lan "$@"; }
$busybox ip link set lo up
"""
# Programs of the root that nothing has read yet, one after the other: what the cache does is seen at its end.
WORKLOAD = """#!/bin/sh
for second in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
    sleep 1
    cat /data/$second >/dev/null || exit 1
done
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """Boots the node with words for its kernel and hooks; gives the outcome."""
    top = tmp_path_factory.mktemp("mounts")
    root = top / "root"
    for name in ("bin", "sbin", "data", "dev", "proc", "sys", "run", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy(BUSYBOX_PROGRAM, root / "bin/busybox")
    for name in ("sh", "sleep", "cat"):
        (root / "bin" / name).symlink_to("busybox")
    for number in range(1, 16):
        (root / "data" / str(number)).write_bytes(number.to_bytes(1, "big") * 300_000)
    release = bench_release(root)
    disk = disk_image(release)
    kernel = build_kernel(["bench"]).image
    number = 0

    def run(servers, rtt, hooks=(), workload="#!/bin/sh\nexit 0\n"):
        nonlocal number
        number += 1
        work = top / f"workload{number}"
        work.write_text(workload)
        work.chmod(0o755)
        injection = inject(check_root(root, None), work)
        files = {"hooks/network/60-scene": (SPACES + "".join(hooks)).encode()}
        initramfs = build_initramfs()
        scene = Scene(
            kernel=kernel,
            initramfs=initramfs,
            initrd=bench_image({**injection.files, **files}, node_image=initramfs),
            root=root,
            disk=disk,
            init=injection.init,
            release=release,
            release_disk=disk,
            append=[f"root=orion:{','.join(servers)}"],
        )
        with virtual_clock(scene) as machine:
            outcome = boot(machine(Run(VARIANTS["orion"], Link(rtt), 1)), top / f"logs{number}", BOOT)
        console = (top / f"logs{number}" / "console").read_text(errors="replace")
        assert not outcome.error, f"{outcome.error}\n{console[-3000:]}"
        return outcome.report, console

    return run


@pytest.fixture(scope="module", params=[1, 10])
def healthy(node, request):
    """The round trip (ms), and the seconds that the initramfs takes with two good servers."""
    report, console = node([FIRST, SECOND], request.param)
    assert "warning" not in console
    assert len(json.loads(report.files["cache"])["servers"]) == 2
    return request.param, report.phases().initramfs


@pytest.mark.parametrize(
    ("first", "why", "hooks"),
    [
        (LOST, "the server does not answer", ()),
        (REFUSED, "connection refused", ()),
        (SILENT, "a connection stands, but NFS does not answer", (LISTEN,)),
    ],
    ids=["lost", "refused", "silent"],
)
def test_a_dead_first_server_hardly_costs_a_boot_anything(node, healthy, first, why, hooks):
    rtt, before = healthy
    report, console = node([first, FIRST], rtt, hooks)
    print(f"{why}, RTT {rtt}: {report.phases().initramfs:.3f} s, {before:.3f} with two good servers")
    assert report.phases().initramfs <= before + DEAD_MAY_COST
    assert f"warning: boot goes on without {first}: " in console
    assert why in console


def test_fifteen_dead_servers_cost_no_more(node, healthy):
    rtt, before = healthy
    dead = [f"10.77.0.{number}:/" for number in range(100, 105)]
    dead += [f"10.77.0.1:/{number}" for number in range(5)]
    dead += [f"10.77.0.21:/{number}" for number in range(5)]
    report, console = node([*dead, FIRST], rtt, (LISTEN,))
    print(f"15 dead, RTT {rtt}: {report.phases().initramfs:.3f} s, {before:.3f} with two good servers")
    assert report.phases().initramfs <= before + DEAD_MAY_COST
    for server in dead:
        assert f"{server}: " in console


def test_one_server_under_two_names_is_one(node):
    report, console = node([FIRST, FIRST, "10.77.0.31:/"], 1, (ALIAS,), WORKLOAD)
    assert console.count("it is in the list twice") == 1
    assert re.search(r"10\.77\.0\.\d1:/: the same server as 10\.77\.0\.\d1:/", console)
    status = json.loads(report.files["cache"])
    assert len(status["servers"]) == 1


def test_a_server_that_comes_late_is_mounted_and_used(node):
    report, console = node([SECOND, FIRST], 1, (LATE,), WORKLOAD)
    assert f"warning: boot goes on without {SECOND}" in console
    status = json.loads(report.files["cache"])
    servers = {server["source"]: server for server in status["servers"]}
    assert set(servers) == {"/run/orion/server/2", SECOND}
    assert servers[SECOND]["state"] in ("good", "slow")
    mounts = [event["text"] for event in status["events"] if event["kind"] == "mount"]
    assert f"{SECOND} is mounted, and one of the servers now" in mounts


def test_a_server_that_starts_again_with_new_handles_is_mounted_anew(node):
    # Its grace period ends 10 s after its start.
    report, _ = node([SECOND, FIRST], 1, (STALE,), WORKLOAD + "sleep 20\n")
    status = json.loads(report.files["cache"])
    servers = {server["source"]: server for server in status["servers"]}
    mounts = [event["text"] for event in status["events"] if event["kind"] == "mount"]
    assert "/run/orion/server/1 is mounted anew" in mounts
    assert servers["/run/orion/server/1"]["state"] in ("good", "slow")
