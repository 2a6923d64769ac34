"""QEMU's command line, and how one boot is followed to its end: with a program that plays QEMU's part."""

import threading
from pathlib import Path

import pytest

from orioncache.bench.qemu import Machine, boot, choose_accel
from orioncache.errors import UserError


def machine(**changes):
    fields = {"kernel": Path("/k"), "initrd": Path("/i"), "append": ["a=1", "b"], "memory_mb": 512}
    return Machine(**{**fields, **changes})


def after(command, option):
    return command[command.index(option) + 1]


class Played(Machine):
    """A machine whose QEMU is a shell script; it is given the directory for its logs."""

    def command(self, directory):
        return ["/bin/sh", "-c", self.append[0], "sh", str(directory)]


def play(script, directory, timeout=20.0, stop=None):
    guest = Played(kernel=Path("/k"), initrd=Path("/i"), append=[script], memory_mb=1)
    return boot(guest, directory, timeout, stop)


def test_a_virtual_clock_counts_instructions_and_a_wall_clock_does_not(tmp_path):
    virtual = machine(virtual=True, seed=7).command(tmp_path)
    assert after(virtual, "-icount") == "shift=0,sleep=off"
    assert after(virtual, "-seed") == "7"
    assert "-erms" in after(virtual, "-cpu")
    assert after(virtual, "-append") == "a=1 b"
    assert "-icount" not in machine().command(tmp_path)
    assert after(machine(accel="kvm").command(tmp_path), "-cpu") == "host"


def test_a_guest_cannot_write_to_the_root_image(tmp_path):
    image = tmp_path / "image"
    image.write_bytes(bytes(4096))
    backend = after(machine(disk=image).command(tmp_path), "-object")
    assert "share=off" in backend
    assert "size=4096" in backend


def test_a_guest_on_a_tap_runs_in_its_namespace(tmp_path):
    command = machine(tap="tap0", space="orion1-node").command(tmp_path)
    assert command[:4] == ["ip", "netns", "exec", "orion1-node"]
    assert "ifname=tap0" in after(command, "-netdev")
    assert "-netdev" not in machine().command(tmp_path)


def test_a_verdict_ends_a_boot_well(tmp_path):
    outcome = play('printf "mark kernel 1\\nverdict ok\\n" >"$1/port"', tmp_path)
    assert outcome.error == ""
    assert outcome.report.marks == {"kernel": 1}


def test_an_earlier_verdict_in_the_same_directory_does_not_count(tmp_path):
    (tmp_path / "port").write_text("mark kernel 1\nverdict ok\n")
    (tmp_path / "console").write_text("Kernel panic - not syncing: of yesterday\n")
    outcome = play("exit 0", tmp_path)
    assert outcome.report.marks == {}
    assert outcome.error == "the guest switched off without a verdict in the phase kernel"


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ('printf "verdict failed no luck\\n" >"$1/port"', "no luck"),
        ('printf "mark kernel 1\\nmark start 2\\n" >"$1/port"', "without a verdict in the phase initramfs"),
        ("echo no such machine >&2; exit 1", "exit code 1"),
        (
            'echo "[ 1.0] Kernel panic - not syncing: why" >"$1/console"',
            "panicked in the phase kernel: Kernel panic",
        ),
    ],
)
def test_other_ends_are_told_apart(tmp_path, script, error):
    assert error in play(script, tmp_path).error


def test_a_guest_that_hangs_is_ended(tmp_path):
    outcome = play('printf "mark kernel 1\\n" >"$1/port"; exec sleep 1000', tmp_path, timeout=1)
    assert outcome.error == "the guest gave no verdict within 1 s; it hung in the phase scene"
    assert outcome.real_s < 10


def test_a_boot_is_broken_off_when_asked(tmp_path):
    stop = threading.Event()
    stop.set()
    assert play("exec sleep 1000", tmp_path, timeout=1000, stop=stop).real_s < 10


def test_a_virtual_clock_is_not_for_kvm():
    assert choose_accel("auto", virtual=True) == ("tcg", "")
    assert choose_accel("tcg", virtual=False) == ("tcg", "")
    with pytest.raises(UserError, match="virtual clock"):
        choose_accel("kvm", virtual=True)
