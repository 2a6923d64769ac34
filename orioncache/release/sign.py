"""Keys and signatures of releases: Ed25519, by libsodium (PyNaCl).

A key is a file of one line of hexadecimal digits: 64 of a public key, or 64 of a secret one (its seed).
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from orioncache.atomic import replacing
from orioncache.errors import UserError
from orioncache.native import digests
from orioncache.release import bundle as bundles
from orioncache.release.bundle import Bundle, BundleError
from orioncache.release.packs import read_header
from orioncache.release.store import Release

if TYPE_CHECKING:
    from nacl.signing import SigningKey

PURPOSE = b"orion manifest v1\0"
BUNDLE_PURPOSE = b"orion bundle v1\0"
KEY_SIZE = 32


def message(kind: int, digest: bytes) -> bytes:
    """What a signature of the manifest with this digest is over."""
    return PURPOSE + kind.to_bytes(4, "little") + digest.ljust(32, b"\0")


def bundle_message(bundle: Bundle) -> bytes:
    """What a signature of this bundle is over."""
    return BUNDLE_PURPOSE + bundle.digest_kind.to_bytes(4, "little") + bundle.digest.ljust(32, b"\0")


def bundle_is_signed(bundle: Bundle, key: bytes) -> bool:
    """Whether the owner of a public key signed a bundle; xxh3 proves nothing."""
    from nacl.exceptions import BadSignatureError  # noqa: PLC0415
    from nacl.signing import VerifyKey  # noqa: PLC0415

    if bundle.digest_kind == digests.XXH3_128:
        return False
    try:
        VerifyKey(key).verify(bundle_message(bundle), bundles.signature(bundle.path).read_bytes())
    except (FileNotFoundError, ValueError, BadSignatureError):
        return False
    return True


def read_key(path: Path, what: str) -> bytes:
    """The 32 bytes of a key.

    Raises:
        UserError: the file holds none.
    """
    try:
        text = path.read_text(encoding="ascii").strip()
        key = bytes.fromhex(text)
    except FileNotFoundError:
        raise UserError(
            f"{path} is not there", "orioncache release keygen FILE makes a pair of keys"
        ) from None
    except ValueError:
        key = b""
    if len(key) != KEY_SIZE:
        raise UserError(f"{path} holds no {what} key", "a key is one line of 64 hexadecimal digits")
    return key


def keygen(path: Path) -> Path:
    """Writes a new secret key, for its owner alone, and beside it the public one; returns that path.

    Raises:
        UserError: there is a file already.
    """
    from nacl.signing import SigningKey  # noqa: PLC0415

    public = path.with_name(path.name + ".pub")
    for each in (path, public):
        if each.exists():
            raise UserError(
                f"{each} is there already", "a key that is overwritten is lost: give another name"
            )
    key = SigningKey.generate()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="ascii") as file:
        file.write(key.encode().hex() + "\n")
    with replacing(public) as out:
        out.write((key.verify_key.encode().hex() + "\n").encode())
    return public


def sign(release: Release, secret: bytes) -> bytes:
    """Signs a release and its bundles; returns the public key that belongs to the secret one.

    Raises:
        UserError: its digests are of a kind that proves nothing, or a bundle is broken.
    """
    from nacl.signing import SigningKey  # noqa: PLC0415

    header = read_header(release.manifest)
    if header.digest_kind == digests.XXH3_128:
        raise UserError(
            f"{release} has xxh3 digests, which anybody can forge: a signature would prove nothing",
            "build it with --digest blake2b",
        )
    key = SigningKey(secret)
    found = [Bundle(path) for path in bundles.bundles(release.path)]
    for bundle in found:
        if bundle.manifest != header.digest:
            raise BundleError(f"{bundle.path} belongs to another release", "remove it")
    signature = key.sign(message(header.digest_kind, header.digest)).signature
    with replacing(release.signature) as file:
        file.write(signature)
    for bundle in found:
        _sign(bundle, key)
    return bytes(key.verify_key)


def is_signed_by(release: Release, secret: bytes) -> bool:
    """Whether a release is signed by the owner of a secret key."""
    from nacl.signing import SigningKey  # noqa: PLC0415

    header = read_header(release.manifest)
    public = bytes(SigningKey(secret).verify_key)
    try:
        signature = release.signature.read_bytes()
    except FileNotFoundError:
        return False
    return digests.signature_is_good(header.digest_kind, header.digest, signature, public)


def sign_bundle(path: Path, secret: bytes) -> None:
    """Signs a bundle whose release is signed with this key.

    Raises:
        BundleError: it is broken.
    """
    from nacl.signing import SigningKey  # noqa: PLC0415

    _sign(Bundle(path), SigningKey(secret))


def _sign(bundle: Bundle, key: "SigningKey") -> None:
    with replacing(bundles.signature(bundle.path)) as file:
        file.write(key.sign(bundle_message(bundle)).signature)
