"""What a test needs of the machine; without it, it is skipped aloud."""

import os
import shutil
from pathlib import Path

import pytest

QEMU_PROGRAM = "qemu-system-x86_64"
BUSYBOX_PROGRAM = Path("/bin/busybox")

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces, mounts and device nodes need root rights")
QEMU = pytest.mark.skipif(shutil.which(QEMU_PROGRAM) is None, reason="qemu-system-x86 is not installed")
GANESHA = pytest.mark.skipif(shutil.which("ganesha.nfsd") is None, reason="nfs-ganesha is not installed")
NBD = pytest.mark.skipif(
    any(shutil.which(program) is None for program in ("mksquashfs", "nbd-server", "nbd-client")),
    reason="squashfs-tools, nbd-server or nbd-client is not installed",
)
BUSYBOX = pytest.mark.skipif(not BUSYBOX_PROGRAM.is_file(), reason="busybox-static is not installed")
