"""Building: source, fragments and compiler in, bzImage and configuration out; never the same one twice."""

import dataclasses
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from orioncache.atomic import replacing_directory
from orioncache.errors import UserError
from orioncache.kernel.config import configure, environment
from orioncache.kernel.fragments import Fragment, load, merge
from orioncache.kernel.source import Source, find_source
from orioncache.paths import cache_directory, content_key, require_room
from orioncache.process import command_line, require, run
from orioncache.progress import step

# Goes into every key: raise it when the way of building changes the image.
RECIPE = "1"

# With -Os, gcc writes a copy or fill whose size it does not know as `rep movsb` or `rep stosb`: slow on
# processors without FSRM. This has it call the kernel's memcpy and memset, which know the processor. Only
# this option works: with -Os gcc looks at no -mmemcpy-strategy or -mmemset-strategy. Figures: docs/kernel.md.
CFLAGS = "-mstringop-strategy=libcall"

# What a build leaves on disk while it runs (bytes): the bench's kernel takes 0.4 GB, ccache as much again.
BUILD_BYTES = 1_000_000_000

# The compiler's cache holds a few configurations' worth of objects.
CCACHE_SIZE = "2G"

# How many objects a configuration compiles, by the number of its options that are on: a straight line through
# the virt, bench and hardware kernels of Linux 6.12. It only feeds the progress bar.
_OBJECTS_PER_OPTION = 2.54
_OBJECTS_LESS = 305

# Seconds that make gets to end after SIGTERM.
_GRACE = 10.0

_COMPILED = re.compile(r"^  (?:CC|AS) ")
_FAILED = re.compile(r"error:|Error \d|undefined reference|No space left|Killed|fatal")


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel that is built.

    Attributes:
        image: the bzImage.
        config: its ``.config``.
        version: what ``uname -r`` says on it.
        size: bytes of the image.
    """

    image: Path
    config: Path
    version: str
    size: int


def build_kernel(
    fragments: Sequence[str] = (),
    *,
    source: Path | None = None,
    jobs: int | None = None,
    dry_run: bool = False,
) -> Kernel:
    """The kernel of the base fragments and these, from the cache if it was built before.

    A build takes about 7 minutes on 2 cores.

    Args:
        fragments: names (``bench``, ``hardware``), files, ``-`` for standard input, or ``CONFIG_X=y``.
        source: the top of a kernel tree; Debian's linux-source if None.
        jobs: processes of make; one for each processor if None.
        dry_run: print the commands instead; the result then names files that are not there.

    Raises:
        UserError: no source, no compiler, a wrong fragment, a lost symbol, a failed build, a full disk.
    """
    return build_fragments(load(fragments), source=source, jobs=jobs, dry_run=dry_run)


def build_fragments(
    pieces: Sequence[Fragment],
    *,
    source: Path | None = None,
    jobs: int | None = None,
    dry_run: bool = False,
) -> Kernel:
    """As :func:`build_kernel`, with fragments that are read already, the base among them."""
    tree = find_source(source)
    result = cached_path(tree, pieces)
    if not (result / "kernel.json").is_file():
        # In the user's own tree a build goes on where the last one ended; Debian's never changes.
        name = result.name if tree.tarball else content_key(str(tree.directory), _asked(pieces))
        work = cache_directory("kernel") / "work" / name
        jobs = jobs or len(os.sched_getaffinity(0))
        if dry_run:
            configure(tree, pieces, work, dry_run=True)
            print(command_line(_make_command(tree, work, jobs)))
            return Kernel(result / "bzImage", result / "config", "", 0)
        with _locked(name):
            if not (result / "kernel.json").is_file():
                _build(tree, pieces, work, result, jobs)
    about = json.loads((result / "kernel.json").read_text())
    return Kernel(
        result / "bzImage", result / "config", about["version"], (result / "bzImage").stat().st_size
    )


def cached_path(tree: Source, pieces: Sequence[Fragment]) -> Path:
    """Where the kernel of this source, these fragments and this machine's compiler is, once it is built."""
    key = content_key(RECIPE, CFLAGS, tree.identity, _asked(pieces), _toolchain())
    return cache_directory("kernel") / "image" / key


def _asked(pieces: Sequence[Fragment]) -> str:
    return "\n".join(sorted(assignment.line for assignment in merge(pieces).values()))


def _toolchain() -> str:
    """The versions of what shapes the image's bytes."""
    versions = []
    for program, package in (("gcc", "gcc"), ("ld", "binutils"), ("zstd", "zstd")):
        said = run([require(program, package), "--version"], env=environment()).decode()
        versions.append(said.partition("\n")[0])
    return "\n".join(versions)


def _make_command(tree: Source, work: Path, jobs: int) -> list[str]:
    compiler = "ccache gcc" if shutil.which("ccache", path=environment()["PATH"]) else "gcc"
    return [
        "make",
        "-C",
        str(tree.directory),
        f"O={work}",
        f"-j{jobs}",
        f"CC={compiler}",
        f"HOSTCC={compiler}",
        f"KCFLAGS={CFLAGS}",
        # A rustc that happens to be installed would leave its version in the configuration and the image.
        "RUSTC=/bin/false",
        # A tree under git gets no "+" or commit in its version.
        "LOCALVERSION=",
        "bzImage",
    ]


def _make_environment(tree: Source) -> dict[str, str]:
    """Fixed names and dates: an image is the same everywhere; and ccache, without our paths in its keys."""
    top = cache_directory("kernel")
    return environment() | {
        "KBUILD_BUILD_TIMESTAMP": f"@{tree.timestamp()}",
        "KBUILD_BUILD_USER": "orioncache",
        "KBUILD_BUILD_HOST": "orioncache",
        "KBUILD_BUILD_VERSION": "1",
        "CCACHE_DIR": str(top / "ccache"),
        "CCACHE_BASEDIR": str(top),
        "CCACHE_NOHASHDIR": "1",
        "CCACHE_MAXSIZE": CCACHE_SIZE,
    }


def _build(tree: Source, pieces: Sequence[Fragment], work: Path, result: Path, jobs: int) -> None:
    tree.unpack()
    require_room(cache_directory("kernel"), BUILD_BYTES, "a kernel's build")
    started = time.monotonic()
    log = cache_directory("kernel") / "log" / f"{result.name}.log"
    log.parent.mkdir(exist_ok=True)
    try:
        if tree.tarball:
            # What a build left that was killed and could not clean up.
            shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True, exist_ok=True)
        values = configure(tree, pieces, work)
        objects = _make(tree, work, log, jobs, _expected_objects(values))
        with replacing_directory(result) as aside:
            shutil.copyfile(work / "arch/x86/boot/bzImage", aside / "bzImage")
            shutil.copyfile(work / ".config", aside / "config")
            about = {
                "version": (work / "include/config/kernel.release").read_text().strip(),
                "source": tree.identity,
                "toolchain": _toolchain(),
                "fragments": [fragment.name for fragment in pieces],
                "objects": objects,
                "seconds": round(time.monotonic() - started, 1),
            }
            (aside / "kernel.json").write_text(json.dumps(about, indent=1) + "\n")
    finally:
        # The user's own tree keeps its build for the next change; ccache remembers Debian's.
        if tree.tarball:
            shutil.rmtree(work, ignore_errors=True)


def _expected_objects(values: Mapping[str, str]) -> int:
    on = sum(value == "y" for value in values.values())
    return max(round(_OBJECTS_PER_OPTION * on) - _OBJECTS_LESS, 300)


def _make(tree: Source, work: Path, log: Path, jobs: int, expected: int) -> int:
    """Runs make; returns how many objects it compiled."""
    command = _make_command(tree, work, jobs)
    cost = f"about {expected} objects, some 7 minutes on 2 cores, less with what ccache holds"
    compiled = 0
    # A session of its own: a Ctrl-C reaches us alone, and we end make with all that it started.
    with (
        step("compiling the kernel", cost, total=expected) as progress,
        log.open("w", buffering=1) as file,  # by lines, so that the log can be followed
        subprocess.Popen(
            command,
            env=_make_environment(tree),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as make,
    ):
        assert make.stdout is not None
        try:
            for line in make.stdout:
                file.write(line)
                if _COMPILED.match(line):
                    compiled += 1
                progress.update(min(compiled, expected), line.strip()[:60])
            code = make.wait()
        except BaseException:
            _end_group(make)
            raise
        if code:
            file.flush()
            raise _failure(log)
    return compiled


def _end_group(process: subprocess.Popen[str]) -> None:
    """Ends a process that leads its own group, and all of the group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            continue


def _failure(log: Path) -> UserError:
    """What went wrong, from the log: the first line that says so."""
    lines = log.read_text(errors="replace").splitlines()
    telling = [line.strip() for line in lines if _FAILED.search(line)] or [
        line.strip() for line in lines[-1:]
    ]
    if any("No space left" in line for line in telling):
        return UserError(
            "the disk is full: the kernel's build stopped", "free 2 GB, or point ORION_CACHE at another disk"
        )
    for line in telling[1:12]:
        if not line.startswith("make"):
            print(line, file=sys.stderr)
    reason = telling[0][:200] if telling else "make said nothing"
    return UserError(f"the kernel's build failed: {reason}", f"its log is {log}")


@contextmanager
def _locked(name: str) -> Iterator[None]:
    """One build of a kind at a time; the lock goes with the process that holds it."""
    path = cache_directory("kernel") / "lock" / name
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another process builds this kernel; waiting for it …", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
