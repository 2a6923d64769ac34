"""A copy of the tree, to build something in it."""

import subprocess
from pathlib import Path

TOP = Path(__file__).parents[1]
LIST_FILES = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
COPY = ["cpio", "--null", "--pass-through", "--make-directories", "--quiet"]


def copy_tree(into: Path) -> None:
    """Copies all files that git tracks, or does not ignore, into a directory."""
    names = subprocess.run(LIST_FILES, cwd=TOP, capture_output=True, check=True).stdout
    there = b"\0".join(name for name in names.split(b"\0") if name and TOP.joinpath(name.decode()).exists())
    subprocess.run([*COPY, into], cwd=TOP, input=there, check=True)
