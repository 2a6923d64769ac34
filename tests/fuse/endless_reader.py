"""Reads a mount over and over, compares it with its source, and notes the longest wait: ``SOURCE MOUNT``.

Ends when its standard input does, and prints one line of JSON.
"""

import hashlib
import json
import os
import random
import select
import sys
import time
from pathlib import Path

PIECE = 64 << 10


class Reader:
    """One process that reads.

    Attributes:
        operations: how many ended.
        longest: seconds that one of them took.
        errors: what was wrong, in words.
    """

    def __init__(self, source: Path, mount: Path) -> None:
        self.operations, self.longest = 0, 0.0
        self.errors: list[str] = []
        self._mount = mount
        self._files, self._links, self._directories = {}, {}, {}
        for path in [source, *sorted(source.rglob("*"))]:
            name = path.relative_to(source)
            if path.is_symlink():
                self._links[name] = os.readlink(path)
            elif path.is_dir():
                self._directories[name] = sorted(os.listdir(path))
            else:
                self._files[name] = path.read_bytes()

    def run(self) -> None:
        """Until standard input has ended."""
        while not select.select([sys.stdin], [], [], 0)[0]:
            self._pass()

    def _pass(self) -> None:
        names = list(self._files)
        random.shuffle(names)
        for name in names:
            self._read(name)
            self._absent(name)
        for name, target in self._links.items():
            self._check(name, target, os.readlink)
        for name, listed in self._directories.items():
            self._check(name, listed, lambda path: sorted(os.listdir(path)))

    def _read(self, name: Path) -> None:
        content = self._files[name]
        with self._timed(name):
            descriptor = os.open(self._mount / name, os.O_RDONLY)
        try:
            # The page cache shall answer nothing.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            for offset in range(0, len(content), PIECE):
                with self._timed(name):
                    piece = os.pread(descriptor, PIECE, offset)
                if hashlib.md5(piece).digest() != hashlib.md5(content[offset : offset + PIECE]).digest():
                    self.errors.append(f"{name}: wrong bytes at {offset}")
        finally:
            os.close(descriptor)

    def _absent(self, name: Path) -> None:
        """A name that the kernel has never asked for."""
        with self._timed(name):
            try:
                os.stat(self._mount / name.parent / f"none-{random.getrandbits(60)}")
            except FileNotFoundError:
                return
        self.errors.append(f"beside {name}: a file that is not there")

    def _check(self, name: Path, expected: object, ask: object) -> None:
        with self._timed(name):
            found = ask(self._mount / name)  # type: ignore[operator]
        if found != expected:
            self.errors.append(f"{name}: {found}")

    def _timed(self, name: Path) -> "_Timed":
        return _Timed(self, name)


class _Timed:
    def __init__(self, reader: Reader, name: Path) -> None:
        self._reader, self._name = reader, name

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        self._reader.operations += 1
        self._reader.longest = max(self._reader.longest, time.monotonic() - self._began)
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            self._reader.errors.append(f"{self._name}: {error}")
            raise SystemExit(f"{self._reader.errors[-20:]}")
        return False


if __name__ == "__main__":
    reader = Reader(Path(sys.argv[1]), Path(sys.argv[2]))
    reader.run()
    print(
        json.dumps({"operations": reader.operations, "longest": reader.longest, "errors": reader.errors[:20]})
    )
