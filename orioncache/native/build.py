"""Builds the cffi module ``orioncache.native._orion`` from ``native/``; called by setuptools.

cffi releases the GIL around every call, which is what lets blocks be packed in threads.
"""

from pathlib import Path

from cffi import FFI

TOP = Path(__file__).resolve().parents[2]


def _all(pattern: str) -> list[str]:
    # setuptools wants paths relative to the tree's top, and runs there.
    return sorted(str(path.relative_to(TOP)) for path in (TOP / "native").glob(pattern))


ffi = FFI()
for cdef in _all("*.cdef"):
    ffi.cdef((TOP / cdef).read_text(encoding="ascii"))
ffi.set_source(
    "orioncache.native._orion",
    "".join(f'#include "{Path(header).name}"\n' for header in _all("*.h")),
    sources=_all("*.c"),
    depends=[*_all("*.h"), *_all("*.cdef")],
    include_dirs=["native"],
    libraries=["xxhash", "lz4", "sodium", "pthread"],
    extra_compile_args=["-std=c11", "-O2", "-Wall", "-Wextra"],
)
