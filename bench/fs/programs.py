"""The bench's own C programs, compiled when they are first wanted and kept by what they were made from."""

import tempfile
from pathlib import Path

from orioncache.atomic import replacing
from orioncache.paths import cache_directory, content_key
from orioncache.process import require, run

HERE = Path(__file__).parent
FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror")


def probe() -> Path:
    """What times the operations; static, so that it can be executed from a tree that is measured."""
    return compiled(HERE / "probe.c", ["-static"], [])


def minimal_server() -> Path:
    """The rival: libfuse's low-level interface and no more."""
    return compiled(HERE / "server/minimal.c", [], libfuse())


def libfuse() -> list[str]:
    """What a program on libfuse is compiled and linked with."""
    pkg_config = require("pkg-config", "pkg-config")
    mend = "apt-get install libfuse3-dev (or: make setup)"
    return run([pkg_config, "--cflags", "--libs", "fuse3"], mend=mend).decode().split()


def compiled(source: Path, flags: list[str], libraries: list[str]) -> Path:
    """A program of one file: where it is, compiled if it was not yet."""
    compiler = require("gcc", "build-essential")
    command = [*FLAGS, *flags, *libraries]
    path = cache_directory("bench") / f"{source.stem}-{content_key(source.read_bytes(), *command)}"
    if not path.exists():
        with tempfile.TemporaryDirectory() as directory, replacing(path, 0o755) as file:
            binary = Path(directory, source.stem)
            run([compiler, *FLAGS, *flags, "-o", binary, source, *libraries])
            file.write(binary.read_bytes())
    return path
