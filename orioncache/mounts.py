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


def descriptor_place(fd: int) -> tuple[str, str] | None:
    """Device and inode number of an O_PATH descriptor; None for other ones, and if they cannot be told.

    What the kernel knows of it (proc(5), fdinfo): a server that does not answer is not asked, as it is by
    fstat(2).
    """
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as lines:  # noqa: PTH123
            found = dict(line.split(":", 1) for line in lines if ":" in line)
        mount = found["mnt_id"].strip()
        if not int(found["flags"], 8) & os.O_PATH:
            return None
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as lines:  # noqa: PTH123
            for line in lines:
                words = line.split(maxsplit=3)
                if words[0] == mount:
                    return words[2], found["ino"].strip()
    except (OSError, KeyError, ValueError):
        pass
    return None
