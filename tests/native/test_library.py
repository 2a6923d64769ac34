"""liborion itself: its warnings, its C tests, its fuzz targets, what it does to a process."""

import errno
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import _cffi_backend
import pytest

NATIVE = Path(__file__).resolve().parents[2] / "native"


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--no-print-directory", "-C", NATIVE, *arguments],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip


needs_clang = pytest.mark.skipif(shutil.which("clang") is None, reason="clang is not installed")


@needs_clang
def test_gcc_and_clang_have_nothing_to_say():
    done = make("lint")
    assert (done.returncode, done.stdout) == (0, "")


def test_c_tests_under_sanitizers(tmp_path):
    done = make("check", f"BUILD={tmp_path}")
    assert done.returncode == 0, done.stdout
    tests = [path.stem for path in NATIVE.glob("tests/test_*.c")]
    assert tests
    for test in tests:
        assert f"{test}: ok" in done.stdout


@needs_clang
@pytest.mark.parametrize("target", sorted(path.stem for path in NATIVE.glob("fuzz/fuzz_*.c")))
def test_fuzz_for_a_few_seconds(target, tmp_path_factory):
    build = tmp_path_factory.getbasetemp() / "fuzz"
    done = make(target, f"BUILD={build}", "FUZZ_SECONDS=4")
    assert done.returncode == 0, done.stdout
    runs = next(line.split()[-1] for line in done.stdout.splitlines() if "number_of_executed_units" in line)
    assert int(runs) > 100


def in_new_python(code: str, *flags: str, **how) -> str:
    done = subprocess.run(
        [sys.executable, *flags, "-c", code],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **how,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout.strip()


def test_import_brings_nothing_else_along():
    """It stands in the way of a node's boot: nothing may be imported but cffi's backend and ourselves."""
    code = (
        "import sys, os, collections.abc; before = set(sys.modules); import orioncache.native; "
        "print(*sorted(set(sys.modules) - before))"
    )
    # Without site, which imports a good deal to find an editable package.
    where = os.pathsep.join((str(NATIVE.parent), str(Path(_cffi_backend.__file__).parent)))
    brought = set(in_new_python(code, "-S", env={"PYTHONPATH": where}).split())
    assert {name for name in brought if not name.startswith("orioncache")} <= {"_cffi_backend", "errno"}
    assert {name for name in brought if name.startswith("orioncache")} == {
        "orioncache", "orioncache.native", "orioncache.native._orion", "orioncache.native._orion.lib",
    }  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0, reason="locking more than RLIMIT_MEMLOCK needs root")
def test_locked_memory_is_what_was_touched():
    """64 MiB are mapped after the lock; only the 4 MiB that are written to become locked memory in RAM."""
    code = """
import mmap
from orioncache import native
native.lock_memory()
area = mmap.mmap(-1, 64 << 20)
area[: 4 << 20] = bytes(4 << 20)
smaps = open("/proc/self/smaps_rollup").read()
status = open("/proc/self/status").read()
field = lambda text, name: int(text.split(name + ":")[1].split()[0])
print(field(status, "VmLck"), field(smaps, "Rss"))
"""
    virtual, resident = map(int, in_new_python(code).split())
    assert virtual > 64 << 10, "everything is marked"
    assert 4 << 10 < resident < 48 << 10, "but only what is touched is there"


def test_lock_memory_says_why_not():
    code = """
import os
from orioncache import native
try:
    native.lock_memory()
except OSError as error:
    print(error.errno)
"""

    def without_rights():
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
        if os.geteuid() == 0:
            # Without CAP_IPC_LOCK (14) in the bounding set, root has it no more after exec.
            import ctypes

            assert ctypes.CDLL(None).prctl(24, 14, 0, 0, 0) == 0

    assert in_new_python(code, preexec_fn=without_rights) in (str(errno.EPERM), str(errno.ENOMEM))
