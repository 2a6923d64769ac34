"""Reads an initramfs as the kernel does: archives one after another, each raw or in a zstd frame."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from orioncache.errors import UserError
from orioncache.initramfs.cpio import MAGIC, BadArchiveError, Entry, unpack

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def read_image(path: Path) -> dict[str, Entry]:
    """The image's entries: path without a leading slash -> entry; later archives win.

    Raises:
        UserError: it is no initramfs, or one in a format that our kernels do not unpack either.
    """
    import zstandard  # noqa: PLC0415

    found: dict[str, Entry] = {}
    data = path.read_bytes()
    try:
        while data := data.lstrip(b"\0"):
            if data.startswith(ZSTD_MAGIC):
                frame = zstandard.ZstdDecompressor().decompressobj()
                found |= unpack(frame.decompress(data))
                data = frame.unused_data
            elif data.startswith(MAGIC):
                found |= unpack(data)
                data = b""
            else:
                data, found = b"", {}
    except (BadArchiveError, zstandard.ZstdError) as error:
        raise UserError(
            f"{path} is no initramfs of ours: {error}", "build one: orioncache initramfs build"
        ) from None
    if not found:
        raise UserError(
            f"{path} holds something that is neither zstd nor cpio", "build one: orioncache initramfs build"
        )
    return found


@dataclasses.dataclass(frozen=True)
class Change:
    """How one path differs between two images.

    Attributes:
        sign: ``+`` only in the second, ``-`` only in the first, ``~`` in both but not the same.
        path: with a leading slash.
        before: bytes in the first image, or None.
        after: bytes in the second image, or None.
        what: what differs where the sign is ``~``.
    """

    sign: str
    path: str
    before: int | None
    after: int | None
    what: str = ""


def compare(old: Mapping[str, Entry], new: Mapping[str, Entry]) -> list[Change]:
    """All differences, sorted by path."""
    changes = []
    for path in sorted(old.keys() | new.keys()):
        before, after = old.get(path), new.get(path)
        if before == after:
            continue
        if before is None or after is None:
            size = len((before or after or Entry(0)).data)
            changes.append(
                Change("-" if before else "+", f"/{path}", *((size, None) if before else (None, size)))
            )
        else:
            kinds = (("mode", before.mode != after.mode), ("content", before.data != after.data))
            what = ", ".join([name for name, differs in kinds if differs] or ["device"])
            changes.append(Change("~", f"/{path}", len(before.data), len(after.data), what))
    return changes


# The parts that people ask about, by the beginning of a path; the first that fits.
_GROUPS = (
    ("Python interpreter", ("usr/bin/",)),
    ("orioncache", ("usr/lib/python3*/orioncache/",)),
    ("trio and what it needs", tuple(f"usr/lib/python3*/{name}" for name in
        ("trio/", "attr/", "attrs/", "outcome/", "sniffio/", "sortedcontainers/", "idna/"))),
    ("pyfuse3, libfuse", ("usr/lib/python3*/pyfuse3/", "lib/x86_64-linux-gnu/libfuse3")),
    ("cffi", ("usr/lib/python3*/_cffi", "usr/lib/python3*/cffi/")),
    ("standard library", ("usr/lib/python3*/",)),
    ("shared libraries", ("lib/x86_64-linux-gnu/", "lib64/")),
    ("busybox", ("bin/busybox",)),
    ("init and helpers", ("",)),
)  # fmt: skip


def group_of(path: str) -> str:
    """Which of the parts that people ask about a file belongs to."""
    head, slash, tail = path.partition("python3")
    plain = f"{head}{slash}*/{tail.partition('/')[2]}" if slash and tail.partition("/")[1] else path
    return next(name for name, starts in _GROUPS if plain.startswith(starts))
