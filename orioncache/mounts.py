"""What kind of file system something is on."""

import os

NFS_TYPES = ("nfs", "nfs4")


def filesystem_type(device: int) -> str:
    """The type of the mounted file system with this device number; empty if it cannot be told."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as lines:  # noqa: PTH123
            for line in lines:
                before, _, after = line.partition(" - ")
                if before.split()[2] == wanted:
                    return after.split()[0]
    except OSError:
        pass
    return ""
