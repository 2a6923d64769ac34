"""How a cache begins and ends, what it says to bad input, and what it does when a source fails."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from orioncache.control import client
from orioncache.control.places import socket_path
from orioncache.errors import UserError
from tests.fuse import kinds
from tests.fuse.conftest import StartCache
from tests.program import COMMAND
from tests.waiting import wait_until


def _orion(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )


def _is_mounted(path: Path) -> bool:
    return f" {path} " in Path("/proc/self/mountinfo").read_text()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(b"content")
    return tree


def test_background_until_unmounted(tree: Path, tmp_path: Path) -> None:
    point = tmp_path / "point"
    point.mkdir()
    try:
        done = _orion("mount", tree, point)
        assert (done.returncode, done.stderr) == (0, "")
        assert (point / "file").read_bytes() == b"content"
        shown = _orion("status", point)
        assert shown.returncode == 0
        assert str(tree) in shown.stdout
        status = json.loads(_orion("status", "--json", point).stdout)
        assert status["mountpoint"] == str(point)
        assert status["mode"] == "live"
        again = _orion("mount", tree, point)
        assert again.returncode == 1
        assert "already" in again.stderr
    finally:
        subprocess.run(["umount", point], check=True)
    wait_until(lambda: not Path(f"/proc/{status['pid']}").exists(), "the process has ended")
    assert not Path(socket_path(str(point))).exists()
    assert _orion("status", point).returncode == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_it_even_if_in_use(number: signal.Signals, tree: Path, start_cache: StartCache) -> None:
    cache = start_cache(tree)
    descriptor = os.open(cache.path / "file", os.O_RDONLY)
    assert cache.end(number) == 0
    with contextlib.suppress(OSError):
        os.close(descriptor)
    assert not _is_mounted(cache.path)
    assert not cache.socket.exists()


def test_killed_cache_can_be_replaced(tree: Path, tmp_path: Path, start_cache: StartCache) -> None:
    cache = start_cache(tree)
    daemon = cache.daemon()
    # First who would start another; and the daemon shall not end in good order then.
    os.kill(daemon, signal.SIGSTOP)
    cache.process.kill()
    cache.process.wait()
    with contextlib.suppress(ProcessLookupError):
        os.kill(daemon, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{daemon}").exists(), "the daemon has ended")
    refused = _orion("mount", tree, cache.path)
    assert refused.returncode == 1
    assert f"umount -l {cache.path}" in refused.stderr
    subprocess.run(["umount", "-l", cache.path], check=True)
    # Its socket is still there, and nobody listens on it.
    done = _orion("mount", f"--control={cache.socket}", tree, cache.path)
    assert done.returncode == 0, done.stderr
    assert (cache.path / "file").read_bytes() == b"content"
    pid = client.status(str(cache.socket))["pid"]
    subprocess.run(["umount", cache.path], check=True)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the process has ended")


@pytest.mark.parametrize(
    ("sources", "point", "said"),
    [
        ("{tmp}/none", "{tmp}/point", "No such file"),
        ("{tmp}/tree/file", "{tmp}/point", "not a directory"),
        ("{tmp}/tree,{tmp}/none", "{tmp}/point", "No such file"),
        ("{tmp}/tree,{tmp}/tree", "{tmp}/point", "twice"),
        (",", "{tmp}/point", "no source"),
        ("{tmp}/tree", "{tmp}/nowhere", "does not exist"),
        ("{tmp}/tree", "{tmp}/tree/file", "not a directory"),
        ("{tmp}/tree", "{tmp}/tree", "inside the source"),
        ("{tmp}/tree", "{tmp}/tree/below", "inside the source"),
        ("{tmp}/tree", "{tmp}", "would hide"),
    ],
)
def test_bad_paths_are_refused_in_one_line(
    sources: str, point: str, said: str, tree: Path, tmp_path: Path
) -> None:
    (tmp_path / "point").mkdir()
    (tree / "below").mkdir()
    where = Path(point.format(tmp=tmp_path))
    done = _orion("mount", sources.format(tmp=tmp_path), where)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert said in lines[0]
    assert len(lines) == 2
    assert lines[1].startswith("  mend: ")
    assert not _is_mounted(where)


def test_bad_option_is_refused_in_one_line(tree: Path, tmp_path: Path) -> None:
    done = _orion("mount", "--readers=0", tree, tmp_path)
    assert done.returncode == 1
    assert "--readers: '0' is out of range" in done.stderr


def test_without_rights_it_says_so(tmp_path: Path) -> None:
    command = ["unshare", "--mount", *COMMAND, "mount", "/srv", tmp_path]
    done = subprocess.run(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command[2:]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "mend: run it as root" in done.stderr
    assert not _is_mounted(tmp_path)


def test_without_the_device_it_says_so(tree: Path, tmp_path: Path) -> None:
    hide = f"mount -t tmpfs none /dev && exec {' '.join(COMMAND)} mount {tree} {tmp_path / 'tree'}"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", hide], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "there is no /dev/fuse" in done.stderr


def test_control_socket_answers_bad_requests(tree: Path, start_cache: StartCache) -> None:
    cache = start_cache(tree)
    for request, said in (
        (b"nonsense\n", "a request is"),
        (b'{"op": "dance"}\n', "unknown op"),
        (b"[]\n", "a request is"),
        (b"", "a request is"),
    ):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(cache.socket))
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            assert said in json.loads(connection.makefile("rb").readline())["error"]
    assert Path(f"/proc/{cache.daemon()}").exists()


def test_status_of_a_stopped_cache_is_an_error_within_a_second(tree: Path, start_cache: StartCache) -> None:
    cache = start_cache(tree)
    daemon = cache.daemon()
    os.kill(daemon, signal.SIGSTOP)
    tasks = Path(f"/proc/{daemon}/task")
    wait_until(
        lambda: all(b") T " in (task / "stat").read_bytes() for task in tasks.iterdir()),
        "all threads stand still",
    )
    started = time.monotonic()
    with pytest.raises(UserError, match="no answer within 1 s"):
        client.status(str(cache.socket))
    assert time.monotonic() - started < 3
    os.kill(daemon, signal.SIGCONT)


def test_status_without_a_cache() -> None:
    done = _orion("status", "/nowhere/at/all")
    assert done.returncode == 1
    assert "no cache is running on /nowhere/at/all" in done.stderr


@kinds.live
def test_hung_source_holds_up_neither_status_nor_what_is_cached(tree: Path, start_cache: StartCache) -> None:
    (tree / "cold").write_bytes(b"cold")
    source = start_cache(tree, options=["--attr-ttl=0"])
    cache = start_cache(source.path, options=["--attr-ttl=60"])
    assert (cache.path / "file").read_bytes() == b"content"
    source.process.send_signal(signal.SIGSTOP)
    found: list[bytes] = []
    stuck = threading.Thread(target=lambda: found.append((cache.path / "cold").read_bytes()))
    stuck.start()
    for _ in range(5):
        started = time.monotonic()
        assert cache.status()["servers"][0]["source"] == str(source.path)
        assert time.monotonic() - started < 1
        assert (cache.path / "file").read_bytes() == b"content"
    assert stuck.is_alive()
    source.process.send_signal(signal.SIGCONT)
    stuck.join(timeout=20)
    assert found == [b"cold"]


@kinds.live
@pytest.mark.parametrize("failure", [signal.SIGSTOP, signal.SIGKILL])
def test_next_source_is_used_when_one_fails(
    failure: signal.Signals, tree: Path, tmp_path: Path, start_cache: StartCache
) -> None:
    content = os.urandom(30 << 20)
    (tree / "large").write_bytes(content)
    (tree / "sub").mkdir()
    (tree / "sub" / "small").write_bytes(b"small")
    shutil.copytree(tree, tmp_path / "copy")
    # The copy has other inode numbers and change times, but the same sizes and modification times.
    first = start_cache(tree)
    cache = start_cache(first.path, tmp_path / "copy", options=["--attr-ttl=0.2", "--read-timeout=500ms"])
    cache.expected = ["failed: ", "reading from ", "is dead"]
    numbers = {path: (cache.path / path).stat().st_ino for path in ("large", "sub", "sub/small")}
    with (cache.path / "large").open("rb", buffering=0) as file:
        read = file.read(5 << 20)
        first.process.send_signal(failure)
        while piece := file.read(1 << 20):
            read += piece
    assert read == content
    assert (cache.path / "sub" / "small").read_bytes() == b"small"
    assert sorted(os.listdir(cache.path)) == ["file", "large", "sub"]
    assert {path: (cache.path / path).stat().st_ino for path in numbers} == numbers
    # On a busy machine it may have been left before, for being slow, and is only probed.
    wait_until(lambda: cache.status()["servers"][0]["state"] in ("suspect", "dead"), "it is noticed", 10)
    one, other = cache.status()["servers"]
    assert not one["current"]
    assert (other["state"], other["current"]) == ("good", True)
    assert one["errors"] + one["resent"] + one["hedges"] > 0
    assert other["bytes"] > 0
    # A process cannot end while a stopped FUSE daemon owes it the answer to a close.
    first.process.send_signal(signal.SIGCONT)


@kinds.live
def test_copies_that_differ_are_not_mixed(tree: Path, tmp_path: Path, start_cache: StartCache) -> None:
    content = os.urandom(30 << 20)
    (tree / "large").write_bytes(content)
    shutil.copytree(tree, tmp_path / "copy")
    with (tmp_path / "copy" / "large").open("r+b") as file:
        file.write(b"other")
    first = start_cache(tree)
    cache = start_cache(first.path, tmp_path / "copy", options=["--attr-ttl=60", "--give-up=1s"])
    cache.expected = ["failed: ", "reading from ", "is dead", "/large differs"]
    with (cache.path / "large").open("rb", buffering=0) as file:
        assert file.read(1 << 20) == content[: 1 << 20]
        first.process.kill()
        with pytest.raises(OSError, match=r"not connected|Input/output|Stale|aborted"):
            while file.read(1 << 20):
                pass
    assert cache.status()["servers"][1]["reads"] == 0
