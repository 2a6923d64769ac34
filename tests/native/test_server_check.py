"""`orioncache server check`: whole copies of a release, good and spoilt."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from releases import BLOCK, TOP, build
from releases import run as release

from orioncache.mounts import mounted_from
from orioncache.release import replicas
from tests.program import COMMAND

MIB = 1 << 20


def check(*arguments, code=0):
    done = subprocess.run(
        [*COMMAND, "server", "check", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(TOP)},
        timeout=120,
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store with releases t 1 and t 2."""
    top = tmp_path_factory.mktemp("made")
    tree = top / "tree"
    (tree / "d").mkdir(parents=True)
    (tree / "one").write_bytes(os.urandom(100))
    (tree / "d/many").write_bytes(os.urandom(10 * BLOCK))
    build(tree, top / "store", "1", "--digest", "blake2b")
    (tree / "one").write_bytes(os.urandom(100))
    build(tree, top / "store", "2", "--digest", "blake2b")
    return top / "store"


@pytest.fixture
def copies(made, tmp_path):
    """Two copies of t 1."""
    for name in ("a", "b"):
        shutil.copytree(made / "releases/t/1", tmp_path / name)
    return tmp_path / "a", tmp_path / "b"


def pack(copy):
    (found,) = (copy / "packs").iterdir()
    return found


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def test_good_copies(copies):
    done = check(*copies)
    assert [line.split(": ")[1][:8] for line in done.stdout.splitlines()] == ["good, t "] * 2
    found = json.loads(check(*copies, "--json").stdout)
    assert found["ok"] is True
    assert [each["blocks"] for each in found["sources"]] == [11, 11]
    assert len({each["digest"] for each in found["sources"]}) == 1
    check(copies[0], "--release", found["sources"][0]["digest"][:8])


def test_each_bad_block_is_named_with_its_file(copies):
    a, b = copies
    # one has the first 100 bytes or the last ones; many has the blocks behind each other.
    first = 0 if pack(b).stat().st_size - 10 * BLOCK == 100 and _begins_with_one(b) else None
    start = 100 if first == 0 else 0
    for block in (2, 3, 7):
        flip(pack(b), start + block * BLOCK + 5)
    done = check(a, b, code=1)
    assert f"{a}: good" in done.stdout
    assert f"{b}: d/many: content differs from its digest: blocks 2-3, 7" in done.stdout
    assert "one" not in done.stdout
    assert "mend:" in done.stderr


def _begins_with_one(copy):
    from orioncache.native.manifest import NativeManifest
    from orioncache.release.packs import used_ranges

    assert NativeManifest((copy / "manifest").read_bytes()).blocks == 11
    return next(iter(used_ranges(copy / "manifest")))[2] == 100


def test_missing_short_and_extra_files(copies):
    a, b = copies
    (b / "packs/x.pack").write_bytes(b"")
    (b / "notes").write_text("")
    os.truncate(pack_of(b), 100 + 4 * BLOCK)
    said = check(a, b, code=1).stdout
    assert "packs/x.pack: it is no part of the release" in said
    assert "notes: it is no part of the release" in said
    assert "bytes and should have" in said
    assert "d/many: content is missing: blocks" in said
    pack_of(b).unlink()
    assert "No such file or directory" in check(a, b, code=1).stdout
    shutil.rmtree(b / "packs")
    assert "packs" in check(a, b, code=1).stdout


def pack_of(copy):
    (found,) = (path for path in (copy / "packs").iterdir() if path.name != "x.pack")
    return found


def test_other_releases_and_spoilt_manifests(made, copies):
    a, b = copies
    other = made / "releases/t/2"
    said = check(a, other, code=1).stdout
    assert f"{other}: it is another release: t 2 (" in said
    assert f"and {a} is t 1 (" in said
    assert "it is another release" in check(a, "--release", "00000000", code=1).stdout
    flip(b / "manifest", 600)
    assert f"{b}: manifest: it does not have the digest" in check(b, a, code=1).stdout
    os.truncate(b / "manifest", 100)
    assert f"{b}: manifest: " in check(b, a, code=1).stdout
    (b / "manifest").unlink()
    assert f"{b}: manifest: No such file" in check(b, a, code=1).stdout
    assert f"{b}/none: No such file" in check(f"{b}/none", a, code=1).stdout


def test_signatures(copies, tmp_path):
    a, b = copies
    key = tmp_path / "key"
    release("keygen", key)
    assert "signature: there is none" in check(a, b, "--key", f"{key}.pub", code=1).stdout
    (a / "manifest.sig").write_bytes(bytes(64))
    said = check(a, b, code=1).stdout
    assert f"{b}: manifest.sig: it is missing, and {a} has it" in said
    assert "not by this key" in check(a, b, "--key", f"{key}.pub", code=1).stdout


def test_one_copy_under_two_names(copies, tmp_path):
    a, _ = copies
    (tmp_path / "link").symlink_to("a")
    assert "is named twice" in check(a, a, code=1).stderr
    assert f"{tmp_path}/link is the same directory as {a}" in check(a, tmp_path / "link", code=1).stderr
    assert "is not mounted" in check("10.0.0.1:/srv", code=1).stderr


@pytest.mark.parametrize(
    "words", [["--rate", "x"], ["--jobs", "0"], ["--release", "12"], ["--release", "xyzxyzxyz"]]
)
def test_wrong_words(copies, words):
    done = check(copies[0], *words, code=2)
    assert "error: argument" in done.stderr


def test_the_rate_is_kept(copies):
    a, _ = copies
    (found,) = replicas.check([str(a)], rate=2 * MIB, jobs=2)
    assert found.good
    assert found.bytes == 10 * BLOCK + 100
    # No upper bound: this machine may be busy.
    assert found.seconds > found.bytes / (2 * MIB)


def test_a_directory_that_does_not_answer_is_told(copies, monkeypatch):
    a, b = map(str, copies)
    real = replicas.read_quietly

    def slow(path):
        if str(path).startswith(b):
            time.sleep(1)
        return real(path)

    monkeypatch.setattr(replicas, "read_quietly", slow)
    monkeypatch.setattr(replicas, "PATIENCE", 0.2)
    good, bad = replicas.check([a, b])
    assert good.good
    assert bad.problems == ["no answer within 0.2 s"]


def test_servers_are_told_apart_by_what_is_mounted(monkeypatch):
    found = {"/m/a": "10.0.0.1:/srv", "/m/b": "10.0.0.1:/srv2", "/m/c": "10.0.0.2:/srv", "/m/d": "/dev/sda"}
    monkeypatch.setattr(replicas, "mounted_from", found.__getitem__)
    assert replicas.same_machine(["/m/a", "/m/c", "/m/d"]) == []
    assert replicas.same_machine(["/m/a", "/m/c", "/m/b"]) == ["/m/a and /m/b are both of 10.0.0.1"]
    assert mounted_from("/proc/self/x") == "proc"
