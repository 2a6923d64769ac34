"""What is taken for a root, and that a disk image holds what its tree holds."""

import os
import shutil
import stat
import subprocess
import time

import pytest

from orioncache.bench import root
from orioncache.bench.root import OWN_INIT, check_root, disk_image, resolve_inside
from orioncache.errors import UserError
from tests.fuse import oddities

IMAGE_LOSES = frozenset({"ino", "mtime", "ctime", "blocks", "blksize"})


def program(path, content=b"#!/bin/sh\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o755)
    return path


@pytest.fixture
def tree(tmp_path):
    """A root whose /sbin/init is reached through absolute and relative links, as in Debian."""
    top = tmp_path / "root"
    program(top / "usr/lib/runit/runit-init")
    (top / "usr/sbin").mkdir()
    (top / "lib").symlink_to("usr/lib")
    (top / "sbin").symlink_to("/usr/sbin")
    (top / "usr/sbin/init").symlink_to("/lib/runit/../runit/runit-init")
    return top


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ORION_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "disk"


def test_init_is_found_through_links_of_the_tree(tree):
    assert check_root(tree).init == "/usr/lib/runit/runit-init"
    assert check_root(tree, "/sbin/init").init == "/usr/lib/runit/runit-init"


def test_absolute_links_do_not_leave_the_tree(tree):
    (tree / "usr/sbin/init").unlink()
    (tree / "usr/sbin/init").symlink_to("/usr/bin/env")  # this machine has one
    with pytest.raises(UserError, match="init /sbin/init does not exist"):
        check_root(tree, "/sbin/init")
    (tree / "up").symlink_to("../../../../../usr/bin/env")
    assert resolve_inside(tree, "/up") is None


@pytest.mark.parametrize("make", ["missing", "directory", "not executable", "loop", "below a file"])
def test_an_init_that_cannot_be_started(tree, make):
    init = tree / "my-init"
    name = "/my-init"
    if make == "directory":
        init.mkdir()
    elif make == "not executable":
        init.write_text("#!/bin/sh\n")
    elif make == "loop":
        init.symlink_to("my-init")
    elif make == "below a file":
        program(init)
        name = "/my-init/x"
    with pytest.raises(UserError, match=r"does not exist in .*, or is not executable") as error:
        check_root(tree, name)
    assert "--append" in error.value.mend


def test_a_tree_without_init(tmp_path):
    (tmp_path / "bin").mkdir()
    assert check_root(tmp_path).init == ""


def test_our_own_init_is_in_every_tree(tree):
    assert check_root(tree, OWN_INIT).init == ""


@pytest.mark.parametrize(
    ("make", "message"),
    [("missing", "does not exist"), ("file", "is no directory"), ("photos", "is no root tree")],
)
def test_no_root(tmp_path, make, message):
    path = tmp_path / make
    if make == "file":
        path.touch()
    elif make == "photos":
        (path / "2026").mkdir(parents=True)
    with pytest.raises(UserError, match=message) as error:
        check_root(path)
    assert error.value.mend


def test_the_running_system_is_refused(tmp_path):
    (tmp_path / "slash").symlink_to("/")
    with pytest.raises(UserError, match="the running system's own /"):
        check_root(tmp_path / "slash")


def need_mke2fs():
    if shutil.which("mke2fs", path="/usr/sbin:/sbin:/usr/bin") is None:
        pytest.skip("mke2fs is not installed")


@pytest.fixture
def mounted(tmp_path):
    """Mounts an image at the returned directory."""
    where = tmp_path / "mounted"
    where.mkdir()
    done = []

    def mount(image):
        if os.geteuid() != 0:
            pytest.skip("mounting a disk image needs root")
        result = subprocess.run(
            ["mount", "-o", "loop,ro", image, where], capture_output=True, text=True, check=False
        )
        if result.returncode:
            pytest.skip(f"this machine cannot mount a disk image: {result.stderr.strip()}")
        done.append(where)
        return where

    yield mount
    for each in done:
        subprocess.run(["umount", each], check=True)


def test_image_holds_what_the_tree_holds(tmp_path, cache, mounted):
    need_mke2fs()
    if os.geteuid() != 0:
        pytest.skip("making device nodes needs root")
    top = tmp_path / "odd"
    top.mkdir()
    (top / "large").write_bytes(os.urandom(5_000_003))
    for part in (
        oddities._links,
        oddities._special_files,
        oddities._modes,
        oddities._xattrs,
        oddities._names,
        oddities._sparse,
    ):
        part(top)
    (top / "socket").unlink()  # see disk_image()
    (top / "lost+found").mkdir(0o700)  # every ext4 has one
    before = sorted((path, os.lstat(path).st_mtime_ns) for path in top.iterdir())
    image = disk_image(top)
    shown = mounted(image)
    differences = oddities.differences(top, shown, skip_fields=IMAGE_LOSES)
    assert [each for each in differences if not each.startswith("b'lost+found': size")] == []
    assert (shown / "hard").stat().st_ino == (shown / "dir/hard-too").stat().st_ino
    with (shown / "sparse").open("rb") as theirs, (top / "sparse").open("rb") as ours:
        for offset in (0, 1_000_000, (4 << 30) - 3, (4 << 30) + 131_072, (5 << 30) + 12345 - 6):
            ours.seek(offset)
            theirs.seek(offset)
            assert theirs.read(10) == ours.read(10)
    assert image.stat().st_size < 100 << 20  # holes stay holes
    assert sorted((path, os.lstat(path).st_mtime_ns) for path in top.iterdir()) == before


def test_image_is_made_once_and_again_after_a_change(tree, cache):
    need_mke2fs()
    first = disk_image(tree)
    made = first.stat().st_ino
    assert disk_image(tree) == first
    assert first.stat().st_ino == made
    (tree / "usr/lib/runit/runit-init").write_bytes(b"#!/bin/sh\n#")
    assert disk_image(tree) != first


def test_image_is_the_same_bit_for_bit(tree, cache):
    need_mke2fs()
    first = disk_image(tree)
    content = first.read_bytes()
    first.unlink()
    assert disk_image(tree).read_bytes() == content


def test_old_images_go(tree, cache):
    need_mke2fs()
    for number in range(root.IMAGES_KEPT + 2):
        (tree / "number").write_text(str(number))
        newest = disk_image(tree)
        os.utime(newest, (time.time() - 100 + number,) * 2)
    kept = sorted(cache.iterdir())
    assert len(kept) == root.IMAGES_KEPT
    assert newest in kept


def test_nothing_is_left_when_the_image_fails(tree, cache, monkeypatch):
    need_mke2fs()
    monkeypatch.setattr(root, "INODE", 100)  # mke2fs refuses it
    with pytest.raises(UserError, match="mke2fs failed") as error:
        disk_image(tree)
    assert "room" in error.value.mend
    assert list(cache.iterdir()) == []


def test_another_file_system_inside(tree, cache):
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    inside = tree / "usr" / "inside"
    inside.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", inside], check=True)
    try:
        with pytest.raises(UserError, match=r"another file system is mounted on .*/usr/inside") as error:
            disk_image(tree)
    finally:
        subprocess.run(["umount", inside], check=True)
    assert "rsync" in error.value.mend


def test_modes_of_the_tree_are_seen(tree, cache):
    """The fingerprint covers what mke2fs copies, a file's mode for one."""
    need_mke2fs()
    first = disk_image(tree)
    path = tree / "usr/lib/runit/runit-init"
    path.chmod(stat.S_IMODE(path.stat().st_mode) | stat.S_ISUID)
    assert disk_image(tree) != first
