"""Whether a source directory is a release or a plain tree."""

import os
import stat

MANIFEST = "manifest"
SIGNATURE = "manifest.sig"
PACKS = "packs"
MAGIC = b"ORIONMF\n"


def is_release(directory: int) -> bool:
    """Whether a directory holds a release: a ``manifest`` that begins like one, beside ``packs/``.

    Blocks, if the directory is on a server. Opens nothing but a regular file.

    Args:
        directory: its descriptor; O_PATH is enough.

    Raises:
        OSError: the source could not be asked.
    """
    try:
        if not stat.S_ISDIR(os.stat(PACKS, dir_fd=directory, follow_symlinks=False).st_mode):
            return False
        if not stat.S_ISREG(os.stat(MANIFEST, dir_fd=directory, follow_symlinks=False).st_mode):
            return False
    except (FileNotFoundError, NotADirectoryError):
        return False
    fd = os.open(MANIFEST, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    try:
        return os.pread(fd, len(MAGIC), 0) == MAGIC
    finally:
        os.close(fd)


def pack_name(identity: bytes) -> bytes:
    """The name of a pack's file in ``packs/``."""
    return identity.hex().encode() + b".pack"
