"""QEMU: its command line, whether KVM works here, and one boot from start to verdict."""

import contextlib
import dataclasses
import datetime
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from orioncache.bench.verdict import Report, parse
from orioncache.errors import UserError
from orioncache.process import command_line, require

PORT = "orion.bench"
CONSOLE_TAIL = 25  # lines
POLL = 0.1  # seconds between two looks at what the guest said

# A guest that has said its verdict switches itself off; one that cannot is ended after this (seconds).
POWER_OFF_DEADLINE = 10.0

# String instructions count once per iteration under icount: without these the kernel copies by words.
CPU_ICOUNT = "max,-erms,-fsrm"

# Kernel and user code by the microsecond, not by the host's mood: 1 ns per instruction, and idling leaps.
ICOUNT = "shift=0,sleep=off"


@dataclasses.dataclass(frozen=True)
class Machine:
    """A guest.

    Attributes:
        kernel: bzImage.
        initrd: cpio.
        append: words of the kernel command line.
        memory_mb: MiB.
        accel: ``tcg`` or ``kvm``.
        virtual: whether it has a clock of its own, counted in instructions.
        seed: of the random numbers that QEMU itself makes; the same seed repeats a virtual-clock boot.
        disk: a raw image that the guest sees as persistent memory (/dev/pmem0); it cannot change it.
        tap: a tap device to connect to; empty for no network card.
        space: network namespace to run in; empty for ours.
    """

    kernel: Path
    initrd: Path
    append: Sequence[str]
    memory_mb: int
    accel: str = "tcg"
    virtual: bool = False
    seed: int = 1
    disk: Path | None = None
    tap: str = ""
    space: str = ""

    def _date(self) -> str:
        """The guest's date: the same for every boot of one root, and later than all files in it.

        Services act on times to come: runsvdir waits until its directory's is past.
        """
        seconds = self.disk.stat().st_mtime if self.disk is not None and self.disk.exists() else 0
        day = datetime.datetime.fromtimestamp(seconds, datetime.UTC) + datetime.timedelta(days=1)
        return day.strftime("%Y-%m-%dT00:00:00")

    def command(self, directory: Path) -> list[str]:
        """The command line; the guest's console and port are written to files in ``directory``."""
        qemu = require("qemu-system-x86_64", "qemu-system-x86")
        words = [qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        words += ["-accel", self.accel, "-smp", "1", "-seed", str(self.seed)]
        words += ["-cpu", "host" if self.accel == "kvm" else CPU_ICOUNT if self.virtual else "max"]
        if self.virtual:
            words += ["-icount", ICOUNT, "-rtc", f"base={self._date()},clock=vm"]
        words += ["-kernel", str(self.kernel), "-initrd", str(self.initrd), "-append", " ".join(self.append)]
        if self.disk is None:
            words += ["-machine", "pc", "-m", f"{self.memory_mb}M"]
        else:
            # share=off: what the guest writes stays in its own copy of a page.
            size = self.disk.stat().st_size if self.disk.exists() else 0
            words += [
                "-machine",
                "pc,nvdimm=on",
                "-m",
                f"{self.memory_mb}M,slots=1,maxmem={self.memory_mb + 65536}M",
            ]
            words += ["-object", f"memory-backend-file,id=root,mem-path={self.disk},size={size},share=off"]
            words += ["-device", "nvdimm,id=pmem0,memdev=root"]
        words += ["-serial", f"file:{directory / 'console'}"]
        words += ["-device", "virtio-serial", "-chardev", f"file,id=port,path={directory / 'port'}"]
        words += ["-device", f"virtserialport,chardev=port,name={PORT}"]
        if self.tap:
            words += ["-netdev", f"tap,id=link,ifname={self.tap},script=no,downscript=no"]
            words += ["-device", "virtio-net-pci,netdev=link,romfile="]
        # Its end if we die without a chance to end it.
        guarded = [require("setpriv", "util-linux"), "--pdeathsig", "KILL", *words]
        return ["ip", "netns", "exec", self.space, *guarded] if self.space else guarded


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a boot ended.

    Attributes:
        report: what the guest said.
        error: one line; empty if the verdict was ok.
        console: the last lines of its console, for an error.
        real_s: seconds that it took here.
    """

    report: Report
    error: str
    console: Sequence[str]
    real_s: float


def boot(machine: Machine, directory: Path, timeout: float, stop: threading.Event | None = None) -> Outcome:
    """Boots a guest to its verdict; QEMU is gone when this returns, however it returns.

    Args:
        machine: the guest.
        directory: for its logs: ``console``, ``port``, ``qemu``, ``command``.
        timeout: seconds of real time until it counts as hung.
        stop: ends the boot early when set by another thread.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("console", "port"):
        # An earlier bench's verdict must not be taken for this one's.
        (directory / name).unlink(missing_ok=True)
    command = machine.command(directory)
    (directory / "command").write_text(command_line(command) + "\n")
    started = time.monotonic()
    with (directory / "qemu").open("wb") as log:
        # In a session of its own: a Ctrl-C is for us, who end it in order.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            ended = _wait(process, directory / "port", started + timeout, stop)
        finally:
            process.kill()
            process.wait()
    report = parse(_read(directory / "port"))
    console = _read(directory / "console").decode(errors="replace").replace("\r", "").splitlines()
    error = _error(
        report,
        console,
        ended=ended,
        code=process.returncode,
        timeout=timeout,
        said=_read(directory / "qemu").decode(errors="replace"),
    )
    return Outcome(report, error, console[-CONSOLE_TAIL:], time.monotonic() - started)


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _wait(
    process: subprocess.Popen[bytes], port: Path, deadline: float, stop: threading.Event | None
) -> bool:
    """Waits for QEMU's end; False if it had to be given up."""
    said = False
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(POLL)
            return True
        if not said and port.exists() and b"\nverdict " in port.read_bytes():
            said = True
            deadline = min(deadline, time.monotonic() + POWER_OFF_DEADLINE)
        if time.monotonic() > deadline or (stop is not None and stop.is_set()):
            return said


def _error(
    report: Report, console: Sequence[str], *, ended: bool, code: int, timeout: float, said: str
) -> str:
    """Why the boot failed, in one line; empty if it did not."""
    if report.verdict == "ok":
        return ""
    if report.verdict:
        return report.message or "the guest reported a failure"
    panics = [line for line in console if "Kernel panic" in line or "Oops" in line]
    where = f"in the phase {report.phase()}"
    if panics:
        return f"the guest's kernel panicked {where}: {panics[0].partition('] ')[2] or panics[0]}"
    if not ended:
        return f"the guest gave no verdict within {timeout:.0f} s; it hung {where}"
    if code:
        lines = said.strip().splitlines()
        return f"QEMU ended with exit code {code}: {lines[-1] if lines else 'it said nothing'}"
    return f"the guest switched off without a verdict {where}"


# mov $0x2f, %al; mov $0xf4, %dx; out %al, %dx; jmp .: QEMU's debug-exit device ends it with (0x2f << 1) | 1.
_PROBE = bytes.fromhex("b02f baf400 ee ebfe")
_PROBE_EXIT = (0x2F << 1) | 1
# A working KVM needs a tenth of a second. Nested ones that open and then crawl were seen to take 5 and more.
PROBE_DEADLINE = 2.0


def kvm_problem() -> str:
    """Why KVM cannot be used here, in one line; empty if it works. Found by booting a few instructions."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "there is no /dev/kvm that may be opened"
    with tempfile.TemporaryDirectory() as directory:
        sector = Path(directory, "sector")
        sector.write_bytes(_PROBE.ljust(510, b"\0") + b"\x55\xaa")
        command = [
            require("qemu-system-x86_64", "qemu-system-x86"),
            "-accel",
            "kvm",
            "-nodefaults",
            "-display",
            "none",
        ]
        command += [
            "-device",
            "isa-debug-exit,iobase=0xf4",
            "-drive",
            f"format=raw,file={sector}",
            "-no-reboot",
        ]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=PROBE_DEADLINE
            )
        except subprocess.TimeoutExpired:
            return f"/dev/kvm opens, but a guest of 4 instructions did not end within {PROBE_DEADLINE:.0f} s"
    if done.returncode != _PROBE_EXIT:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        why = said[-1] if said else f"exit code {done.returncode}"
        return f"/dev/kvm opens, but a guest does not run: {why}"
    return ""


def choose_accel(wanted: str, virtual: bool) -> tuple[str, str]:
    """The accelerator, and a remark for the user if it is not the obvious one.

    Args:
        wanted: auto, kvm or tcg.
        virtual: whether the guest gets a virtual clock, which TCG alone can give.

    Raises:
        UserError: KVM was asked for and cannot be used.
    """
    if virtual and wanted == "kvm":
        raise UserError(
            "a virtual clock counts instructions, which KVM cannot", "--clock wall, or leave --accel out"
        )
    if virtual or wanted == "tcg":
        return "tcg", ""
    problem = kvm_problem()
    if not problem:
        return "kvm", ""
    if wanted == "kvm":
        raise UserError(f"KVM does not work here: {problem}", "--accel tcg emulates the processor")
    return (
        "tcg",
        f"KVM does not work here ({problem}): the processor is emulated, 10 to 20 times slower than real",
    )
