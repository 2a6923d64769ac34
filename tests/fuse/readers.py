"""Processes that read a mount and compare it with what it is served from, until they are told to end."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

READER = Path(__file__).with_name("endless_reader.py")
READERS = 3


@contextmanager
def readers(source: Path, mount: Path, patience: float = 30) -> Iterator[list[dict[str, Any]]]:
    """Several processes that read until the block ends; what they found stands in the list then."""
    found: list[dict[str, Any]] = []
    running = [
        subprocess.Popen(
            [sys.executable, READER, source, mount],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(READERS)
    ]
    try:
        yield found
        for reader in running:
            out, said = reader.communicate(timeout=patience)
            assert reader.returncode == 0, said
            found.append(json.loads(out))
    finally:
        for reader in running:
            reader.kill()
