"""Where control sockets are."""

import os
import zlib
from pathlib import Path

SOCKETS = "/run/orion"


def socket_directory() -> Path:
    """Where this user's sockets are."""
    if os.geteuid() == 0:
        return Path(SOCKETS)
    return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/orion-{os.geteuid()}") / "orion"


def socket_path(mountpoint: str) -> str:
    """The socket of the cache on a mount point: short enough for any, and the same each time."""
    name = Path(mountpoint).name[:24] or "root"
    return str(socket_directory() / f"{name}-{zlib.crc32(os.fsencode(mountpoint)):08x}.sock")
