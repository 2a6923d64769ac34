"""The builder of releases (native/builder.h) from Python."""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType

from orioncache.native import waiting
from orioncache.native._orion import ffi, lib


@dataclass(frozen=True)
class Progress:
    """How far a build is; native/builder.h explains the fields."""

    phase: int
    warnings: int
    inodes: int
    files: int
    content_bytes: int
    known_files: int
    known_bytes: int
    files_total: int
    bytes_total: int
    files_done: int
    bytes_done: int
    new_bytes: int
    resumed_bytes: int
    store_blocks: int
    pack_bytes: int
    used_new_blocks: int
    manifest_bytes: int
    stored_bytes: int


_FIELDS = tuple(field.name for field in fields(Progress))


class BuildFailedError(OSError):
    """A step failed; ``strerror`` is the builder's own line of text."""


class Builder:
    """One build. Each step blocks its caller, not other threads, and may be interrupted from the keyboard."""

    def __init__(
        self,
        root: Path,
        work: Path,
        name: str,
        version: str,
        *,
        digest_kind: int,
        block_size: int,
        jobs: int,
        rehash: bool = False,
        cross: bool = False,
    ) -> None:
        """Opens the tree and the build's own directory.

        Raises:
            OSError: one of them cannot be opened.
        """
        texts = [ffi.new("char[]", os.fsencode(text)) for text in (root, work, name, version)]
        options = ffi.new(
            "struct orion_builder_options *", (*texts, digest_kind, block_size, jobs, rehash, cross)
        )
        created = ffi.new("struct orion_builder **")
        result = lib.orion_builder_create(options, created)
        if result:
            raise OSError(-result, os.strerror(-result), str(root))
        self._builder = created[0]
        # C reads these for as long as the builder lives.
        self._kept: list[object] = []

    def __enter__(self) -> "Builder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lib.orion_builder_destroy(self._builder)
        self._builder = ffi.NULL

    def exclude(self, pattern: str) -> None:
        """Leaves out what matches the pattern."""
        self._checked(lib.orion_builder_exclude(self._builder, os.fsencode(pattern)))

    def add_release(self, manifest: Path, scan: Path | None) -> bool:
        """Tells what the store has; whether the manifest, and the scan if there is one, are sound."""
        size, length = _read(manifest)
        scan_bytes, scan_length = (ffi.NULL, 0) if scan is None else _read(scan)
        self._kept += [size, scan_bytes]
        result = lib.orion_builder_add_release(
            self._builder,
            ffi.cast("uint8_t *", size),
            length,
            ffi.cast("uint8_t *", scan_bytes),
            scan_length,
        )
        if result and result != -errno.EBADMSG:
            self._checked(result)
        return bool(result == 0)

    def resume(self, watch: Callable[[Progress], None] | None = None) -> None:
        """Takes over what a killed build left in the build's directory."""
        self._run(lib.orion_builder_resume, watch)

    def walk(self, watch: Callable[[Progress], None] | None = None) -> None:
        """Finds out what there is, and what is known of it."""
        self._run(lib.orion_builder_walk, watch)

    def hash(self, watch: Callable[[Progress], None] | None = None) -> None:
        """Reads what is not known, and writes what is new into the pack."""
        self._run(lib.orion_builder_hash, watch)

    def write(self, watch: Callable[[Progress], None] | None = None) -> None:
        """Writes manifest and scan; all files are on the disk then."""
        self._run(lib.orion_builder_write, watch)

    def progress(self) -> Progress:
        """How far it is; from any thread."""
        found = ffi.new("struct orion_builder_progress *")
        lib.orion_builder_progress(self._builder, found)
        return Progress(*(getattr(found, name) for name in _FIELDS))

    def warnings(self) -> list[str]:
        """The first hundred."""
        texts: list[str] = []
        while text := lib.orion_builder_warning(self._builder, len(texts)):
            texts.append(os.fsdecode(bytes(ffi.string(text))))
        return texts

    def pack_id(self) -> bytes:
        """The new pack's name, after :meth:`write`."""
        found = ffi.new("uint8_t[16]")
        lib.orion_builder_pack_id(self._builder, found)
        return bytes(ffi.buffer(found))

    def _run(self, step: Callable[[object], int], watch: Callable[[Progress], None] | None) -> None:
        result = waiting.call(
            lambda: step(self._builder),
            lambda: lib.orion_builder_cancel(self._builder),
            lambda: watch(self.progress()) if watch is not None else None,
        )
        self._checked(result)

    def _checked(self, result: int) -> None:
        if result:
            text = os.fsdecode(bytes(ffi.string(lib.orion_builder_error(self._builder))))
            raise BuildFailedError(-result, text or os.strerror(-result))


_scratch = ffi.new_allocator(should_clear_after_alloc=False)


def _read(path: Path) -> tuple[object, int]:
    """A file's bytes, in memory that is aligned to 8."""
    fd = open_quietly(path)
    with os.fdopen(fd, "rb", buffering=0) as file:
        length = os.fstat(fd).st_size
        data = _scratch("uint64_t[]", length // 8 + 1)
        view = memoryview(ffi.buffer(data))
        done = 0
        while done < length:
            got = file.readinto(view[done:length])
            if not got:
                break
            done += got
    return data, done


def open_quietly(path: Path) -> int:
    """Opens a file for reading without that counting as an access (O_NOATIME), where that is allowed."""
    flags = os.O_RDONLY | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_NOATIME)
    except PermissionError:
        return os.open(path, flags)
