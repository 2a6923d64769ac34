"""What is taken for a release."""

import os
from pathlib import Path

from orioncache.release.detect import is_release


def _is_release(path: Path) -> bool:
    directory = os.open(path, os.O_PATH | os.O_DIRECTORY)
    try:
        return is_release(directory)
    finally:
        os.close(directory)


def test_a_manifest_beside_packs_is_a_release(tmp_path: Path) -> None:
    assert not _is_release(tmp_path)
    (tmp_path / "manifest").write_bytes(b"even a broken one, so that it is refused and not shown as files")
    assert not _is_release(tmp_path)
    (tmp_path / "packs").mkdir()
    assert _is_release(tmp_path)


def test_a_tree_that_looks_like_one_by_names_is_none(tmp_path: Path) -> None:
    (tmp_path / "packs").mkdir()
    os.mkfifo(tmp_path / "manifest")
    assert not _is_release(tmp_path)
    (tmp_path / "manifest").unlink()
    (tmp_path / "manifest").symlink_to("/etc/passwd")
    assert not _is_release(tmp_path)
