"""The root as a squashfs image, and what serves it."""

import os
import subprocess

import pytest

from orioncache.bench import squashed
from orioncache.bench.image import libraries_of
from orioncache.bench.squashed import bench_squashfs
from tests import needs

pytestmark = needs.NBD


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.setenv("ORION_CACHE", str(tmp_path / "cache"))
    top = tmp_path / "root"
    (top / "usr/bin").mkdir(parents=True)
    (top / "usr/bin/true").write_bytes(b"\x7fELF" + bytes(300_000))
    (top / "bin").symlink_to("usr/bin")
    return top


def test_the_image_holds_the_root_and_its_programs_run(tree, tmp_path):
    place = bench_squashfs(tree)
    subprocess.run(
        ["unsquashfs", "-q", "-n", "-d", tmp_path / "out", place / squashed.IMAGE],
        check=True,
        capture_output=True,
    )
    assert (tmp_path / "out/usr/bin/true").read_bytes() == (tree / "usr/bin/true").read_bytes()
    assert (tmp_path / "out/bin").readlink() == (tree / "bin").readlink()
    said = subprocess.run(
        ["unsquashfs", "-s", place / squashed.IMAGE], check=True, capture_output=True, text=True
    )
    assert "Compression lz4" in said.stdout
    assert "Block size 131072" in said.stdout
    # With nothing but the libraries beside it, as in the guest.
    loader, _ = libraries_of([place / "bin/nbd-client"])
    for name in ("nbd-server", "nbd-client"):
        command = [loader, "--inhibit-cache", "--library-path", place / "lib", place / "bin" / name, "-V"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert f"This is {name}" in done.stdout + done.stderr


def test_it_is_made_once_for_each_root(tree):
    first = bench_squashfs(tree)
    written = (first / squashed.IMAGE).stat()
    assert bench_squashfs(tree) == first
    assert (first / squashed.IMAGE).stat().st_ino == written.st_ino
    (tree / "usr/bin/false").write_bytes(b"\x7fELF")
    assert bench_squashfs(tree) != first


def test_the_newest_are_kept(tree):
    for number in range(squashed.KEPT + 2):
        (tree / "number").write_text(f"{number}" * (number + 1))
        newest = bench_squashfs(tree)
        os.utime(newest, (number, number))
    kept = list(newest.parent.iterdir())
    assert len(kept) == squashed.KEPT
    assert newest in kept
