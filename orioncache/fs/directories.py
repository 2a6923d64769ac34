"""Reading directories: positions that stay, whatever happens to the source meanwhile."""

import os
from typing import TYPE_CHECKING

import trio

from orioncache.fs.inodes import Inode
from orioncache.upstream import Listing, NoServerError, Server

# Entries of all directories together that are remembered.
REMEMBERED_ENTRIES = 8192

if TYPE_CHECKING:
    from orioncache.fs.live import LiveTree


class OpenDirectory:
    """A directory that is being listed.

    Positions count the names in the order in which they came from the source. A name keeps its position until
    the directory is closed or read from its beginning again, also when a server fails half-way and another
    one, with another order, takes over.

    Attributes:
        inode: the directory.
    """

    def __init__(self, tree: "LiveTree", inode: Inode) -> None:
        self.inode = inode
        self._tree = tree
        self._lock = trio.Lock()
        self._rewind()

    def _rewind(self) -> None:
        self._listing: Listing | None = None
        self._names: list[bytes] = []
        self._complete = False
        self._stale = False
        # All that was read, as long as it can be remembered for the time when no server answers.
        self._read: list[tuple[bytes, os.stat_result]] | None = []
        # The last batch: who gave it, when it was asked for, and the attributes of the last ones of all
        # names.
        self._window: tuple[Server, float, list[tuple[bytes, os.stat_result]]] | None = None

    async def entry(self, position: int, *, rewind: bool) -> tuple[int, bytes, Inode] | None:
        """The first entry at or after a position that (still) is there; None at the end.

        Args:
            position: from 0.
            rewind: read the directory anew if it was read before.

        Returns:
            Its position, its name, and what has that name: to be counted, or released, at once.

        Raises:
            OSError: the source could not be read; what was read before is not lost, and a later call goes on.
        """
        async with self._lock:
            if rewind and self._names:
                self._rewind()
            while True:
                while position >= len(self._names) and not self._complete:
                    await self._read_more()
                if position >= len(self._names):
                    return None
                name = self._names[position]
                inode = self._from_window(position) or await self._tree.lookup(self.inode, name)
                if inode is not None:
                    return position, name, inode
                position += 1

    async def _read_more(self) -> None:
        # Should it fail, or be given up while its thread goes on, this listing is not used again.
        listing, self._listing = self._listing, None
        asked = trio.current_time()
        remembered = self._tree.remembered_entries(self.inode)
        try:
            listing, batch, at_end = await self._tree.next_entries(
                self.inode, listing, self._names, wait=remembered is None
            )
        except NoServerError:
            assert remembered is not None
            known = frozenset(self._names)
            server, asked, batch = remembered
            batch = [entry for entry in batch if entry[0] not in known]
            self._window = (server, asked, batch)
            self._stale = self._complete = True
        else:
            self._listing = listing
            self._window = (listing.server, asked, batch)
            self._complete = at_end
            if self._read is not None:
                self._read += batch
                if at_end:
                    self._tree.remember_entries(self.inode, listing.server, asked, self._read)
                if at_end or len(self._read) > REMEMBERED_ENTRIES:
                    self._read = None
        self._names += [name for name, _ in batch]

    def _from_window(self, position: int) -> Inode | None:
        """The inode at a position, if its attributes were read a short time ago."""
        if self._window is None:
            return None
        server, asked, batch = self._window
        at = position - (len(self._names) - len(batch))
        if at < 0 or (trio.current_time() - asked >= self._tree.ttl and not self._stale):
            return None
        name, attributes = batch[at]
        return self._tree.table.remember(self.inode, name, server, attributes, asked)
