"""What a node mounts by itself: the helper's list, its attempts, and who is mounted when."""

import os
import shutil
import socket
import threading

import pytest

from orioncache import mounter
from orioncache.errors import UserError
from orioncache.mounter import Listed, Mounter, read_list
from tests.waiting import wait_until

# Hands over what is at /, as if it were a mount, or says why not, as nfsmount does; a file beside it decides.
HELPER = """#!{python}
import os, socket, sys, time
here = {here!r}
with open(here + "/calls", "a") as file:
    print(*sys.argv[1:], sep="\\t", file=file)
source = sys.argv[-1]
words = open(here + "/" + source.partition(":")[0]).read().split(None, 1)
if words[0] == "hang":
    time.sleep(1000)
if words[0] == "fail":
    print(source + ": " + words[1] + " (after 0.0 s)")
    sys.exit(1)
ours = socket.socket(fileno=3)
fd = os.open("/", os.O_PATH)
socket.send_fds(ours, [words[1].encode()], [fd])
"""


class Engine:
    """Remembers what it was given."""

    def __init__(self):
        self.found = {}
        self.told = []
        self.replaced = []

    def servers(self):
        return [(number, *fields) for number, fields in self.found.items()]

    def add(self, fd, source):
        os.close(fd)
        number = len(self.found)
        self.found[number] = (source, "unknown", "")
        return number

    def replace(self, number, fd):
        os.close(fd)
        self.replaced.append(number)
        self.found[number] = (self.found[number][0], "good", "")

    def tell_mount(self, severity, text, source):
        self.told.append((severity, text, source))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name, seconds in {
        "SOON": 0.01,
        "FIRST": 0.02,
        "LONGEST": 0.05,
        "LOOK": 0.01,
        "DEAD_FOR": 0.05,
    }.items():
        monkeypatch.setattr(mounter, name, seconds)


@pytest.fixture
def helper(tmp_path):
    import sys

    path = tmp_path / "helper"
    path.write_text(HELPER.format(python=sys.executable, here=str(tmp_path)))
    path.chmod(0o755)
    return path


@pytest.fixture
def begin(helper):
    begun = []

    def start(engine, listed):
        made = Mounter(engine, "vers=4.1", listed, helper=str(helper))
        made.start()
        begun.append(made)
        return made

    before = len(os.listdir("/proc/self/fd"))
    yield start
    for made in begun:
        made.close()
    assert len(os.listdir("/proc/self/fd")) == before


def calls(helper):
    path = helper.parent / "calls"
    return [line.split("\t") for line in path.read_text().splitlines()] if path.exists() else []


def missing(source, why="connection refused"):
    return Listed(f"/run/orion/server/{source}", "failed", "0:0", source, why)


def mounted(place, source, device="0:40"):
    return Listed(place, "mounted", device, source, "")


def test_the_list_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "servers"
    path.write_text(
        "vers=4.1,softerr\n/s/1\tmounted\t0:40\ta:/x\t\n/s/2\tfailed\t0:0\t[::1]:/y\tno answer\nrubbish\n"
    )
    options, listed = read_list(str(path))
    assert options == "vers=4.1,softerr"
    assert [vars(entry) for entry in listed] == [
        {"place": "/s/1", "state": "mounted", "device": "0:40", "source": "a:/x", "why": ""},
        {"place": "/s/2", "state": "failed", "device": "0:0", "source": "[::1]:/y", "why": "no answer"},
    ]
    assert read_list(str(tmp_path / "none")) is None


def test_a_missing_server_is_mounted_when_it_comes(helper, begin):
    engine = Engine()
    engine.found[0] = ("/s/1", "good", "")
    (helper.parent / "late").write_text("fail no route to the server")
    begin(engine, [mounted("/s/1", "first:/x"), missing("late:/x")])
    wait_until(lambda: len(calls(helper)) > 3, "it is tried again and again", 20)
    # Not once more for each attempt.
    assert [text for _, text, _ in engine.told] == [
        "late:/x cannot be mounted, and is tried again: no route to the server"
    ]
    (helper.parent / "late").write_text("mount 0:41")
    wait_until(lambda: 1 in engine.found, "it is mounted", 20)
    wait_until(lambda: len(engine.told) == 2, "that is told", 20)
    assert engine.told[1] == ("info", "late:/x is mounted, and one of the servers now", "late:/x")
    assert calls(helper)[-1] == ["-o", "vers=4.1", "-t", "10", "-f", "3", "late:/x"]


def test_the_same_server_is_never_two(helper, begin):
    engine = Engine()
    engine.found[0] = ("/s/1", "good", "")
    (helper.parent / "again").write_text("mount 0:40")
    begin(engine, [mounted("/s/1", "first:/x"), missing("again:/x")])
    wait_until(lambda: engine.told, "it is told", 20)
    assert engine.told[0][1].startswith("again:/x is the same server as first:/x")
    assert list(engine.found) == [0]
    assert len(calls(helper)) == 1


@pytest.mark.parametrize(("state", "reason"), [("dead", "no answer"), ("suspect", "Stale file handle")])
def test_a_mount_that_is_of_no_use_is_made_anew(helper, begin, state, reason):
    engine = Engine()
    engine.found = {0: ("/s/1", "good", ""), 1: ("/s/2", state, reason)}
    (helper.parent / "second").write_text("mount 0:42")
    begin(engine, [mounted("/s/1", "first:/x"), mounted("/s/2", "second:/x", "0:41")])
    wait_until(lambda: engine.replaced == [1], "it is replaced", 20)
    assert calls(helper)[0][1] == "vers=4.1,nosharecache"


def test_a_suspect_server_keeps_its_mount(helper, begin):
    engine = Engine()
    engine.found = {0: ("/s/1", "suspect", "a read is overdue"), 1: ("/s/2", "quarantined", "it lied")}
    looks = []
    original, engine.servers = engine.servers, lambda: looks.append(1) or original()
    begin(engine, [mounted("/s/1", "first:/x"), mounted("/s/2", "second:/x", "0:41")])
    wait_until(lambda: len(looks) > 20, "it looked for longer than a dead one needs", 20)
    assert calls(helper) == []


def test_a_mount_that_hangs_is_ended_and_holds_up_nobody(helper, begin, monkeypatch):
    monkeypatch.setattr(mounter, "ATTEMPT", 0)
    monkeypatch.setattr(mounter, "BEYOND", 0.3)
    engine = Engine()
    (helper.parent / "hung").write_text("hang")
    (helper.parent / "well").write_text("mount 0:41")
    begin(engine, [missing("hung:/x"), missing("well:/x")])
    wait_until(lambda: sum(call[-1] == "hung:/x" for call in calls(helper)) > 2, "it is tried again", 20)
    assert [source for source, *_ in engine.found.values()] == ["well:/x"]
    assert (
        "warning",
        "hung:/x cannot be mounted, and is tried again: the mount did not come to an end",
        "hung:/x",
    ) in (engine.told)


def test_whoever_was_added_is_looked_after_and_whoever_was_removed_is_not(helper, begin):
    engine = Engine()
    engine.found = {0: ("/s/1", "good", ""), 1: ("added:/x", "dead", "no answer")}
    (helper.parent / "added").write_text("fail connection refused")
    begin(engine, [mounted("/s/1", "first:/x")])
    wait_until(lambda: calls(helper), "it is tried", 20)
    del engine.found[1]
    (helper.parent / "added").write_text("mount 0:41")
    before = len(calls(helper))
    looks = []
    original, engine.servers = engine.servers, lambda: looks.append(1) or original()
    wait_until(lambda: len(looks) > 20, "it looked again", 20)
    assert len(calls(helper)) <= before + 1
    assert engine.replaced == []


def test_somebody_who_adds_one_is_told_why_it_cannot_be(helper, tmp_path):
    made = Mounter(Engine(), "vers=4.1", [mounted("/s/1", "first:/x")], helper=str(helper))
    (helper.parent / "new").write_text("mount 0:41")
    fd = made.mount("new:/x")
    assert os.path.samestat(os.fstat(fd), os.stat("/"))
    os.close(fd)
    (helper.parent / "new").write_text("fail no such export")
    with pytest.raises(UserError, match="new:/x cannot be mounted: no such export"):
        made.mount("new:/x")
    (helper.parent / "new").write_text("mount 0:40")
    with pytest.raises(UserError, match="new:/x is the same server as first:/x"):
        made.mount("new:/x")
    helpless = Mounter(Engine(), "vers=4.1", [], helper=str(tmp_path / "none"))
    with pytest.raises(UserError, match="No such file"):
        helpless.mount("new:/x")


# The real helper. Without an NFS client in this kernel it comes as far as the mount; with one it fails there.


@pytest.fixture(scope="module")
def nfsmount(tmp_path_factory):
    compiler = shutil.which("musl-gcc")
    if compiler is None:
        pytest.skip("musl-tools are not installed")
    from orioncache.initramfs.build import HERE, TOOL_FLAGS
    from orioncache.process import run

    program = tmp_path_factory.mktemp("tools") / "nfsmount"
    run([compiler, *TOOL_FLAGS, "-o", program, HERE / "tools/nfsmount.c"])
    return program


def serve(answers):
    """A server that accepts connections, and answers what it is asked, or nothing."""
    listening = socket.create_server(("127.0.0.1", 0))
    asked = []

    def run():
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            asked.append(connection.recv(1024))
            if answers:
                connection.sendall(b"\x80\0\0\x18" + asked[-1][4:8] + b"\0\0\0\1" + bytes(16))

    if answers:
        threading.Thread(target=run, daemon=True).start()
    return listening, asked


def test_the_helper_asks_before_it_mounts(nfsmount):
    listening, asked = serve(answers=True)
    with listening:
        made = Mounter(Engine(), f"vers=4.1,port={listening.getsockname()[1]}", [], helper=str(nfsmount))
        with pytest.raises(UserError) as caught:
            made.mount("127.0.0.1:/x")
    # RFC 5531: a record of 40 bytes; call, RPC 2, program NFS, version 4, procedure 0.
    (call,) = asked
    assert call[:4] == b"\x80\0\0\x28"
    assert call[8:28] == b"".join(word.to_bytes(4, "big") for word in (0, 2, 100003, 4, 0))
    assert "NFS does not answer" not in str(caught.value)


def test_the_helper_never_mounts_what_does_not_answer(nfsmount, monkeypatch):
    monkeypatch.setattr(mounter, "WAITED_FOR", 1)
    listening, _ = serve(answers=False)
    with listening:
        made = Mounter(Engine(), f"vers=4.1,port={listening.getsockname()[1]}", [], helper=str(nfsmount))
        with pytest.raises(UserError, match="a connection stands, but NFS does not answer"):
            made.mount("127.0.0.1:/x")


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("nobody.invalid:/x", "no such host|cannot be resolved"),
        ("127.0.0.1", "not of the form HOST:/PATH"),
        ("127.0.0.1:x", "not of the form HOST:/PATH"),
        ("[::1:/x", "not of the form HOST:/PATH"),
        (":/x", "not of the form HOST:/PATH"),
    ],
)
def test_the_helper_says_what_is_wrong_with_a_server(nfsmount, source, why):
    with pytest.raises(UserError, match=why):
        Mounter(Engine(), "vers=4.1", [], helper=str(nfsmount)).mount(source)


def test_the_helper_takes_no_seventeenth_server(nfsmount, tmp_path):
    from subprocess import run

    words = [word for number in range(17) for word in (f"no{number}", tmp_path / str(number))]
    done = run(
        [nfsmount, "-o", "ro", "-t", "1", *words], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert "no16: there are 16 servers without it, as many as there may be" in done.stdout
    assert "no15: not of the form HOST:/PATH" in done.stdout


def test_the_helper_leaves_a_list(nfsmount, tmp_path):
    from subprocess import run

    listening, _ = serve(answers=False)
    with listening:
        # Nobody listens there any more when it is closed.
        port = listening.getsockname()[1]
    words = ["a.b", tmp_path / "1", "127.0.0.1:/x", tmp_path / "2", "127.0.0.1:/x", tmp_path / "3"]
    done = run(
        [nfsmount, "-o", f"ro,port={port}", "-t", "1", "-l", tmp_path / "list", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    lines = [line.partition(" (after")[0] for line in done.stdout.splitlines()]
    assert lines == [
        "a.b: not of the form HOST:/PATH",
        "127.0.0.1:/x: it is in the list twice",
        "127.0.0.1:/x: connection refused: no NFS server listens there",
    ]
    options, listed = read_list(str(tmp_path / "list"))
    assert options == f"ro,port={port}"
    assert [(entry.place, entry.state, entry.source) for entry in listed] == [
        (str(tmp_path / "1"), "same", "a.b"),
        (str(tmp_path / "2"), "failed", "127.0.0.1:/x"),
        (str(tmp_path / "3"), "same", "127.0.0.1:/x"),
    ]
    assert not (tmp_path / "2").exists()
