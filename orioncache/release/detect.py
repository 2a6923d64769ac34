"""Whether a source directory is a release or a plain tree."""

import os
import stat

MANIFEST = "manifest"
SIGNATURE = "manifest.sig"
PACKS = "packs"
MAGIC = b"ORIONMF\n"


def is_release(directory: int) -> bool:
    """Whether a directory holds a release: a regular file ``manifest`` beside ``packs/``.

    Whatever the manifest holds: a damaged one is to be refused, not shown as a file of a plain tree. Blocks,
    if the directory is on a server.

    Args:
        directory: its descriptor; O_PATH is enough.

    Raises:
        OSError: the source could not be asked.
    """
    try:
        if not stat.S_ISDIR(os.stat(PACKS, dir_fd=directory, follow_symlinks=False).st_mode):
            return False
        return stat.S_ISREG(os.stat(MANIFEST, dir_fd=directory, follow_symlinks=False).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def pack_name(identity: bytes) -> bytes:
    """The name of a pack's file in ``packs/``."""
    return identity.hex().encode() + b".pack"
