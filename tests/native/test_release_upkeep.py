"""What is done with releases once they are built: shown, verified, compared, signed, removed."""

import fcntl
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from releases import BLOCK, build, run, verify

from orioncache.release import bundling
from orioncache.release.bundling import Piece
from orioncache.release.content import open_manifest

MIB = 1 << 20


@pytest.fixture
def tree(tmp_path):
    top = tmp_path / "tree"
    (top / "d").mkdir(parents=True)
    rng = random.Random(1)
    for name, length in (("one", 100), ("two", 3 * BLOCK), ("d/three", BLOCK + 1), ("d/gone", MIB)):
        (top / name).write_bytes(rng.randbytes(length))
    (top / "link").symlink_to("one")
    return top


@pytest.fixture
def store(tmp_path, tree):
    build(tree, tmp_path / "store", "1")
    return tmp_path / "store"


def room(store):
    return sum(path.stat().st_blocks * 512 for path in (store / "packs").iterdir())


def test_list_and_show(store):
    (listed,) = json.loads(run("list", store, "--json").stdout)
    assert (listed["name"], listed["version"], listed["inodes"], listed["signed"]) == ("t", "1", 7, False)
    shown = json.loads(run("show", store, "t", "--json").stdout)
    assert shown["digest"] == listed["digest"]
    assert shown["content_bytes"] == 100 + 4 * BLOCK + 1 + MIB
    assert shown["manifest_bytes"] == (store / "releases/t/1/manifest").stat().st_size
    assert run("list", store).stdout.splitlines()[1].split()[:2] == ["t", "1"]
    assert "block size" in run("show", store, "t", "1").stdout


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def test_verify_names_every_bad_file(store):
    (pack,) = (store / "packs").iterdir()
    # In the tree's order: one, two, then what is in d: gone, three.
    flip(pack, 50)
    flip(pack, 100 + 3 * BLOCK + MIB)
    done = run("verify", store, "t", "1", code=1)
    assert "one: content differs" in done.stdout
    assert "d/three: content differs" in done.stdout
    assert "two" not in done.stdout
    (report,) = json.loads(run("verify", store, "--json", code=1).stdout)
    assert (report["bad_blocks"], report["bad_files"]) == (2, ["one", "d/three"])


def test_verify_misses_a_pack_and_the_end_of_one(store):
    (pack,) = (store / "packs").iterdir()
    os.truncate(pack, 100 + 3 * BLOCK)
    done = run("verify", store, code=1)
    assert "should have" in done.stdout
    assert "d/gone: content is missing" in done.stdout
    assert " one:" not in done.stdout
    next((store / "releases/t/1/packs").iterdir()).unlink()
    assert "No such file" in run("verify", store, code=1).stdout


@pytest.mark.parametrize("at", [0, 9, 100, 490, 600, -5])
def test_verify_sees_any_change_of_the_manifest(store, at):
    flip(store / "releases/t/1/manifest", at)
    assert "manifest:" in run("verify", store, "t", "1", code=1).stdout


def test_diff(store, tree):
    (tree / "one").write_bytes(b"changed")
    (tree / "d/gone").unlink()
    (tree / "d/new\n").write_bytes(b"12345")
    (tree / "two").chmod(0o600)
    (tree / "link").unlink()
    (tree / "link").mkdir()
    (tree / "link/inside").touch()
    os.utime(tree, ns=(0, tree.stat().st_mtime_ns + 1))
    build(tree, store, "2")
    found = json.loads(run("diff", store, "t", "1", "2", "--json").stdout)
    changes = {(each["kind"], each["path"]): each["bytes"] for each in found["changes"]}
    assert changes == {
        ("metadata", "."): 0,
        ("metadata", "d"): 0,
        ("removed", "d/gone"): MIB,
        ("added", "d/new\n"): 5,
        ("removed", "link"): 0,
        ("added", "link/"): 0,
        ("added", "link/inside"): 0,
        ("changed", "one"): 7,
        ("metadata", "two"): 0,
    }
    assert found["totals"]["added"] == {"count": 3, "bytes": 5}
    assert "d/new\\x0a" in run("diff", store, "t", "1", "2").stdout
    assert run("diff", store, "t", "1", "1", "--summary").stdout.startswith("0 added")


def test_what_nodes_may_use_is_not_removed(store, tree):
    assert "newest version" in run("remove", store, "t", "1", code=1).stderr
    (tree / "one").write_bytes(b"changed")
    build(tree, store, "2")
    manifest = store / "releases/t/1/manifest"
    with manifest.open() as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        assert "mounted on this machine" in run("remove", store, "t", "1", code=1).stderr
        assert json.loads(run("list", store, "t", "--json").stdout)[1]["mounted"]
    # A node read it two days ago; a server's relatime keeps that, however its clock ran since.
    ctime = manifest.stat().st_ctime
    future = time.time() + 3600
    os.utime(manifest, (future, ctime - 10))
    assert "was read" in run("remove", store, "t", "1", code=1).stderr
    assert "would be refused" in run("remove", store, "t", "1", "--dry-run").stdout
    run("remove", store, "t", "1", "--force")
    assert [each["version"] for each in json.loads(run("list", store, "--json").stdout)] == ["2"]
    verify(store)


def test_our_own_tools_do_not_count_as_readers(store, tree):
    (tree / "one").write_bytes(b"changed")
    build(tree, store, "2")
    for words in (("verify",), ("gc",), ("list",)):
        run(*words, store)
    run("diff", store, "t", "1", "2")
    run("show", store, "t", "1")
    assert [each["last_read"] for each in json.loads(run("list", store, "--json").stdout)] == [None, None]
    run("remove", store, "t", "1")


def test_gc_frees_packs_that_nobody_links(store, tree):
    (tree / "two").write_bytes(bytes(range(256)) * 1000)
    build(tree, store, "2")
    before = room(store)
    assert json.loads(run("gc", store, "--json").stdout)["bytes"] == 0
    run("remove", store, "t", "2", "--force")
    would = json.loads(run("gc", store, "--dry-run", "--json").stdout)
    assert len(would["packs"]) == 1
    assert room(store) == before
    freed = json.loads(run("gc", store, "--json").stdout)
    assert freed | {"dry_run": True} == would
    assert room(store) == before - freed["pack_bytes"]
    verify(store)


def test_gc_frees_blocks_that_nobody_uses(store, tree):
    (tree / "d/gone").unlink()
    build(tree, store, "2")
    run("remove", store, "t", "1", "--force")
    before = room(store)
    would = json.loads(run("gc", store, "--dry-run", "--json").stdout)
    assert MIB - 8192 < would["hole_bytes"] <= MIB
    freed = json.loads(run("gc", store, "--json").stdout)
    assert freed["hole_bytes"] == would["hole_bytes"] == before - room(store)
    verify(store)
    assert json.loads(run("gc", store, "--json").stdout)["bytes"] == 0
    # What comes back is written anew.
    (tree / "d/gone").write_bytes(random.Random(9).randbytes(MIB))
    build(tree, store, "3")
    verify(store)


def test_a_pack_that_gc_made_holes_in_is_not_taken_for_whole(tmp_path, tree):
    # Small files have the same digests whatever the block size, so both builds make the same pack.
    top, store = tmp_path / "small", tmp_path / "store"
    top.mkdir()
    for number in range(40):
        (top / str(number)).write_bytes(random.Random(number).randbytes(4096))
    build(top, store, "1", "--block-size", "64k")
    for number in range(1, 40):
        (top / str(number)).rename(tmp_path / str(number))
    build(top, store, "2", "--block-size", "64k")
    run("remove", store, "t", "1", "--force")
    run("gc", store)
    for number in range(1, 40):
        (tmp_path / str(number)).rename(top / str(number))
    build(top, store, "3", "--block-size", "128k")
    verify(store)


def test_gc_clears_what_killed_builds_and_removals_left(store):
    for folder in ("builds/0123", "removed/t-0-ab"):
        (store / folder).mkdir()
        (store / folder / "new.pack").write_bytes(bytes(range(256)) * 100)
    freed = json.loads(run("gc", store, "--json").stdout)
    assert freed["leftovers"] == ["builds/0123", "removed/t-0-ab"]
    assert not list((store / "builds").iterdir())
    verify(store)


def bundle(store, version="1", role="default"):
    """A bundle of a release of the tree, with all of file `two`; its path."""
    release = store / "releases/t" / version
    manifest = open_manifest(release)
    pieces = [Piece(manifest.lookup(0, b"two"), 0, 3 * BLOCK, 0)]
    return bundling.write(release, manifest, role, pieces, 2).path


def test_bundles_are_listed_shown_and_verified(store):
    bundle(store)
    path = bundle(store, role="kiosk")
    (listed,) = json.loads(run("list", store, "--json").stdout)
    assert listed["bundles"] == ["default", "kiosk"]
    assert "default, kiosk" in run("list", store).stdout
    facts = json.loads(run("show", store, "t", "--json").stdout)["bundles"][1]
    assert (facts["role"], facts["frames"], facts["raw_bytes"], facts["boots"], facts["signed"]) == (
        "kiosk", 2, 3 * BLOCK, 2, False,
    )  # fmt: skip
    assert facts["bytes"] == path.stat().st_size
    assert "2 frames, from 2 boots, not signed" in run("show", store, "t").stdout
    assert "2 bundles" in run("verify", store).stdout
    flip(path, path.stat().st_size - 9)
    done = run("verify", store, code=1)
    assert "bundles/kiosk.bundle: frame 1 does not have its digest" in done.stdout
    assert "default.bundle" not in done.stdout
    flip(path, 520)
    assert "kiosk.bundle: it does not have the digest" in run("verify", store, code=1).stdout
    assert "kiosk (broken: " in run("show", store, "t").stdout


def test_a_damaged_block_is_told_of_a_bundle_too(store):
    bundle(store)
    (pack,) = (store / "packs").iterdir()
    flip(pack, 200)
    said = run("verify", store, code=1).stdout
    assert "two: content differs" in said
    assert "default.bundle: two: a block of it does not have its digest" in said


def test_gc_keeps_bundles_and_clears_what_killed_writers_left(store):
    path = bundle(store)
    aside = path.with_name(".default.bundle.abcd")
    aside.write_bytes(bytes(range(256)) * 100)
    freed = json.loads(run("gc", store, "--dry-run", "--json").stdout)
    assert freed["leftovers"] == ["releases/t/1/bundles/.default.bundle.abcd"]
    assert aside.exists()
    assert json.loads(run("gc", store, "--json").stdout)["leftovers"] == freed["leftovers"]
    assert list(path.parent.iterdir()) == [path]
    verify(store)
    run("remove", store, "t", "1", "--force")
    assert not list((store / "removed").iterdir())


def test_bundles_are_signed_with_their_release(tmp_path, tree):
    store, key = tmp_path / "store", tmp_path / "key"
    build(tree, store, "1", "--digest", "sha256")
    path = bundle(store)
    run("keygen", key)
    run("sign", store, "t", "--key", key)
    assert path.with_name("default.bundle.sig").stat().st_size == 64
    run("verify", store, "--key", f"{key}.pub")
    assert json.loads(run("show", store, "t", "--json").stdout)["bundles"][0]["signed"]
    # Another one by somebody who has no key.
    bundle(store)
    assert "default.bundle: it is not signed" in run("verify", store, "--key", f"{key}.pub", code=1).stdout
    run("sign", store, "t", "--key", key)
    flip(path.with_name("default.bundle.sig"), 9)
    assert "default.bundle: it is not signed" in run("verify", store, "--key", f"{key}.pub", code=1).stdout
    flip(path, 600)
    assert "does not have the digest" in run("sign", store, "t", "--key", key, code=1).stderr


def test_gc_does_nothing_if_a_manifest_is_damaged(store):
    flip(store / "releases/t/1/manifest", 20)
    done = run("gc", store, code=1)
    assert "nobody knows what it uses" in done.stderr
    assert list((store / "packs").iterdir())


def test_sign_and_verify(tmp_path, tree):
    store, key = tmp_path / "store", tmp_path / "key"
    build(tree, store, "1", "--digest", "blake2b")
    run("keygen", key)
    run("keygen", tmp_path / "other")
    assert key.stat().st_mode & 0o777 == 0o600
    assert "there already" in run("keygen", key, code=1).stderr
    assert "there is none" in run("verify", store, "--key", f"{key}.pub", code=1).stdout
    run("sign", store, "t", "--key", key)
    run("verify", store, "--key", f"{key}.pub")
    assert "not by this key" in run("verify", store, "--key", tmp_path / "other.pub", code=1).stdout
    assert json.loads(run("list", store, "--json").stdout)[0]["signed"]
    assert (store / "releases/t/1/manifest.sig").stat().st_size == 64
    flip(store / "releases/t/1/manifest.sig", 3)
    assert "not by this key" in run("verify", store, "--key", f"{key}.pub", code=1).stdout


def test_what_cannot_be_signed(store, tmp_path):
    run("keygen", tmp_path / "key")
    assert "anybody can forge" in run("sign", store, "t", "--key", tmp_path / "key", code=1).stderr
    (tmp_path / "bad").write_text("no key\n")
    assert "holds no secret key" in run("sign", store, "t", "--key", tmp_path / "bad", code=1).stderr
    assert "is not there" in run("sign", store, "t", "--key", tmp_path / "none", code=1).stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("list", "{tree}"), "is no store"),
        (("list", "{tree}/nothing"), "is no store"),
        (("show", "{store}", "x"), "has no release x"),
        (("show", "{store}", "t", "9"), "it has t 1"),
        (("verify", "{store}", "x"), "has no release x"),
        (("remove", "{store}", "t", "../1"), "is no version"),
        (("diff", "{store}", "t", "1", "2"), "has no release t 2"),
    ],
)
def test_mistakes_get_a_line_and_a_mend(store, tree, words, said):
    done = run(*(word.format(store=store, tree=tree) for word in words), code=1)
    assert said in done.stderr
    assert "mend:" in done.stderr


@pytest.mark.parametrize(
    "name", ["build", "list", "show", "verify", "diff", "remove", "gc", "sign", "keygen"]
)
def test_every_subcommand_has_help_with_examples(name):
    said = run(name, "--help").stdout
    assert "Examples:" in said
    assert f"orioncache release {name}" in said


def test_a_replica_by_rsync_is_as_good(store, tree, tmp_path):
    (tree / "one").write_bytes(b"changed")
    build(tree, store, "2")
    subprocess.run(["rsync", "-aHS", f"{store}/", tmp_path / "copy"], check=True)
    verify(tmp_path / "copy")
    assert room(tmp_path / "copy") == room(store)
    assert all(path.stat().st_nlink > 1 for path in (tmp_path / "copy/packs").iterdir())
