"""From a block's place in a file to its digest, for exports without a manifest."""

from orioncache import native
from orioncache.store.sieve import Sieve

# RAM for one entry, in bytes: two strings of 16 and 24 bytes, the queue's item, the dictionary's slot.
ENTRY_COST = 320


def file_version(identity: bytes, size: int, mtime_ns: int, ctime_ns: int) -> bytes:
    """A 16-byte name for the content that a file has now.

    It changes when the file is written to, replaced or truncated, as far as a server's time stamps tell; a
    server with a coarse clock hides a second write of the same length within one tick.

    Args:
        identity: which file; any bytes that mean the same file each time, and on each server if entries shall
            survive a change of server.
        size: bytes.
        mtime_ns: time of the last write, in nanoseconds; may be negative.
        ctime_ns: time of the last change, in nanoseconds. Servers that were filled one by one differ in it:
            leave it 0 if entries shall survive a change of server.
    """
    stamps = b"".join(value.to_bytes(12, "little", signed=True) for value in (size, mtime_ns, ctime_ns))
    return native.digest(stamps + identity)


class LiveIndex:
    """A bounded map from (file version, block number) to the digest of that block.

    It says which block a read wants without asking a server; the block itself may have left the store since.
    Entries of files that changed are never asked for again and leave by themselves (SIEVE).

    Invariant: there are at most ``capacity`` entries, and they take at most ``capacity * ENTRY_COST`` bytes.

    Threads: as :class:`~orioncache.store.blockstore.BlockStore`.
    """

    def __init__(self, capacity: int = 32768) -> None:
        """An empty index.

        Args:
            capacity: entries; 32768 of them take 10 MiB.
        """
        self._entries: Sieve[bytes] = Sieve(capacity)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def capacity(self) -> int:
        """How many entries there may be."""
        return self._entries.budget

    def get(self, version: bytes, block: int) -> bytes | None:
        """The digest of block number ``block`` of that :func:`file_version`; None if it is not known."""
        return self._entries.get(version + block.to_bytes(8, "little"))

    def put(self, version: bytes, block: int, digest: bytes) -> None:
        """Remembers the digest of one block."""
        self._entries.put(version + block.to_bytes(8, "little"), digest, 1)

    def drop(self, version: bytes, block: int) -> None:
        """Forgets one block, if it is known."""
        self._entries.pop(version + block.to_bytes(8, "little"))
