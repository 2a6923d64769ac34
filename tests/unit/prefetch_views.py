"""Views for tests of heuristics: a tree of a dict, or this machine's own files."""

import os
from pathlib import Path

from orioncache.prefetch.interface import Access, View


class TreeView(View):
    """Files of a dict from path to bytes, links of a dict from path to path; numbers follow their order."""

    def __init__(self, files, links=None, block_size=4096):
        self.block_size = block_size
        self.files = list(files.items())
        self.links = links or {}
        self.inodes = {path: number for number, (path, _) in enumerate(self.files)}
        self.cached = set()
        self.first = []
        at = 0
        for _, data in self.files:
            self.first.append(at)
            at += -(-len(data) // block_size)
        self.block_count = at

    def path(self, inode):
        return self.files[inode][0] if 0 <= inode < len(self.files) else None

    def inode(self, path):
        return self.inodes.get(self.links.get(path, path))

    def names(self, path):
        start = path + "/"
        return sorted({each[len(start) :].split("/")[0] for each in self.inodes if each.startswith(start)})

    def size(self, inode):
        return len(self.files[inode][1]) if 0 <= inode < len(self.files) else 0

    def block(self, inode, file_block):
        return (
            self.first[inode] + file_block if 0 <= file_block * self.block_size < self.size(inode) else None
        )

    def length(self, block):
        where = self.where(block)
        return min(self.block_size, self.size(where[0]) - where[1] * self.block_size) if where else 0

    def digest(self, block):
        return block.to_bytes(16, "big") if self.where(block) else None

    def find(self, digest):
        number = int.from_bytes(digest[:16], "big")
        return number if self.where(number) else None

    def is_cached(self, block):
        return block in self.cached

    def content(self, inode, offset, length):
        if any(not self.is_cached(block) for block in self.blocks(inode, offset, length)):
            return None
        return self.files[inode][1][offset : offset + length]

    def where(self, block):
        """Inode and block of the file."""
        if not 0 <= block < self.block_count:
            return None
        inode = max(number for number, first in enumerate(self.first) if first <= block and self.size(number))
        return inode, block - self.first[inode]

    def fetch(self, path):
        """All of a file is in RAM from now on."""
        self.cached.update(self.blocks(self.inodes[path]))

    def access(self, path, offset=0, length=None, at=0.0):
        inode = self.inodes[path]
        return Access(at, inode, offset, self.size(inode) - offset if length is None else length)

    def paths(self, candidates):
        """The files that candidates are of, in their order."""
        return list(dict.fromkeys(self.path(self.where(each.block)[0]) for each in candidates))


class HostView(View):
    """This machine's files: their content can be had, and none of their blocks counts as being in RAM."""

    def __init__(self):
        self.numbers = {}
        self.real = []

    def path(self, inode):
        return self.real[inode].lstrip("/")

    def inode(self, path):
        full = os.path.realpath("/" + path)
        if not os.path.isfile(full):
            return None
        if full not in self.numbers:
            self.numbers[full] = len(self.real)
            self.real.append(full)
        return self.numbers[full]

    def names(self, path):
        return os.listdir("/" + path) if os.path.isdir("/" + path) else []

    def size(self, inode):
        return os.path.getsize(self.real[inode])

    def block(self, inode, file_block):
        return inode << 16 | file_block if file_block * self.block_size < self.size(inode) else None

    def length(self, block):
        return self.block_size

    def is_cached(self, block):
        return False

    def content(self, inode, offset, length):
        with Path(self.real[inode]).open("rb") as file:
            file.seek(offset)
            return file.read(length)
