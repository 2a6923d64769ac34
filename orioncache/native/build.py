"""Builds the cffi module ``orioncache.native._orion`` from ``native/``; called by setuptools.

cffi releases the GIL around every call, which is what lets blocks be packed in threads.
"""

from pathlib import Path

from cffi import FFI

TOP = Path(__file__).resolve().parents[2]
# setuptools wants paths relative to the tree's top, and runs there.
SOURCES = ["native/block.c", "native/memory.c"]

ffi = FFI()
ffi.cdef((TOP / "native/orion.cdef").read_text(encoding="ascii"))
ffi.set_source(
    "orioncache.native._orion",
    '#include "orion.h"',
    sources=SOURCES,
    depends=["native/orion.h", "native/orion.cdef"],
    include_dirs=["native"],
    libraries=["xxhash", "lz4"],
    extra_compile_args=["-std=c11", "-O2", "-Wall", "-Wextra"],
)
