"""Whole boots by the bench: what a node sees through the cache, both clocks, and boots that fail."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from orioncache.bench.root import debian_root
from orioncache.trace.format import read
from tests import needs
from tests.program import COMMAND
from tests.waiting import wait_until

pytestmark = [
    needs.QEMU,
    needs.ROOT,
    pytest.mark.timeout(3600),  # without a kernel and a root in the cache, they are built
]

# Real seconds. A boot takes 10 to 30 on an idle machine.
BOOT = 600

# Runs in the node, and here with the tree as argument: one line for each part of it. Metadata of all kinds of
# entries but what a boot writes to (a directory's size is its file system's affair), and content.
LOOK = r"""#!/bin/sh
set -eu
export LC_ALL=C
cd "${1:-/}"
for top in etc usr/bin usr/lib/x86_64-linux-gnu var/lib/dpkg; do
    find $top -xdev \
        '(' -path etc/runit -o -path etc/service -o -path etc/resolv.conf -o -path etc/mtab ')' -prune \
        -o -type d -printf '%p %m %U:%G\n' -o -printf '%p %y %m %U:%G %s %n %l\n' |
        sort | md5sum | sed "s|-|LOOK metadata of $top|"
done
for top in etc/ssl usr/bin usr/sbin usr/lib/python3.11/asyncio; do
    find $top -xdev -type f -print0 | sort -z | xargs -0 md5sum |
        md5sum | sed "s|-|LOOK content of $top|"
done
"""


def bench(*arguments):
    """The command's exit code, standard output and standard error."""
    command = [*COMMAND, "bench", "--timeout", str(BOOT), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def script(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return path


def samples(path):
    document = json.loads(path.read_text())
    assert document["schema"] == "orioncache.bench/1"
    return document["samples"]


def left_behind(pid):
    """Namespaces, and directories for logs, that a bench process made and did not remove."""
    spaces = Path("/run/netns")
    return [path.name for path in spaces.glob(f"orion{pid}-*")] if spaces.exists() else []


def guests(parent):
    """Process ids of the QEMUs that a bench has started."""
    found = []
    for listed in Path(f"/proc/{parent}/task").glob("*/children"):
        # A child may end between being listed and being looked at.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for pid in listed.read_text().split():
                program = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
                found += [int(pid)] if b"qemu-system" in program else []
    return found


def check_trace(trace):
    """Whether it is that of a boot in which all went well and the workload read all of /usr/bin."""
    assert not trace.degraded
    assert trace.lost == 0
    first = next(record for record in trace.reads if record.comm)
    assert trace.path(first.inode) == "usr/lib/runit/runit-init"
    programs = {path.name for path in (debian_root() / "usr/bin").iterdir() if path.is_file()}
    read_by = {trace.path(record.inode).removeprefix("usr/bin/"): record.comm for record in trace.reads}
    assert len(programs & read_by.keys()) > 100
    assert "md5sum" in read_by.values()
    assert 0 < trace.seconds(trace.records[0]) < trace.seconds(trace.records[-1]) < 60


def saw_its_root(workload, logs):
    """What :data:`LOOK` printed in the node is what it prints here."""
    said = (logs / "port").read_text(errors="replace").splitlines()
    seen = [line.removeprefix("log ") for line in said if " LOOK " in line]
    here = subprocess.run([workload, debian_root()], capture_output=True, text=True, check=True)
    assert len(seen) == 8
    assert seen == here.stdout.splitlines()


@pytest.mark.parametrize("variant", ["orion", "orion-profile", "orion-live"])
def test_a_node_on_the_cache_sees_every_byte_of_its_root(tmp_path, variant):
    workload = script(tmp_path / "look", LOOK)
    code, _, errors = bench(
        *("--variant", variant, "--rtt", "0", "--workload", workload),
        *("--json", tmp_path / "json", "--keep", tmp_path / "logs"),
        *(("--trace", tmp_path / "trace") if variant == "orion" else ()),
    )
    assert code == 0, errors
    if variant == "orion":
        check_trace(read(tmp_path / "trace"))
    (sample,) = samples(tmp_path / "json")
    assert sample["ok"]
    assert sample["boot_s"] == pytest.approx(sum(sample["phases_s"].values()))
    assert sample["nfs"]["calls"] > 100
    assert sample["nfs"]["read_bytes"] > 10_000_000
    assert sample["memory_mb"]["daemon_rss"] > 0
    assert sample["cache"]

    assert sample["nbd"] is None
    saw_its_root(workload, tmp_path / f"logs/{variant}-rtt0-run1")


@needs.NBD
def test_a_node_on_a_block_device_sees_every_byte_of_its_root(tmp_path):
    workload = script(tmp_path / "look", LOOK)
    code, out, errors = bench(
        *("--variant", "nbd-squashfs", "--rtt", "0", "--workload", workload),
        *("--json", tmp_path / "json", "--keep", tmp_path / "logs"),
    )
    assert code == 0, errors
    (sample,) = samples(tmp_path / "json")
    assert sample["ok"]
    # All that it read came over the block device, packed.
    assert sample["nfs"]["calls"] == 0
    assert sample["nbd"]["requests"] > 100
    assert sample["nbd"]["read_bytes"] > 10_000_000
    assert "NBD reads" in out
    saw_its_root(workload, tmp_path / "logs/nbd-squashfs-rtt0-run1")


def test_a_workload_that_fails_fails_the_bench(tmp_path):
    workload = script(tmp_path / "fail", "#!/bin/sh\necho no luck today\nexit 7\n")
    code, _, errors = bench(
        "--variant", "ram", "--rtt", "0", "--workload", workload, "--json", tmp_path / "json"
    )
    assert code == 1
    assert "the workload exited with 7" in errors
    assert "no luck today" in errors
    assert "mend: " in errors
    assert "Traceback" not in errors
    (sample,) = samples(tmp_path / "json")
    assert (sample["ok"], sample["boot_s"], sample["phases_s"]) == (False, None, None)
    assert "exited with 7" in sample["error"]


def test_a_kernel_that_panics_is_told_with_its_console():
    code, _, errors = bench("--variant", "ram", "--rtt", "0", "--append", "rdinit=/nothing/there")
    assert code == 1
    assert "panicked" in errors
    assert "console: " in errors
    assert "Traceback" not in errors


@needs.GANESHA
def test_the_wall_clock_boots_from_servers_outside(tmp_path):
    workload = script(tmp_path / "true", "#!/bin/sh\nexit 0\n")
    code, _, errors = bench(
        *("--clock", "wall", "--variant", "nfs", "--rtt", "1", "--accel", "tcg", "--workload", workload),
        *("--json", tmp_path / "json"),
    )
    assert code == 0, errors
    (sample,) = samples(tmp_path / "json")
    assert (sample["clock"], sample["accel"], sample["ok"]) == ("wall", "tcg", True)
    assert sample["nfs"]["calls"] > 10


@pytest.mark.parametrize("clock", ["virtual", "wall"])
def test_an_interrupt_leaves_nothing(tmp_path, clock):
    if clock == "wall" and shutil.which("ganesha.nfsd") is None:
        pytest.skip("nfs-ganesha is not installed")
    command = [
        *COMMAND,
        "bench",
        "--variant",
        "nfs",
        "--clock",
        clock,
        "--accel",
        "tcg",
    ]
    command += ["--json", str(tmp_path / "json")]
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        wait_until(lambda: guests(process.pid), "a guest runs", BOOT)
        running = guests(process.pid)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert [pid for pid in running if Path(f"/proc/{pid}").exists()] == []
    assert left_behind(process.pid) == []
    assert list(temporary.iterdir()) == []
    assert not (tmp_path / "json").exists()


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--root", "/nonexistent"], "root /nonexistent does not exist"),
        (["--append", "init=/no/such/init"], "init /no/such/init does not exist"),
        (["--workload", "/nonexistent"], "workload /nonexistent"),
        (["--workload", "nodejz"], "workload nodejz: No such file"),
        (["--clock", "wall", "--variant", "nfs,nbd-squashfs"], "on the virtual clock"),
        (["--kernel", "/bin/true"], "/bin/true"),
        (["--accel", "kvm"], "virtual clock"),
        (["--variant", "nfs,zfs"], "no variant 'zfs'"),
        (["--json", "/nonexistent/dir/file"], "cannot be written"),
        (["--fragment", "CONFIG_NO_SUCH_THING=y"], "NO_SUCH_THING"),
    ],
)
def test_wrong_input_is_told_before_anything_boots(arguments, what):
    code, out, errors = bench(*arguments)
    assert code == 1
    assert what in errors
    assert "mend: " in errors
    assert "Traceback" not in errors
    assert out == ""


def test_a_dry_run_prints_commands_that_can_be_pasted(tmp_path):
    code, out, errors = bench(
        "--dry-run", "--variant", "nfs,ram", "--rtt", "1", "--runs", "2", "--keep", tmp_path
    )
    assert code == 0, errors
    commands = [line for line in out.splitlines() if not line.startswith("#")]
    assert len(commands) == 4
    assert all("qemu-system-x86_64" in command for command in commands)
    assert list(tmp_path.iterdir()) == []
