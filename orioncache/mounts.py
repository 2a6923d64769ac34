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


def mounted_from(path: str) -> str:
    """What is mounted where a path is, such as ``10.0.0.1:/srv``; by its name alone, so nobody is asked."""
    path = os.path.abspath(path)  # noqa: PTH100
    best, found = "", ""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:  # noqa: PTH123
            for line in lines:
                before, _, after = line.partition(" - ")
                point = _plain(before.split()[4])
                # The later one is above.
                if len(point) >= len(best) and (path + "/").startswith(point.rstrip("/") + "/"):
                    best, found = point, _plain(after.split()[1])
    except OSError:
        pass
    return found


def _plain(text: str) -> str:
    """A field of mountinfo without its escapes (proc(5): octal, of space, tab, newline and backslash)."""
    for code in ("040", "011", "012", "134"):
        text = text.replace(f"\\{code}", chr(int(code, 8)))
    return text
