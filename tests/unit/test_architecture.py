"""Imports point one way, as docs/architecture.md draws them."""

import ast
from pathlib import Path

TOP = Path(__file__).parents[2]

# Packages by height; a module imports from its own package or from a lower one. All others are the ground.
HEIGHT = {
    "__main__": 6,
    "cli": 5,
    "simulate": 4.5,
    "bench": 4,
    "initramfs": 3,
    "kernel": 3,
    "node": 2.5,
    "fs": 2,
    "prefetch": 1.7,
    "profile": 1.5,
    "trace": 1.2,
    "control": 1,
    "upstream": 1,
    "release": 1,
    "store": 1,
    "native": 0.5,
}


def modules():
    top = TOP / "orioncache"
    # rglob follows no links, and bench, initramfs and kernel are links.
    for folder in (top, top / "bench", top / "initramfs", top / "kernel"):
        for path in folder.rglob("*.py"):
            if "stand_ins" not in path.parts:
                yield path.relative_to(top), ast.parse(path.read_text())


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("orioncache"):
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (name.name.split(".")[1] for name in node.names if name.name.startswith("orioncache."))


def test_nothing_imports_upwards():
    seen = 0
    for path, tree in modules():
        # What a package adds to the command line stands there with the rest of it.
        own = "cli" if path.name == "cli.py" else path.parts[0].removesuffix(".py")
        for other in imported(tree):
            seen += 1
            allowed = other == own or HEIGHT.get(other, 0) < HEIGHT.get(own, 0) or other not in HEIGHT
            assert allowed, f"{path} imports orioncache.{other}"
    assert seen > 100
