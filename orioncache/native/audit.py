"""Reads every block of a release and compares it with its digest (native/audit.h)."""

import os
from collections.abc import Callable
from pathlib import Path

from orioncache.native import waiting
from orioncache.native._orion import ffi, lib
from orioncache.native.manifest import NativeManifest

GOOD, MISSING, DIFFERS = range(3)


def audit(
    manifest: NativeManifest,
    packs: Path,
    jobs: int,
    watch: Callable[[int], None] | None = None,
    *,
    rate: int = 0,
) -> bytes:
    """A verdict for each block of the manifest: ``GOOD``, ``MISSING`` or ``DIFFERS``.

    Args:
        manifest: whose blocks.
        packs: the directory with the packs.
        jobs: threads.
        watch: called now and then with the number of bytes looked at.
        rate: bytes per second to read; 0: as many as come.

    Raises:
        OSError: the directory cannot be opened, or memory is out.
    """
    directory = os.open(packs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    created = ffi.new("struct orion_audit **")
    try:
        _checked(lib.orion_audit_create(manifest.handle, directory, jobs, rate, created))
    finally:
        os.close(directory)
    verdicts = ffi.new("uint8_t[]", manifest.blocks + 1)
    try:
        result = waiting.call(
            lambda: int(lib.orion_audit_run(created[0], verdicts)),
            lambda: lib.orion_audit_cancel(created[0]),
            lambda: watch(int(lib.orion_audit_done(created[0]))) if watch is not None else None,
        )
    finally:
        lib.orion_audit_destroy(created[0])
    _checked(result)
    return bytes(ffi.buffer(verdicts, manifest.blocks))


def _checked(result: int) -> None:
    if result:
        raise OSError(-result, os.strerror(-result))
