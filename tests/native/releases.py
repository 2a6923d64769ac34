"""What tests of releases share: building them as a user does, and reading back what is in them."""

import json
import os
import stat
import subprocess
from pathlib import Path

from orioncache.native.manifest import HOLE, NativeManifest
from tests.program import COMMAND

TOP = Path(__file__).parents[2]
BLOCK = 128 << 10


def command(*arguments):
    return [*COMMAND, "release", *map(str, arguments)]


def run(*arguments, code=0):
    """A subcommand of `orioncache release`, which must end with this exit code."""
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, check=False, env=environment(), timeout=120
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def environment():
    return os.environ | {"PYTHONPATH": str(TOP)}


def build(root, store, version, *options):
    """Builds a release `t`; what it says of it."""
    return json.loads(
        run("build", root, store, "--name", "t", "--version", version, "--json", *options).stdout
    )


def verify(store):
    """Every release is what it should be."""
    for report in json.loads(run("verify", store, "--json").stdout):
        assert report["ok"], report


class Release:
    """A release, read without any of the builder's code."""

    def __init__(self, path):
        self.path = Path(path)
        self.manifest = NativeManifest((self.path / "manifest").read_bytes())
        assert self.manifest.verify()
        assert self.manifest.check() is None
        self.packs = list(self._pack_names())

    def _pack_names(self):
        import struct

        data = (self.path / "manifest").read_bytes()
        offset, count = struct.unpack_from("<QQ", data, 56 + 16 * 7)
        for at in range(count):
            yield data[offset + 32 * at : offset + 32 * at + 16].hex() + ".pack"

    def find(self, path):
        number = 0
        for name in os.fsencode(path).split(b"/"):
            number = self.manifest.lookup(number, name)
        return number

    def content(self, number):
        inode = self.manifest.inode(number)
        found = bytearray()
        for at in range(-(-inode.size // BLOCK)):
            block = self.manifest.block(number, at)
            if block.number == HOLE:
                found += bytes(block.length)
                continue
            with (self.path / "packs" / self.packs[block.pack]).open("rb") as pack:
                pack.seek(block.offset)
                found += pack.read(block.length)
        return bytes(found)

    def tree(self):
        """path -> inode number, of everything."""
        found, waiting = {b"": 0}, [(b"", 0)]
        while waiting:
            prefix, number = waiting.pop()
            for at in range(self.manifest.inode(number).count):
                entry = self.manifest.entry(number, at)
                found[prefix + entry.name] = entry.inode
                if stat.S_ISDIR(self.manifest.inode(entry.inode).mode):
                    waiting.append((prefix + entry.name + b"/", entry.inode))
        return found
