"""The bench's networks and servers: they answer, they fail as asked, and nothing of them stays."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from orioncache.bench import netns
from orioncache.bench.ganesha import Ganesha, servers
from orioncache.bench.netns import Shape, lan, socket_inside, sweep
from orioncache.errors import UserError
from tests import needs
from tests.waiting import wait_until

pytestmark = [
    needs.ROOT,
    needs.GANESHA,
]

# Makes a network with two servers, says so, and waits to be ended.
CHILD = """
import sys
from pathlib import Path
from orioncache.bench.ganesha import servers
from orioncache.bench.netns import lan
with lan(2) as net, servers(net, [{"/export": Path(sys.argv[1])}]) as running:
    print(*net.servers, net.space, net.switch, flush=True)
    sys.stdin.read()
"""


def namespaces(pid=None):
    pid = os.getpid() if pid is None else pid
    return sorted(path.name for path in Path("/run/netns").glob(f"{netns.PREFIX}{pid}-*"))


def directories(pid):
    return sorted(Path(tempfile.gettempdir()).glob(f"orion-ganesha-{pid}-*"))


def processes_in(names):
    """Processes in network namespaces, by the names of these."""
    inodes = {os.stat(f"/run/netns/{name}").st_ino for name in names}
    found = []
    for path in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            if path.stat().st_ino in inodes:
                found.append(path.parts[2])
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue
    return found


def test_all_is_gone_at_the_end(tmp_path):
    links = os.listdir("/sys/class/net")
    with lan(2) as net, servers(net, [{"/export": tmp_path}]) as running:
        assert len(directories(os.getpid())) == len(running)
        assert len(namespaces()) == 4
        assert len(processes_in(net.servers)) == 2
        assert os.listdir("/sys/class/net") == links  # all of it is in namespaces
    assert namespaces() == []
    assert directories(os.getpid()) == []
    assert os.listdir("/sys/class/net") == links


def test_all_is_gone_after_an_error(tmp_path):
    def fail():
        with lan(1) as net, servers(net, [{"/export": tmp_path / "missing"}]):
            raise AssertionError("a server started without an export")

    with pytest.raises(UserError, match="no directory to export"):
        fail()
    assert namespaces() == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_all_is_gone_after_an_interrupt(tmp_path, how):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        names = child.stdout.readline().decode().split()
        assert len(names) == 4
        running = processes_in(names)
        assert len(running) == 2
        child.send_signal(how)
        child.wait()
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in running), "the servers have ended")
    if how == signal.SIGKILL:
        assert set(names) <= set(namespaces(child.pid))  # nobody could; the next one does
        assert set(names) <= set(sweep())
        assert directories(child.pid) != []
        with Ganesha({"/export": tmp_path}, port=20490):
            pass
    assert namespaces(child.pid) == []
    assert directories(child.pid) == []


def test_sweep_leaves_the_living_alone():
    with lan(1):
        before = namespaces()
        assert set(sweep()).isdisjoint(before)
        assert namespaces() == before


def test_two_networks_at_the_same_time(tmp_path):
    with lan(1) as one, lan(1) as other, servers(one, [{"/export": tmp_path}]) as running:
        assert one.addresses == other.addresses
        assert running[0].answers()
        with pytest.raises(OSError), socket_inside(other.servers[0]) as connection:
            connection.settimeout(5)
            connection.connect((one.addresses[0], 2049))


def test_a_server_fails_as_asked(tmp_path):
    with lan(2, tap=False) as net, servers(net, [{"/export": tmp_path}]) as (first, second):
        first.freeze()
        assert not first.answers(0.3)
        assert second.answers()
        first.thaw()
        assert first.answers()
        first.kill()
        assert not first.answers()
        assert not first.running
        first.start()
        assert first.answers()


def test_a_pulled_cable(tmp_path):
    with lan(1, tap=False) as net, servers(net, [{"/export": tmp_path}]):

        def reached():
            with socket_inside(net.space) as connection:
                connection.settimeout(0.5)
                return connection.connect_ex((net.addresses[0], 2049)) == 0

        wait_until(reached, "the server is reached over the switch")
        net.plug(0, False)
        assert not reached()
        net.plug(0, True)
        wait_until(reached, "the server is reached again")


def test_a_frozen_server_can_be_stopped(tmp_path):
    with Ganesha({"/export": tmp_path}, port=20490) as server:
        server.freeze()
    assert not server.running


def test_a_port_in_use_is_said(tmp_path):
    second = Ganesha({"/export": tmp_path}, port=20490, name="other")
    with (
        Ganesha({"/export": tmp_path}, port=20490),
        pytest.raises(UserError, match="another NFS server answers"),
    ):
        second.__enter__()


def test_a_server_that_does_not_start_shows_its_log(tmp_path):
    with pytest.raises(UserError, match=r"nfs-ganesha ended with exit code .*: .") as error:
        Ganesha({"/export": tmp_path}, address="192.0.2.1").__enter__()  # nobody's address (RFC 5737)
    assert "ganesha.nfsd -F" in error.value.mend


# Rights are dropped after the imports: the tree may stand where only root can read.
WITHOUT_RIGHTS = """
import os
from orioncache.bench.netns import lan
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
lan(1).__enter__()
"""


def test_without_rights():
    done = subprocess.run([sys.executable, "-c", WITHOUT_RIGHTS], capture_output=True, text=True, check=False)
    assert "UserError" in done.stderr
    assert "not permitted" in done.stderr.lower() or "permission denied" in done.stderr.lower()


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (Shape(), ""),
        (Shape(delay_ms=0.5), "delay 0.5ms limit 100000"),
        (Shape(5, 1, 2.5, 100), "delay 5ms 1ms loss 2.5% rate 100mbit limit 100000"),
        (Shape(rate_mbit=0.5), "rate 0.5mbit limit 100000"),
    ],
)
def test_shape_in_words(shape, words):
    assert " ".join(shape.netem()) == words


def test_a_shaped_link(tmp_path):
    if not netns.can_shape():
        with lan(1) as net, pytest.raises(UserError, match="qdisc") as error:
            net.shape_node(Shape(1))
        assert "CONFIG_NET_SCH_NETEM" in error.value.mend
        pytest.skip(
            "this machine's kernel has no netem (CONFIG_NET_SCH_NETEM); the bench shapes in the guest then"
        )
    with lan(1, tap=False) as net:
        net.shape_node(Shape(delay_ms=50))
        command = ["ip", "netns", "exec", net.space, "ping", "-c", "2", "-q", net.addresses[0]]
        if shutil.which("ping") is None:
            pytest.skip("ping is not installed")
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        shortest = float(done.stdout.rpartition(" = ")[2].split("/")[0])
        assert 100 <= shortest < 150
