"""Run by build.py in a clean interpreter: compiles Python sources into the image's .pyc files.

Standard input: one module a line, source file and path in the image, parted by a tab. Standard output, for
each: its length in bytes as 8 little-endian bytes, then the .pyc. Docstrings are left out, assertions stay.
What marshal writes depends on the interpreter's state, so one process compiles all, always in the same order.
"""

import ast
import importlib.util
import marshal
import struct
import sys
from pathlib import Path

UNCHECKED_HASH = 0b01  # PEP 552: never compared with a source, which the image does not have


def compiled(source: bytes, shown: str) -> bytes:
    """The .pyc of a module; ``shown`` is the file name that tracebacks give."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        ) and _docstring(node):
            node.body[0:1] = (
                [] if len(node.body) > 1 or isinstance(node, ast.Module) else [_nothing(node.body[0])]
            )
    code = compile(tree, shown, "exec", dont_inherit=True, optimize=0)
    header = (
        importlib.util.MAGIC_NUMBER + struct.pack("<I", UNCHECKED_HASH) + importlib.util.source_hash(source)
    )
    return header + marshal.dumps(code)


def _docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    first = node.body[0] if node.body else None
    return (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    )


def _nothing(place: ast.stmt) -> ast.Pass:
    return ast.copy_location(ast.Pass(), place)


def main() -> None:
    """Answers on standard output."""
    for line in sys.stdin.read().splitlines():
        source, place = line.split("\t")
        data = compiled(Path(source).read_bytes(), f"/{place.removesuffix('c')}")
        sys.stdout.buffer.write(len(data).to_bytes(8, "little") + data)


if __name__ == "__main__":
    main()
