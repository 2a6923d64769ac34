"""The kinds of cache that the FUSE layer runs on: which engine answers, and what the source is."""

import pytest

NATIVE_LIVE, PYTHON_LIVE = "native-live", "python-live"
NATIVE_RELEASE, PYTHON_RELEASE = "native-release", "python-release"
LIVE = (NATIVE_LIVE, PYTHON_LIVE)
ALL = (*LIVE, NATIVE_RELEASE, PYTHON_RELEASE)

# Sources that change while they are served, or are asked for names and attributes.
live = pytest.mark.kinds(*LIVE)
# The native engine leaves to the kernel's page cache what went there whole, and keeps the rest.
keeps_all_blocks = pytest.mark.kinds(*LIVE, PYTHON_RELEASE)

# What a release shows otherwise than its source: its own inode numbers, the last modification's time for the
# last change's, holes by whole blocks, and one size for all directories.
OTHER_IN_RELEASES = frozenset({"ino", "ctime", "blocks", "blksize"})


def engine(kind: str) -> str:
    """What answers the kernel."""
    return kind.partition("-")[0]


def is_release(kind: str) -> bool:
    """Whether a release of the source is served, and not the source itself."""
    return kind.endswith("release")
