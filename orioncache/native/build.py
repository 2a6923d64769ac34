"""Builds the cffi module ``orioncache.native._orion`` from ``native/``; called by setuptools."""

from pathlib import Path

from cffi import FFI

# setuptools wants paths relative to the tree's top, and runs there.
SOURCES = ["native/block.c"]

CDEF = """
void orion_digest(const uint8_t *data, size_t length, uint8_t *ret);
"""

ffi = FFI()
ffi.cdef(CDEF)
ffi.set_source(
    "orioncache.native._orion",
    '#include "orion.h"',
    sources=SOURCES,
    include_dirs=[str(Path("native").absolute())],
    libraries=["xxhash", "lz4"],
    extra_compile_args=["-std=c11", "-O2", "-Wall", "-Wextra"],
)
