"""Files are whole or not there."""

from pathlib import Path

import pytest

from orioncache.atomic import replacing, replacing_directory


def test_replaces_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "made" / "file"
    with replacing(target) as file:
        file.write(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert [path.name for path in target.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with pytest.raises(type(error)), replacing(target) as file:
        file.write(b"half")
        raise error
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_directory_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "tree"
    with replacing_directory(target) as aside:
        (aside / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1"
    assert list(tmp_path.iterdir()) == [target]


def test_directory_that_another_process_built_first_stays(tmp_path: Path) -> None:
    target = tmp_path / "tree"
    with replacing_directory(target) as aside:
        (aside / "a").write_text("ours")
        target.mkdir()
        (target / "a").write_text("theirs")
    assert (target / "a").read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [target]


def test_directory_goes_on_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), replacing_directory(tmp_path / "tree") as aside:
        (aside / "a").write_text("1")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
