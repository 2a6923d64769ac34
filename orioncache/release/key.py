"""Public keys: files of one line, the 64 hexadecimal digits of an Ed25519 key."""

import os

from orioncache.errors import UserError

KEY_SIZE = 32


def read_public_key(path: str | os.PathLike[str]) -> bytes:
    """The 32 bytes of a public key.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    try:
        with open(path, encoding="ascii") as file:  # noqa: PTH123  # pathlib is slow to import on a node
            key = bytes.fromhex(file.read(1024).strip())
    except OSError as error:
        raise UserError(f"public key {path}: {error.strerror}", "check the path that key names") from None
    except ValueError:
        key = b""
    if len(key) != KEY_SIZE:
        raise UserError(
            f"{path} is no public key", "give the .pub file that orioncache release keygen has written"
        )
    return key
