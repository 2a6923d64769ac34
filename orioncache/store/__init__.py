"""Blocks in RAM by digest, and the index that finds a file's blocks without a manifest."""

from orioncache.store.blockstore import BlockStore, Statistics
from orioncache.store.index import LiveIndex, file_version

__all__ = ["BlockStore", "LiveIndex", "Statistics", "file_version"]
