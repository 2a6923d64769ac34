"""Where built things are kept."""

import hashlib
import os
from pathlib import Path


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
