"""Releases as they are built: what is in them, what is shared, what is read again."""

import fcntl
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import needs
from fuse import oddities
from releases import BLOCK, Release, build, command, environment, run, verify

AGE_NS = 3600 * 10**9


@pytest.fixture
def tree(tmp_path):
    """A small tree of everything that needs no rights."""
    top = tmp_path / "tree"
    (top / "a" / "b").mkdir(parents=True)
    (top / "a" / "b" / "empty").touch()
    (top / "a" / "small").write_bytes(b"small")
    (top / "a" / "same").write_bytes(b"small")
    (top / "large").write_bytes(random.Random(1).randbytes(5 * BLOCK + 17))
    (top / "zeros").write_bytes(bytes(3 * BLOCK + 5))
    os.link(top / "large", top / "a" / "hard")
    (top / "link").symlink_to("a/small")
    return top


def settle(top):
    """Waits until the builder takes what is there for old enough to be known by its times.

    A change right after a build could leave the times as they were, so what is younger is always read again.
    """
    probe = top.parent / "probe"
    newest = max(os.lstat(path).st_ctime_ns for path in [top, *top.rglob("*")])
    while True:
        probe.touch()
        if os.stat(probe).st_ctime_ns - newest > 100_000_000:
            return


@needs.ROOT
def test_a_tree_of_oddities_comes_back_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(oddities, "MANY", 500)
    top = oddities.build(tmp_path / "tree")
    build(top, tmp_path / "store", "1")
    release = Release(tmp_path / "store/releases/t/1")
    shown, seen, inodes = release.tree(), 0, {}
    for path, directory, name in oddities.walk(top):
        facts, number = oddities._facts(directory, name), shown[path]
        inode = release.manifest.inode(number)
        assert inode.mode == facts["mode"], path
        assert (inode.uid, inode.gid) == (facts["uid"], facts["gid"]), path
        assert inode.mtime * 10**9 + inode.mtime_nsec == facts["mtime"], path
        assert inode.nlink == facts["nlink"], path
        assert inodes.setdefault(facts["ino"], number) == number, path
        if stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode):
            major, minor = os.major(facts["rdev"]), os.minor(facts["rdev"])
            assert inode.rdev == (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12
        if stat.S_ISLNK(inode.mode):
            assert release.manifest.target(number) == facts["target"]
        assert {each: release.manifest.xattr(number, os.fsencode(each)) for each in facts["xattrs"]} == facts[
            "xattrs"
        ]
        if stat.S_ISREG(inode.mode):
            assert inode.size == facts["size"], path
            assert release.manifest.file_is_good(number)
            if inode.size < oddities.GIB:
                opener = lambda at, flags, fd=directory: os.open(at, flags, dir_fd=fd)  # noqa: E731
                with open(name, "rb", opener=opener) as file:
                    assert release.content(number) == file.read(), path
        seen += 1
    assert seen > 100
    assert len(shown) == seen + 1 + 500  # the root, and what is in `many`, which is not walked
    sparse = release.find("sparse")
    assert release.manifest.allocated(sparse) == 5 * BLOCK + 12345
    verify(tmp_path / "store")


def test_equal_content_is_stored_once(tmp_path, tree):
    built = build(tree, tmp_path / "store", "1")
    assert built["new_bytes"] == built["stored_bytes"] == 5 + 5 * BLOCK + 17
    assert built["files"] == 5
    release = Release(built["path"])
    assert release.find("a/hard") == release.find("large")
    assert release.manifest.inode(release.find("large")).nlink == 2
    assert sum(path.stat().st_size for path in (tmp_path / "store/packs").iterdir()) == built["new_bytes"]


def test_a_second_version_costs_its_changes(tmp_path, tree):
    store = tmp_path / "store"
    build(tree, store, "1")
    with (tree / "large").open("r+b") as file:
        file.seek(2 * BLOCK)
        file.write(b"another")
    (tree / "new").write_bytes(b"n" * 1000)
    built = build(tree, store, "2")
    assert built["new_bytes"] == BLOCK + 1000
    assert (
        sum(path.stat().st_size for path in (store / "packs").iterdir()) == 5 + 5 * BLOCK + 17 + BLOCK + 1000
    )
    # Each release links what it needs, and no file is there twice.
    assert len(list((store / "releases/t/2/packs").iterdir())) == 2
    assert all(path.stat().st_nlink >= 2 for path in (store / "packs").iterdir())
    assert (
        Release(built["path"]).content(Release(built["path"]).find("large")) == (tree / "large").read_bytes()
    )
    verify(store)


def test_a_rebuild_reads_only_what_changed(tmp_path, tree):
    store = tmp_path / "store"
    settle(tree)
    assert build(tree, store, "1")["hashed_files"] == 4
    assert build(tree, store, "2")["hashed_files"] == 0
    was = (tree / "a/small").stat()
    (tree / "a/small").write_bytes(b"SMALL")
    os.utime(tree / "a/small", ns=(was.st_atime_ns, was.st_mtime_ns))  # ctime gives it away
    built = build(tree, store, "3")
    assert (built["hashed_files"], built["unchanged_files"]) == (1, 3)
    assert Release(built["path"]).content(Release(built["path"]).find("a/small")) == b"SMALL"
    assert build(tree, store, "4", "--rehash")["hashed_files"] == 4
    verify(store)


def test_what_changed_within_a_clock_tick_is_read_again(tmp_path, tree):
    from orioncache.release.build import build as build_here
    from orioncache.release.store import Store

    store = Store.create(tmp_path / "store")
    settle(tree)
    (tree / "a/small").write_bytes(b"fresh")
    build_here(tree, store, "t", "1")
    assert build_here(tree, store, "t", "2").progress.files_done == 1


@pytest.mark.parametrize("options", [(), ("--jobs", "1"), ("--jobs", "7")])
def test_the_same_tree_gives_the_same_bytes(tmp_path, tree, options):
    manifests = []
    for turn in range(2):
        store = tmp_path / f"store-{turn}"
        build(tree, store, "1", *options)
        manifests.append((store / "releases/t/1/manifest").read_bytes())
    assert manifests[0] == manifests[1]


def test_the_number_of_threads_does_not_show(tmp_path):
    top = tmp_path / "tree"
    rng = random.Random(2)
    for number in range(300):
        path = top / f"{number % 7}" / f"{number % 11}" / f"{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.choice((0, 10, 5000, 200_000))))
    manifests = set()
    for jobs in (1, 2, 5):
        built = build(top, tmp_path / f"store-{jobs}", "1", "--jobs", jobs)
        manifests.add((Path(built["path"]) / "manifest").read_bytes())
    assert len(manifests) == 1


def test_a_sparse_file_of_a_terabyte_is_read_in_no_time(tmp_path):
    top = tmp_path / "tree"
    top.mkdir()
    with (top / "huge").open("wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 39)
        file.write(b"in the middle")
        file.seek((1 << 40) - 4)
        file.write(b"end.")
    built = build(top, tmp_path / "store", "1")
    assert built["stored_bytes"] <= 4 * BLOCK
    release = Release(built["path"])
    number = release.find("huge")
    assert release.manifest.inode(number).size == 1 << 40
    block = release.manifest.block(number, (1 << 40) // BLOCK - 1)
    with (release.path / "packs" / release.packs[block.pack]).open("rb") as pack:
        pack.seek(block.offset + block.length - 4)
        assert pack.read(4) == b"end."


@pytest.mark.parametrize("kind", ["blake2b", "sha256"])
@pytest.mark.parametrize("size", ["4k", "1m"])
def test_other_digests_and_blocks(tmp_path, tree, kind, size):
    build(tree, tmp_path / "store", "1")
    built = build(tree, tmp_path / "store", "2", "--digest", kind, "--block-size", size)
    assert built["shared_bytes"] == 0  # nothing to share with
    verify(tmp_path / "store")


def test_names_of_all_bytes(tmp_path):
    top = tmp_path / "tree"
    top.mkdir()
    names = [bytes([code]) for code in range(1, 256) if code not in b"/."] + [
        b"x" * 255,
        b"new\nline",
        b"...",
    ]
    for name in names:
        (Path(os.fsdecode(bytes(top) + b"/" + name))).write_bytes(name)
    release = Release(build(top, tmp_path / "store", "1")["path"])
    assert {name: release.content(number) for name, number in release.tree().items() if name} == {
        name: name for name in names
    }


def test_what_is_excluded(tmp_path, tree):
    release = Release(build(tree, tmp_path / "store", "1", "--exclude", "sm*", "--exclude", "/a/b")["path"])
    assert set(release.tree()) == {b"", b"a", b"a/same", b"a/hard", b"large", b"zeros", b"link"}


@needs.ROOT
def test_other_file_systems_are_not_entered_unless_told(tmp_path, tree):
    (tree / "mounted").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", tree / "mounted"], check=True)
    try:
        (tree / "mounted/inside").write_bytes(b"inside")
        assert b"mounted/inside" not in Release(build(tree, tmp_path / "s", "1")["path"]).tree()
        built = build(tree, tmp_path / "s", "2", "--cross-file-systems")
        assert b"mounted/inside" in Release(built["path"]).tree()
    finally:
        subprocess.run(["umount", tree / "mounted"], check=True)


def test_a_file_that_never_stands_still(tmp_path, tree):
    changing = tree / "log"
    changing.write_bytes(random.Random(3).randbytes(40 << 20))
    code = f"import os\nwhile True: os.utime({str(changing)!r})"
    with subprocess.Popen([sys.executable, "-c", code]) as writer:
        try:
            done = run("build", tree, tmp_path / "store", "--name", "t", code=1)
        finally:
            writer.kill()
    assert "log: it changes whenever it is read" in done.stderr
    assert "mend:" in done.stderr
    assert json.loads(run("list", tmp_path / "store", "--json").stdout) == []


@needs.ROOT
def test_a_full_disk(tmp_path, tree):
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", small], check=True)
    try:
        store = small / "store"
        build(tree, store, "1")
        (tree / "more").write_bytes(random.Random(4).randbytes(30 << 20))
        done = run("build", tree, store, "--name", "t", "--version", "2", code=1)
        assert "is full" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 2
        # All is as it was, and there is room again.
        assert list((store / "builds").iterdir()) == []
        assert [each["version"] for each in json.loads(run("list", store, "--json").stdout)] == ["1"]
        verify(store)
        (tree / "more").unlink()
        build(tree, store, "3")
        # Where nothing could be shared, it is known beforehand.
        (tree / "more").write_bytes(random.Random(4).randbytes(30 << 20))
        other = small / "other"
        assert "free" in run("build", tree, other, "--name", "t", code=1).stderr
        assert list((other / "packs").iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)


def big_tree(top, count=160):
    rng = random.Random(5)
    for number in range(count):
        path = top / f"{number // 20}" / f"{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.choice((1000, 50_000, 1_500_000))))
    settle(top)
    return sum(path.stat().st_size for path in top.rglob("*") if path.is_file())


def size_of(path):
    """Bytes of a file; None if it is gone, as a pack is when its build has ended."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def kill_at(top, store, version, reached):
    """Starts a build and kills it when its pack has so many bytes; whether it was in time for that."""
    with subprocess.Popen(
        command("build", top, store, "--name", "t", "--version", version),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
    ) as child:
        while child.poll() is None:
            packs = [
                size for path in (store / "builds").glob("*/new.pack") if (size := size_of(path)) is not None
            ]
            if any(size >= reached for size in packs):
                child.kill()
        return child.returncode != 0


def test_a_killed_build_is_gone_on_with(tmp_path):
    top, store = tmp_path / "tree", tmp_path / "store"
    total = big_tree(top)
    killed = 0
    for share in (0.0, 0.2, 0.5, 0.7, 0.9):
        # Each begins where the last one was killed.
        if kill_at(top, store, f"killed-{share}", int(total * share)):
            killed += 1
            left = list((store / "builds").iterdir())
            assert len(left) == 1
    assert killed >= 3
    built = build(top, store, "whole")
    assert built["resumed_bytes"] > 0
    assert built["unchanged_files"] > 0
    assert built["hashed_files"] < 160
    assert list((store / "builds").iterdir()) == []
    release = Release(built["path"])
    for path in top.rglob("*"):
        if path.is_file():
            assert release.content(release.find(path.relative_to(top))) == path.read_bytes()
    verify(store)


def test_a_build_may_be_killed_at_any_moment(tmp_path):
    top, store = tmp_path / "tree", tmp_path / "store"
    big_tree(top, 40)
    rng = random.Random(6)
    for turn in range(12):
        (top / "changing").write_bytes(rng.randbytes(300_000))
        with subprocess.Popen(
            command("build", top, store, "--name", "t", "--version", str(turn)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
        ) as child:
            try:
                child.wait(rng.uniform(0.02, 0.25))
            except subprocess.TimeoutExpired:
                child.kill()
        if (store / "format").exists():
            verify_any(store)
    built = build(top, store, "last")
    assert (
        Release(built["path"]).content(Release(built["path"]).find("changing"))
        == (top / "changing").read_bytes()
    )
    verify(store)
    run("gc", store)
    verify(store)
    assert list((store / "builds").iterdir()) == []


def verify_any(store):
    if any((store / "releases").glob("*/*/manifest")):
        verify(store)


def test_garbage_from_a_killed_build_is_thrown_away(tmp_path, tree):
    store = tmp_path / "store"
    top = tmp_path / "big"
    total = big_tree(top)
    assert kill_at(top, store, "1", total // 2)
    (left,) = (store / "builds").iterdir()
    size = (left / "new.pack").stat().st_size
    with (left / "new.pack").open("r+b") as pack:
        pack.seek(1000)
        pack.write(b"rubbish")
    with (left / "journal").open("ab") as journal:
        journal.write(b"half a frame")
    built = build(top, store, "2")
    assert 0 < built["resumed_bytes"] < size
    verify(store)


def test_an_interrupted_build_says_so_and_is_gone_on_with(tmp_path):
    top, store = tmp_path / "tree", tmp_path / "store"
    (top / "d").mkdir(parents=True)
    (top / "d/pipe").mkdir()
    with (top / "large").open("wb") as file:
        for _ in range(30):
            file.write(os.urandom(10 << 20))
    with subprocess.Popen(
        command("build", top, store, "--name", "t", "--version", "1"),
        stderr=subprocess.PIPE,
        env=environment(),
    ) as child:
        while child.poll() is None and not any(
            path.stat().st_size > 20 << 20 for path in (store / "builds").glob("*/new.pack")
        ):
            pass
        child.terminate()
        _, said = child.communicate(timeout=60)
    assert child.returncode == 130
    assert b"interrupted" in said
    assert build(top, store, "2")["resumed_bytes"] > 0


def test_concurrent_builds(tmp_path, tree):
    store = tmp_path / "store"
    big_tree(tree / "more", 60)
    children = [
        subprocess.Popen(
            command("build", tree, store, "--name", "t", "--version", str(number)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        for number in range(4)
    ]
    for child in children:
        assert child.wait(120) == 0, child.stderr.read()
        child.stderr.close()
    verify(store)
    run("gc", store)
    verify(store)
    assert len({Path(path).read_bytes()[480:] for path in store.glob("releases/t/*/manifest")}) >= 1


def test_two_builds_of_one_version(tmp_path, tree):
    store = tmp_path / "store"
    big_tree(tree / "more", 60)
    children = [
        subprocess.Popen(
            command("build", tree, store, "--name", "t", "--version", "1"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
        )
        for _ in range(2)
    ]
    assert sorted(child.wait(120) for child in children) in ([0, 1],)
    verify(store)


def test_gc_waits_for_no_build(tmp_path, tree):
    store = tmp_path / "store"
    build(tree, store, "1")
    with (store / "lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        assert "a build is at work" in run("gc", store, code=1).stderr
    with (store / "lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "gc is at work" in run("build", tree, store, "--name", "t", code=1).stderr


def test_a_damaged_scan_or_manifest_is_not_believed(tmp_path, tree):
    store = tmp_path / "store"
    settle(tree)
    build(tree, store, "1")
    scan = store / "releases/t/1/scan"
    data = bytearray(scan.read_bytes())
    data[100] ^= 1
    scan.write_bytes(data)
    assert build(tree, store, "2")["hashed_files"] == 4
    for version in "12":
        manifest = store / f"releases/t/{version}/manifest"
        data = bytearray(manifest.read_bytes())
        data[-100] ^= 1
        manifest.write_bytes(data)
    built = build(tree, store, "3")
    assert built["hashed_files"] == 4
    assert built["shared_bytes"] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("{tree}", "{tree}/store"), "lie in each other"),
        (("{tree}/a", "{tree}"), "neither a store nor empty"),
        (("{tree}/nothing", "{store}"), "is no directory"),
        (("{tree}", "{store}", "--name", "../x"), "is no name"),
        (("{tree}", "{store}", "--name", ".x"), "is no name"),
        (("{tree}", "{store}", "--name", "n", "--version", "x/y"), "is no version"),
        (("{tree}", "{store}", "--name", "n" * 96), "is no name"),
    ],
)
def test_what_is_refused(tmp_path, tree, arguments, said):
    words = [word.format(tree=tree, store=tmp_path / "store") for word in arguments]
    done = run("build", *words, code=1)
    assert said in done.stderr
    assert "mend:" in done.stderr


def test_a_version_is_built_once(tmp_path, tree):
    build(tree, tmp_path / "store", "1")
    done = run("build", tree, tmp_path / "store", "--name", "t", "--version", "1", code=1)
    assert "there already" in done.stderr


def test_name_and_version_have_good_defaults(tmp_path, tree):
    for _ in range(2):
        run("build", tree, tmp_path / "store")
    found = json.loads(run("list", tmp_path / "store", "tree", "--json").stdout)
    assert [each["version"].rpartition("-")[2] for each in found] == ["2", "1"]


def test_a_store_without_hard_links_gets_copies(tmp_path, tree, monkeypatch):
    from orioncache.release import build as building
    from orioncache.release.store import Store
    from orioncache.release.verify import verify as check

    def refuse(*_arguments):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    store = Store.create(tmp_path / "store")
    release = building.build(tree, store, "t", "1").release
    assert check(release).good
    # All that a node mounts is there by itself.
    (pack,) = release.packs()
    assert pack.is_file() and not pack.is_symlink()
    shutil.rmtree(store.packs)
    assert check(release).good


def _spoil(pack):
    data = bytearray(pack.read_bytes())
    data[100] ^= 1
    pack.write_bytes(data)


def _only_pack(store):
    (pack,) = (store / "packs").iterdir()
    return pack


def test_a_damaged_pack_is_written_again_by_the_next_build(tmp_path, tree):
    """The same content gives a pack of the same name: what lies there is no reason to drop the good one."""
    store = tmp_path / "store"
    build(tree, store, "1")
    _spoil(_only_pack(store))
    run("verify", store, code=1)
    run("remove", store, "t", "1", "--force")
    build(tree, store, "2")
    verify(store)


def test_a_build_takes_nothing_from_damaged_releases_if_told(tmp_path, tree):
    store = tmp_path / "store"
    build(tree, store, "1")
    _spoil(_only_pack(store))
    assert build(tree, store, "2", "--rehash")["new_bytes"] == 0
    assert "--verify-store" in run("verify", store, "t", "2", code=1).stderr
    assert build(tree, store, "3", "--verify-store")["new_bytes"] > 0
    run("verify", store, "t", "3")


@pytest.mark.parametrize("damage", [lambda pack: pack.unlink(), lambda pack: os.truncate(pack, 1)])
def test_a_build_takes_nothing_from_releases_without_their_packs(tmp_path, tree, damage):
    store = tmp_path / "store"
    build(tree, store, "1")
    damage(_only_pack(store))
    build(tree, store, "2")
    run("verify", store, "t", "2")


def test_a_second_interrupt_waits_for_the_step_as_well():
    """What the caller frees afterwards is in use until then."""
    from orioncache.native import waiting

    ends = threading.Event()
    main = threading.main_thread().ident

    def step():
        for _ in range(3):
            time.sleep(0.2)
            signal.pthread_kill(main, signal.SIGINT)
        time.sleep(0.2)
        ends.set()
        return 0

    with pytest.raises(KeyboardInterrupt):
        waiting.call(step, lambda: None, lambda: None)
    assert ends.is_set()
