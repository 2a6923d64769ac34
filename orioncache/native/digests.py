"""The digests that a release can be built with, and the signature of its manifest (native/digest.h)."""

from orioncache.native import Buffer
from orioncache.native._orion import ffi, lib

XXH3_128 = 1
BLAKE2B_256 = 2
SHA_256 = 3

KINDS = {"xxh3": XXH3_128, "blake2b": BLAKE2B_256, "sha256": SHA_256}
SIGNATURE_SIZE: int = lib.ORION_SIGNATURE_SIZE
PUBLIC_KEY_SIZE: int = lib.ORION_PUBLIC_KEY_SIZE
_MAX: int = lib.ORION_DIGEST_MAX


def size(kind: int) -> int:
    """Bytes of a digest of this kind; 0 if there is no such kind."""
    return int(lib.orion_digest_size(kind)) if 0 <= kind < 1 << 32 else 0


def digest(kind: int, data: Buffer) -> bytes:
    """The digest of ``data``.

    Raises:
        ValueError: there is no such kind.
    """
    length = _known(kind)
    view = ffi.from_buffer("uint8_t[]", data)
    found = ffi.new("uint8_t[]", _MAX)
    lib.orion_digest_bytes(kind, view, len(view), found)
    return bytes(ffi.buffer(found, length))


def manifest_digest(kind: int, data: Buffer) -> bytes:
    """The digest that belongs into the header of the manifest ``data``.

    Raises:
        ValueError: there is no such kind, or ``data`` is too short for a header.
    """
    length = _known(kind)
    view = ffi.from_buffer("uint8_t[]", data)
    if len(view) < 512:
        raise ValueError(f"{len(view)} bytes are no manifest")
    found = ffi.new("uint8_t[]", _MAX)
    lib.orion_manifest_digest(kind, view, len(view), found)
    return bytes(ffi.buffer(found, length))


def signature_is_good(kind: int, digest: Buffer, signature: Buffer, key: Buffer) -> bool:
    """Whether the owner of an Ed25519 key signed the manifest with this digest.

    Args:
        kind: the digest's; one that anybody can forge (xxh3) proves nothing, and makes no signature good.
        digest: the manifest's.
        signature: ``SIGNATURE_SIZE`` bytes.
        key: the public key, ``PUBLIC_KEY_SIZE`` bytes.
    """
    views = [ffi.from_buffer("uint8_t[]", buffer) for buffer in (digest, signature, key)]
    if kind == XXH3_128 or [len(view) for view in views] != [size(kind), SIGNATURE_SIZE, PUBLIC_KEY_SIZE]:
        return False
    return bool(lib.orion_signature_verify(kind, *views) == 0)


def _known(kind: int) -> int:
    length = size(kind)
    if not length:
        raise ValueError(f"there is no digest of kind {kind}")
    return length
