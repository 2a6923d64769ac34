"""`bench fs` in a small form, with real mounts."""

import json
import math
import shutil
import subprocess
from pathlib import Path

import pytest

from orioncache.bench.fs.cells import CELLS
from orioncache.bench.fs.programs import FLAGS, HERE
from tests.program import COMMAND

SMALL = ["--files=300", "--rounds=3", "--big=1M", "--build-files=500", "--rebuild-files=500", "--inodes=2000"]
RATIOS = {"lookup", "read", "pages", "sparse", "warm", "build"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "fs.json"
    before = Path("/proc/self/mountinfo").read_text()
    command = [*COMMAND, "bench", "fs", *SMALL, f"--json={path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    assert Path("/proc/self/mountinfo").read_text() == before
    return done, json.loads(path.read_text())


def test_every_measurement_gives_figures(finished):
    done, document = finished
    errors = [figure["error"] for figure in document["figures"] if figure["error"]]
    assert not errors
    assert {figure["cell"] for figure in document["figures"]} == set(CELLS)
    assert document["schema"] == "orioncache.bench.fs/1"
    assert document["environment"]["commit"] != "unknown"
    assert all(figure["what"] in done.stdout for figure in document["figures"])
    assert "bars met" in done.stdout


def test_ratios_are_numbers_with_a_spread_around_them(finished):
    ratios = [figure for figure in finished[1]["figures"] if figure["cell"] in RATIOS]
    assert {figure["cell"] for figure in ratios} == RATIOS
    for figure in ratios:
        assert figure["unit"] == "×"
        assert math.isfinite(figure["value"])
        assert 0 < figure["low"] <= figure["value"] <= figure["high"]


def test_all_subjects_did_the_same(finished):
    for cell in ("lookup", "read", "pages"):
        samples = [sample for sample in finished[1]["samples"] if sample["cell"] == cell]
        by_subject = {
            subject: [(s["turn"], s["operations"], s["bytes"]) for s in samples if s["subject"] == subject]
            for subject in ("native", "minimal", "python")
        }
        assert len(by_subject["native"]) == 3
        assert by_subject["native"] == by_subject["minimal"] == by_subject["python"]


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("name", ["probe.c", "server/minimal.c"])
def test_the_programs_compile_without_warnings(compiler, name, tmp_path):
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    includes = subprocess.run(["pkg-config", "--cflags", "fuse3"], capture_output=True, text=True, check=True)
    command = [compiler, *FLAGS, *includes.stdout.split(), "-c", HERE / name, "-o", tmp_path / "out.o"]
    subprocess.run(command, check=True)
