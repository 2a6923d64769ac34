"""The FUSE layer once more, with the native library under AddressSanitizer and UndefinedBehaviorSanitizer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkout import TOP, copy_tree
from tests.program import IS_SANITIZED

FLAGS = "-g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all"
# Times mean nothing under sanitizers, and this file would run itself.
NATIVE = "native or test_bundle or test_trace"
LEFT_OUT = ["test_bench_fs.py", "test_sanitized.py"]


def _runtime() -> str:
    """libasan of the compiler, which has to be loaded before the interpreter's own allocations."""
    done = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _instrumented_tree(into: Path) -> None:
    """Copies the tree, and builds the native library in it."""
    copy_tree(into)
    # cffi uses the environment's setuptools here, which may be too old for what stands there.
    (into / "pyproject.toml").unlink()
    build = "import runpy; runpy.run_path('orioncache/native/build.py')['ffi'].compile(tmpdir='.')"
    environment = {**os.environ, "CFLAGS": FLAGS, "LDFLAGS": FLAGS}
    built = subprocess.run(
        [sys.executable, "-c", build], cwd=into, env=environment, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr[-4000:]


@pytest.mark.skipif(IS_SANITIZED, reason="this is that run")
@pytest.mark.timeout(1200)
def test_the_layer_under_sanitizers(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    _instrumented_tree(tree)
    reports = tmp_path / "reports"
    reports.mkdir()
    # No leaks: gcc 12's LeakSanitizer crashes beside an interpreter. test_stress.py measures memory instead.
    before = [
        "env",
        "PYTHONSAFEPATH=1",  # or the working directory would come first
        f"PYTHONPATH={tree}",
        f"LD_PRELOAD={_runtime()}",
        f"ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=8:log_path={reports}/asan",
        f"UBSAN_OPTIONS=print_stacktrace=1:log_path={reports}/ubsan",
    ]
    where = [*before, sys.executable, "-c", "from orioncache.native import _orion; print(_orion.__file__)"]
    assert subprocess.run(where, capture_output=True, text=True, check=True).stdout.startswith(str(tree))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/fuse", "-k", NATIVE, "-q", "-p", "no:cacheprovider",
         *(f"--ignore=tests/fuse/{name}" for name in LEFT_OUT)],
        cwd=TOP, env={**os.environ, "ORION_TEST_BEFORE": "\n".join(before)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    found = "\n".join(report.read_text(errors="replace")[:4000] for report in sorted(reports.iterdir()))
    assert not found, found
    assert done.returncode == 0, done.stdout[-8000:]
    print(done.stdout.splitlines()[-1])
