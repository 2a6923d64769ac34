"""What the wheel installs, and what reaches a node."""

import subprocess
import sys
import zipfile

import pytest

from tests.checkout import TOP, copy_tree

HEAVY = (
    "rich",
    "jinja2",
    "msgspec",
    "numpy",
    "elftools",
    "zstandard",
    "shtab",
    "argparse",
    "asyncio",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    out = tmp_path_factory.mktemp("wheel")
    source = tmp_path_factory.mktemp("tree")
    copy_tree(source)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", out, source],
        check=True,
        capture_output=True,
        timeout=280,
    )
    (built,) = out.glob("*.whl")
    return zipfile.ZipFile(built)


def test_the_wheel_installs_no_top_level_name_but_orioncache(wheel: zipfile.ZipFile) -> None:
    names = {name.partition("/")[0] for name in wheel.namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"orioncache"}


def test_the_wheel_is_whole(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    for kind, folder in (("kernel", "fragments"), ("initramfs", "lib"), ("bench", "guest")):
        files = [path for path in (TOP / kind / folder).iterdir() if path.is_file()]
        data = {f"orioncache/{kind}/{path.relative_to(TOP / kind)}" for path in files}
        assert data
        assert data <= names
    assert "orioncache/initramfs/init" in names
    assert any(name.startswith("orioncache/native/_orion.") and name.endswith(".so") for name in names)


def test_nothing_heavy_reaches_the_node() -> None:
    program = "import sys, orioncache.node; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert not set(HEAVY) & set(loaded)
    assert "orioncache.bench" not in loaded
