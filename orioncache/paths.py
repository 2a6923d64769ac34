"""Where built things are kept."""

import hashlib
import os
import shutil
from pathlib import Path

from orioncache.errors import UserError


def cache_directory(kind: str) -> Path:
    """The directory for built things of one kind (``kernel``, ``root``, …), made if it is not there.

    It lies under ``$ORION_CACHE``, or else under ``$XDG_CACHE_HOME/orioncache`` or ``~/.cache/orioncache``.
    """
    top = os.environ.get("ORION_CACHE")
    if top is None:
        top = f"{os.environ.get('XDG_CACHE_HOME') or Path('~/.cache').expanduser()}/orioncache"
    path = Path(top) / kind
    path.mkdir(parents=True, exist_ok=True)
    return path


def content_key(*parts: str | bytes) -> str:
    """A name of 16 hexadecimal digits for what was built from these parts; part boundaries count."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def require_room(directory: Path, needed: int, what: str) -> None:
    """Makes sure that something to be built fits, before minutes are spent on it.

    Args:
        directory: where it will be; it exists.
        needed: bytes that it takes while it is built.
        what: its name, for people ("the kernel's source").

    Raises:
        UserError: there is less room.
    """
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise UserError(
            f"{directory} has {free / 1e9:.1f} GB free, and {what} takes {needed / 1e9:.1f} GB",
            "free some space, or point ORION_CACHE at another disk",
        )
