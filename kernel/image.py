"""The configuration inside a kernel image, as ``scripts/extract-ikconfig`` finds it.

Layout: the kernel's ``Documentation/arch/x86/boot.rst``; the marks around it are in ``kernel/configs.c``.
"""

import bz2
import gzip
import lzma
import struct
import zlib
from pathlib import Path
from typing import Protocol

from orioncache.errors import UserError

_BOOT_MAGIC = b"HdrS"
_BOOT_MAGIC_AT = 0x202
_SETUP_SECTORS_AT = 0x1F1
_PAYLOAD_AT = 0x248
_SECTOR = 512
_MARK, _END = b"IKCFG_ST", b"IKCFG_ED"


class _Unpacker(Protocol):
    """What all decompressor objects have."""

    @property
    def eof(self) -> bool:
        """Whether the end of the packed data was seen."""

    def decompress(self, data: bytes, /) -> bytes:
        """Unpacks the data up to its end; what follows is left alone."""


def image_config(path: Path) -> str | None:
    """The text of the ``.config`` that a bzImage was built with; None if CONFIG_IKCONFIG was off.

    Raises:
        UserError: ``path`` is no x86 kernel image, or it is damaged.
    """
    image = path.read_bytes()
    if not is_image(image):
        raise UserError(f"{path} is no x86 kernel image (bzImage)", "give a bzImage or vmlinuz file")
    start, length = struct.unpack_from("<II", image, _PAYLOAD_AT)
    # Sector counts of 0 mean 4 (boot.rst); one more sector is the boot sector itself.
    offset = ((image[_SETUP_SECTORS_AT] or 4) + 1) * _SECTOR + start
    payload = image[offset : offset + length]
    try:
        kernel = _decompress(payload)
    except ValueError as error:
        raise UserError(f"{path} cannot be unpacked: {error}", "is the file whole? build it again") from None
    begin = kernel.find(_MARK)
    end = kernel.find(_END, begin)
    if begin < 0 or end < 0:
        return None
    return gzip.decompress(kernel[begin + len(_MARK) : end]).decode()


def is_image(data: bytes) -> bool:
    """Whether these are the first bytes of a bzImage."""
    return len(data) > _PAYLOAD_AT + 8 and data[_BOOT_MAGIC_AT : _BOOT_MAGIC_AT + 4] == _BOOT_MAGIC


def _decompress(payload: bytes) -> bytes:
    # Decompressor objects, because the payload is followed by four bytes with its unpacked size.
    unpacker: _Unpacker
    if payload.startswith(b"\x28\xb5\x2f\xfd"):
        import zstandard  # noqa: PLC0415

        unpacker = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
        damaged: type[Exception] = zstandard.ZstdError
    elif payload.startswith(b"\x1f\x8b"):
        unpacker, damaged = zlib.decompressobj(wbits=31), zlib.error
    elif payload.startswith((b"\xfd7zXZ", b"\x5d\x00\x00")):
        unpacker, damaged = lzma.LZMADecompressor(), lzma.LZMAError
    elif payload.startswith(b"BZh"):
        unpacker, damaged = bz2.BZ2Decompressor(), OSError
    else:
        raise ValueError("its compression is none of zstd, gzip, xz, lzma and bzip2")
    try:
        kernel = unpacker.decompress(payload)
    except damaged as error:
        raise ValueError(str(error)) from None
    if not unpacker.eof:
        raise ValueError("it is cut short")
    return kernel
