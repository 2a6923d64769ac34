"""A mount shows exactly what the source holds, by itself and as overlayfs's lower layer."""

import mmap
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse import kinds
from tests.fuse.conftest import RunningCache
from tests.fuse.kinds import OTHER_IN_RELEASES
from tests.fuse.oddities import GIB, MANY, differences, run_as
from tests.waiting import wait_until

BLOCK = 128 << 10
# Of every directory of a release.
DIRECTORY_SIZE = 4096

HELPER = Path(__file__).with_name("whoami.c")


@pytest.fixture(scope="module")
def tree(odd_tree: Path) -> Path:
    compiled = odd_tree / "whoami"
    subprocess.run(["gcc", "-O1", "-o", compiled, HELPER], check=True)
    for name, mode in (("whoami-setuid", 0o4755), ("whoami-setgid", 0o2755)):
        shutil.copy(compiled, odd_tree / name)
        os.chown(odd_tree / name, 1234, 5678)
        (odd_tree / name).chmod(mode)
    shutil.copy(compiled, odd_tree / "whoami-capable")
    subprocess.run(["setcap", "cap_net_raw+ep", odd_tree / "whoami-capable"], check=True)
    return odd_tree


@pytest.fixture(scope="module")
def cache(tree: Path, public_directory: Path, kind: str) -> Iterator[RunningCache]:
    cache = RunningCache([tree], public_directory / kind, [], kind)
    yield cache
    cache.end()
    assert not cache.complaints()


@pytest.fixture(scope="module")
def overlay(cache: RunningCache, public_directory: Path) -> Iterator[Path]:
    work = public_directory / f"{cache.kind}-overlay"
    work.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", work], check=True)
    for name in ("upper", "work", "merged"):
        (work / name).mkdir()
    options = f"lowerdir={cache.path},upperdir={work}/upper,workdir={work}/work"
    subprocess.run(["mount", "-t", "overlay", "none", "-o", options, work / "merged"], check=True)
    yield work / "merged"
    subprocess.run(["umount", work / "merged"], check=True)
    subprocess.run(["umount", work], check=True)


@pytest.fixture(params=["plain", "overlay"])
def shown(request: pytest.FixtureRequest, cache: RunningCache) -> Path:
    return cache.path if request.param == "plain" else request.getfixturevalue("overlay")


def plain_differences(tree: Path, shown: Path, kind: str, *own: str) -> list[str]:
    """Differences but those that a kind of cache has by its nature, and sizes of directories."""
    other = OTHER_IN_RELEASES if kinds.is_release(kind) else frozenset()
    found = differences(tree, shown, skip_fields=other | frozenset(own))
    if not kinds.is_release(kind):
        return found
    return [line for line in found if f"size is {DIRECTORY_SIZE}," not in line]


def test_every_entry_is_as_in_the_source(tree: Path, cache: RunningCache) -> None:
    assert plain_differences(tree, cache.path, cache.kind) == []


def test_every_entry_is_as_in_the_source_below_overlayfs(
    tree: Path, cache: RunningCache, overlay: Path
) -> None:
    # overlayfs has block sizes and directories' link counts of its own, and numbers directories by itself.
    found = plain_differences(tree, overlay, cache.kind, "blksize")
    directories = [line for line in found if ": nlink is 1," in line or ": ino is " in line]
    assert [line for line in found if line not in directories] == []


def test_root_is_as_in_the_source(tree: Path, cache: RunningCache) -> None:
    one, other = tree.stat(), cache.path.stat()
    own = () if kinds.is_release(cache.kind) else ("st_ino", "st_ctime_ns")
    for field in ("st_mode", "st_nlink", "st_uid", "st_gid", "st_mtime_ns", *own):
        assert getattr(one, field) == getattr(other, field)
    assert os.getxattr(cache.path, "user.on-root") == b"r"


def test_hard_links_are_one_inode(shown: Path) -> None:
    first, second, third = ((shown / name).stat() for name in ("large", "hard", "dir/hard-too"))
    assert first.st_ino == second.st_ino == third.st_ino
    assert first.st_nlink == 3


@kinds.live
def test_inode_numbers_outlive_the_kernels_caches(cache: RunningCache, overlay: Path) -> None:
    shown = [
        cache.path / "dir",
        *(top / name for top in (cache.path, overlay) for name in ("large", "null", "relative")),
    ]
    before = [path.lstat().st_ino for path in shown]
    os.listdir(cache.path / "many")
    known = cache.status()["fuse"]["inodes"]
    assert known > MANY

    def are_forgotten() -> bool:
        Path("/proc/sys/vm/drop_caches").write_text("2")
        return bool(cache.status()["fuse"]["inodes"] < known - MANY // 2)

    wait_until(are_forgotten, "the kernel forgets inodes")
    assert [path.lstat().st_ino for path in shown] == before


def test_entry_types_come_with_the_listing(tree: Path, shown: Path) -> None:
    with os.scandir(tree) as entries:
        expected = {
            entry.name: (entry.is_dir(follow_symlinks=False), entry.is_symlink()) for entry in entries
        }
    with os.scandir(shown) as entries:
        assert {
            entry.name: (entry.is_dir(follow_symlinks=False), entry.is_symlink()) for entry in entries
        } == expected


def test_dot_and_dotdot_are_listed(shown: Path) -> None:
    listed = subprocess.run(
        ["ls", "-fa", shown / "dir"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert sorted(listed) == [".", "..", "hard-too"]


def test_large_directory_is_listed_whole(tree: Path, cache: RunningCache, shown: Path) -> None:
    with os.scandir(tree / "many") as entries:
        expected = {entry.name: entry.inode() for entry in entries}
    with os.scandir(shown / "many") as entries:
        listed = [(entry.name, entry.inode()) for entry in entries]
    assert len(listed) == MANY
    assert dict(listed).keys() == expected.keys()
    assert kinds.is_release(cache.kind) or dict(listed) == expected
    for name in sorted(expected)[:: MANY // 100]:
        assert (shown / "many" / name).stat().st_mtime_ns == (tree / "many" / name).stat().st_mtime_ns


def test_seeking_in_a_directory(tree: Path, cache: RunningCache) -> None:
    # Position by position, back and forth, through the C library's telldir and seekdir.
    program = tree / "seekdir"
    subprocess.run(["gcc", "-O1", "-o", program, HELPER.with_name("seekdir.c")], check=True)
    done = subprocess.run([program, cache.path / "many"], capture_output=True, text=True, check=False)
    program.unlink()
    assert done.returncode == 0, done.stderr


def test_sparse_file_beyond_4_gib(tree: Path, cache: RunningCache, shown: Path) -> None:
    size = (tree / "sparse").stat().st_size
    with (tree / "sparse").open("rb") as one, (shown / "sparse").open("rb") as other:
        for offset in (0, 999_990, GIB, 4 * GIB - 100, 4 * GIB + 131_000, 5 * GIB, size - 10, size, size + 5):
            assert os.pread(one.fileno(), 1000, offset) == os.pread(other.fileno(), 1000, offset)
        if cache.kind == kinds.NATIVE_RELEASE:
            # Holes are whole blocks: there are islands at 0 and at 999,990, in blocks 0 and 7.
            assert os.lseek(other.fileno(), 0, os.SEEK_HOLE) == BLOCK
            assert os.lseek(other.fileno(), BLOCK + 1, os.SEEK_DATA) == 7 * BLOCK
            assert os.lseek(other.fileno(), 5 * GIB, os.SEEK_HOLE) == size
            return
        # pyfuse3 tells of no holes, which is allowed: all is data, up to the end.
        assert os.lseek(other.fileno(), 4 * GIB, os.SEEK_DATA) == 4 * GIB
        assert os.lseek(other.fileno(), 0, os.SEEK_HOLE) == size


def test_mapped_file(tree: Path, shown: Path) -> None:
    with (shown / "large").open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[:] == (tree / "large").read_bytes()


def test_programs_run(shown: Path) -> None:
    done = run_as(4321, [shown / "whoami"])
    assert done.stdout.split() == ["4321", "4321", "0"]


def test_set_uid_and_set_gid_are_honoured(shown: Path) -> None:
    assert run_as(4321, [shown / "whoami-setuid"]).stdout.split() == ["1234", "4321", "0"]
    assert run_as(4321, [shown / "whoami-setgid"]).stdout.split() == ["4321", "5678", "0"]


def test_file_capabilities_are_honoured(shown: Path) -> None:
    capabilities = int(run_as(4321, [shown / "whoami-capable"]).stdout.split()[2], 16)
    assert capabilities == 1 << 13


def test_device_works(shown: Path) -> None:
    try:
        (shown / "null").write_bytes(b"gone")
    except PermissionError:
        pytest.skip("this container may not open device nodes that it made")
    assert (shown / "null").read_bytes() == b""


def test_fifo_works(shown: Path) -> None:
    reader = os.open(shown / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(shown / "fifo", os.O_WRONLY)
    os.write(writer, b"through")
    assert os.read(reader, 100) == b"through"
    os.close(writer)
    os.close(reader)


def test_permissions_are_the_files_own(shown: Path) -> None:
    assert run_as(4321, ["cat", shown / "unreadable"]).returncode != 0
    assert run_as(4321, ["cksum", shown / "one"]).returncode == 0
    # The list lets user 1234 read, whom the mode alone would not.
    assert run_as(1234, ["cat", shown / "acl"]).stdout == "a"
    assert run_as(4321, ["cat", shown / "acl"]).returncode != 0


@kinds.live
def test_file_system_figures(tree: Path, cache: RunningCache) -> None:
    one, other = os.statvfs(tree), os.statvfs(cache.path)
    assert (one.f_blocks, one.f_frsize, one.f_files, one.f_namemax) == (
        other.f_blocks,
        other.f_frsize,
        other.f_files,
        other.f_namemax,
    )


def test_nothing_can_be_written(cache: RunningCache) -> None:
    top = cache.path
    attempts = {
        "create": lambda: (top / "created").write_bytes(b""),
        "open": lambda: (top / "one").open("r+b"),
        "truncate": lambda: os.truncate(top / "one", 0),
        "mkdir": (top / "made").mkdir,
        "mknod": lambda: os.mkfifo(top / "made"),
        "unlink": (top / "one").unlink,
        "rmdir": (top / "sticky").rmdir,
        "rename": lambda: (top / "one").rename(top / "two"),
        "link": lambda: os.link(top / "one", top / "two"),
        "symlink": lambda: (top / "two").symlink_to("one"),
        "chmod": lambda: (top / "one").chmod(0o600),
        "chown": lambda: os.chown(top / "one", 1, 1),
        "utime": lambda: os.utime(top / "one"),
        "setxattr": lambda: os.setxattr(top / "one", "user.x", b""),
        "removexattr": lambda: os.removexattr(top / "attributes", "user.small"),
    }
    for name, attempt in attempts.items():
        with pytest.raises(OSError, match="Read-only file system"):
            attempt()
            pytest.fail(f"{name} did not fail")


def test_overlay_takes_writes_and_copies_up(tree: Path, overlay: Path) -> None:
    with (overlay / "attributes").open("ab") as file:
        file.write(b" and more")
    assert (overlay / "attributes").read_bytes() == b"with attributes and more"
    assert os.getxattr(overlay / "attributes", "user.large") == b"L" * 3000
    shutil.copytree(overlay / "dir", overlay / "moved")
    assert (overlay / "moved" / "hard-too").stat().st_size == (tree / "large").stat().st_size
    (overlay / "one").unlink()
    assert not (overlay / "one").exists()
    assert (tree / "one").exists()
    shutil.rmtree(overlay / "sticky")
    (overlay / "sticky").mkdir()
    assert os.listdir(overlay / "sticky") == []


def test_missing_names_are_missing(cache: RunningCache) -> None:
    for _ in range(3):
        assert not (cache.path / "no-such-name").exists()
    with pytest.raises(OSError, match="File name too long"):
        os.stat(cache.path / ("x" * 256))


def test_root_is_a_directory_with_constant_device(shown: Path) -> None:
    devices = {(shown / name).lstat().st_dev for name in ("dir", "sticky", "acl-dir")}
    assert len(devices) == 1
    assert stat.S_ISDIR(shown.lstat().st_mode)
