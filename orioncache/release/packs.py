"""Which packs a manifest names, and which of their bytes it uses; read without looking at a single inode."""

import os
from collections.abc import Iterator
from pathlib import Path

from orioncache.native.builder import open_quietly
from orioncache.release import format as layout
from orioncache.release.format import Header, ManifestError, Section


def read_section(manifest: Path, section: Section) -> bytes:
    """One section of a manifest, as it lies in the file.

    Raises:
        ManifestError: it is damaged.
    """
    fd = open_quietly(manifest)
    try:
        length = os.fstat(fd).st_size
        header = layout.read_header(os.pread(fd, layout.HEADER_SIZE, 0), length)
        offset, count = header.sections[section]
        wanted = count * layout.record_size(section, header.digest_size)
        pieces = []
        while wanted:
            piece = os.pread(fd, min(wanted, 1 << 30), offset)
            if not piece:
                raise ManifestError("it is cut short")
            pieces.append(piece)
            offset += len(piece)
            wanted -= len(piece)
        return b"".join(pieces)
    finally:
        os.close(fd)


def read_quietly(path: Path) -> bytes:
    """A file's bytes, without that counting as a node's reading."""
    with os.fdopen(open_quietly(path), "rb") as file:
        return file.read()


def read_header(manifest: Path) -> Header:
    """A manifest's header.

    Raises:
        ManifestError: it is damaged.
    """
    fd = open_quietly(manifest)
    try:
        return layout.read_header(os.pread(fd, layout.HEADER_SIZE, 0), os.fstat(fd).st_size)
    finally:
        os.close(fd)


def pack_file(identity: bytes) -> str:
    """The name of a pack's file."""
    return f"{identity.hex()}.pack"


def pack_sizes(manifest: Path) -> dict[str, int]:
    """The files of the packs that a manifest names, in its order, with the bytes that each should have."""
    packs = layout.PACK.iter_unpack(read_section(manifest, Section.PACKS))
    return {pack_file(identity): size for identity, size, _ in packs}


def used_packs(manifest: Path) -> list[str]:
    """The files of the packs that a manifest names, in its order."""
    return list(pack_sizes(manifest))


def has_packs(manifest: Path, directory: Path) -> bool:
    """Whether all packs that a manifest names are in a directory, each as long as it should be.

    Raises:
        ManifestError: it is damaged.
    """
    try:
        return all((directory / name).stat().st_size == size for name, size in pack_sizes(manifest).items())
    except FileNotFoundError:
        return False


def used_ranges(manifest: Path) -> Iterator[tuple[str, int, int]]:
    """For each block its pack's file, its offset and its length."""
    names = used_packs(manifest)
    for offset, pack, length in layout.PLACE.iter_unpack(read_section(manifest, Section.BLOCKS)):
        if pack >= len(names):
            raise ManifestError("a block is in a pack that it does not name")
        yield names[pack], offset, length
