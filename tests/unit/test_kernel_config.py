"""The commands on the real source and its own kconfig; nothing is compiled."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from orioncache.cli import main
from orioncache.errors import UserError
from orioncache.kernel import build
from orioncache.kernel import source as kernel_source
from orioncache.kernel.config import read_config
from orioncache.kernel.fragments import BASE, load, merge
from orioncache.kernel.source import find_source
from orioncache.paths import cache_directory

# Unpacking the source may be part of the first test.
pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not list(kernel_source.DEBIAN_SOURCES.glob("linux-source-*.tar.xz")),
        reason="linux-source is not installed",
    ),
]


def work():
    top = cache_directory("kernel") / "work"
    return set(top.glob("config-*")) if top.is_dir() else set()


@pytest.mark.parametrize("extra", [[], ["hardware"], ["bench"]])
def test_our_fragments_survive_kconfig(tmp_path, capsys, extra):
    output = tmp_path / "config"
    flags = [word for name in extra for word in ("--fragment", name)]
    assert main(["kernel", "config", "--json", "--output", str(output), *flags]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["fragments"][len(BASE) :] == extra
    assert said["version"].startswith("6.")
    assert said["output"] == str(output)
    values = read_config(output.read_text())
    for each in merge(load(extra)).values():
        assert values.get(each.symbol, "n") == each.value, each
    assert "MODULES" not in values
    assert "DEBUG_INFO" not in values
    # Self tests of what is built in would run on each boot.
    assert "CRYPTO" not in values or values.get("CRYPTO_MANAGER_DISABLE_TESTS") == "y"
    assert main(["kernel", "check", "--kernel", str(output), *flags]) == 0


def test_lost_symbols_are_an_error(tmp_path, capsys):
    output = tmp_path / "config"
    asked = ["CONFIG_NET_SCH_NETEM=y", "CONFIG_VTEH=y", "# CONFIG_KEYS is not set", "CONFIG_NR_CPUS=9999"]
    flags = [word for line in asked for word in ("--fragment", line)]
    assert main(["kernel", "config", "--output", str(output), *flags]) == 1
    error = capsys.readouterr().err
    for reason in (
        "needs NET_SCHED",
        "did you mean CONFIG_VETH?",
        "selected by CONFIG_NFS_V4",
        "range is 2 to 512",
    ):
        assert reason in error
    assert "Traceback" not in error
    assert not output.exists()
    assert not work()


def test_standard_output_is_the_configuration_whatever_an_outer_make_says(capsys, monkeypatch):
    monkeypatch.setenv("MAKEFLAGS", "--jobserver-auth=98,99 -j")
    monkeypatch.setenv("ARCH", "arm64")
    monkeypatch.setenv("CC", "/bin/false")
    assert main(["kernel", "config", "--fragment", "CONFIG_WIREGUARD=y"]) == 0
    assert {"CONFIG_WIREGUARD=y", "CONFIG_X86_64=y"} <= set(capsys.readouterr().out.splitlines())


def test_dry_run_prints_what_would_run(capsys):
    assert main(["kernel", "build", "--dry-run", "--jobs", "3", "--fragment", "CONFIG_NEVER_BUILT=y"]) == 0
    out = capsys.readouterr().out
    assert "merge_config.sh -n" in out
    assert "-j3" in out
    assert out.rstrip().endswith("bzImage")
    assert f"KCFLAGS={build.CFLAGS}" in out


def test_copies_are_calls_and_their_option_is_part_of_the_key(monkeypatch):
    source = "void f(char *to, const char *from, unsigned long n) { __builtin_memcpy(to, from, n); }"
    command = ["gcc", "-Os", "-S", "-o", "-", "-x", "c", "-"]
    inline, called = (
        subprocess.run([*command, *flags], input=source, capture_output=True, text=True, check=True).stdout
        for flags in ([], [build.CFLAGS])
    )
    assert "rep movsb" in inline
    assert "rep" not in called
    assert "memcpy" in called
    before = build.cached_path(find_source(), load([]))
    monkeypatch.setattr(build, "CFLAGS", "-mno-such-thing")
    assert build.cached_path(find_source(), load([])) != before


@pytest.fixture
def own_tree():
    source = find_source()
    source.unpack()
    # Hard links: a tree of its own in seconds, on the same file system as the first.
    with tempfile.TemporaryDirectory(dir=source.directory.parent, prefix="test-") as scratch:
        subprocess.run(["cp", "-al", source.directory, f"{scratch}/linux"], check=True)
        yield Path(scratch) / "linux"


def test_own_tree_is_used_and_never_touched(own_tree, tmp_path, capsys):
    before = find_source(own_tree).identity
    assert main(["kernel", "config", "--source", str(own_tree), "--output", str(tmp_path / "config")]) == 0
    assert find_source(own_tree).identity == before
    (own_tree / "new.c").write_text("")
    assert find_source(own_tree).identity != before
    (own_tree / ".config").write_text("")
    assert main(["kernel", "config", "--source", str(own_tree)]) == 1
    assert "mrproper" in capsys.readouterr().err


def test_a_directory_that_is_no_kernel_tree(tmp_path, capsys):
    assert main(["kernel", "config", "--source", str(tmp_path)]) == 1
    assert "is no Linux source tree" in capsys.readouterr().err


def test_no_source_package(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_source, "DEBIAN_SOURCES", tmp_path)
    with pytest.raises(UserError, match="no kernel source") as error:
        find_source()
    assert "apt-get install linux-source" in error.value.mend


def test_interrupted_build_leaves_nothing(tmp_path):
    """Ctrl-C in the midst of compiling: make ends with all it started, no work and no image stay."""
    source = find_source()
    source.unpack()
    cache = tmp_path / "cache"
    top = cache / "kernel"
    (top / "source").mkdir(parents=True)
    (top / "source" / source.directory.name).symlink_to(source.directory)
    command = [sys.executable, "-m", "orioncache", "kernel", "build", "--jobs", "1"]
    with subprocess.Popen(
        command, env=os.environ | {"ORION_CACHE": str(cache)}, stderr=subprocess.PIPE, text=True
    ) as build:
        log = top / "log"
        deadline = time.monotonic() + 240
        while not any("  CC " in path.read_text() for path in log.glob("*.log")):
            assert build.poll() is None, build.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        build.send_signal(signal.SIGINT)
        _, said = build.communicate(timeout=60)
    assert build.returncode == 130
    assert "interrupted" in said
    assert "Traceback" not in said
    assert list((top / "work").iterdir()) == []
    assert not (top / "image").exists() or list((top / "image").iterdir()) == []
    running = subprocess.run(["pgrep", "-f", f"O={top}"], capture_output=True, text=True, check=False).stdout
    assert running == ""
