"""The kernel's page cache, and what it reads when a page is missing (mm/filemap.c, mm/readahead.c)."""

from orioncache.simulate.model import PAGE, READAHEAD


class PageCache:
    """Which pages of which files are there: one bit for each."""

    def __init__(self) -> None:
        self._pages: dict[int, int] = {}

    def has(self, inode: int, offset: int, length: int) -> bool:
        """Whether all pages of a range are there."""
        mask = _mask(offset, length)
        return self._pages.get(inode, 0) & mask == mask

    def add(self, inode: int, offset: int, length: int) -> None:
        """Puts the pages of a range there."""
        self._pages[inode] = self._pages.get(inode, 0) | _mask(offset, length)

    def trim(self, inode: int, offset: int, length: int) -> tuple[int, int]:
        """The range from its first missing page to its last."""
        first = offset // PAGE
        missing = _mask(offset, length) & ~self._pages.get(inode, 0)
        if not missing:
            return offset, 0
        begin = (missing & -missing).bit_length() - 1
        end = missing.bit_length()
        return (offset, min(end * PAGE, offset + length) - offset) if begin == first else (
            begin * PAGE, min(end * PAGE, offset + length) - begin * PAGE)  # fmt: skip


def _mask(offset: int, length: int) -> int:
    first = offset // PAGE
    return ((1 << ((offset + length - 1) // PAGE + 1 - first)) - 1) << first if length else 0


class Readahead:
    """What the kernel asks for when a page was touched, for traces that were recorded without readahead.

    A trace does not tell a read() from a page fault. A touch of a file's beginning, or right behind the last
    one, is taken for a read(), whose window grows; any other for a fault, around which READAHEAD bytes are
    read.
    """

    def __init__(self) -> None:
        self._files: dict[int, tuple[int, int]] = {}  # where the next read() of a stream begins, its window

    def range(self, inode: int, offset: int, length: int, size: int) -> tuple[int, int]:
        """Offset and bytes of the READ for a touch of a file of ``size`` bytes."""
        expected, window = self._files.get(inode, (0, 0))
        if offset == expected:
            window = _first_window(length) if not window else min(READAHEAD, 2 * window)
            begin, end = offset, offset + max(length, window)
        elif length > PAGE:
            window = 0
            begin, end = offset, offset + length
        else:
            begin = max(0, (offset // PAGE * PAGE) - READAHEAD // 2)
            end = begin + READAHEAD
        end = min(size, max(end, offset + length))
        # A stream goes on behind what was read ahead, where the kernel's mark is.
        self._files[inode] = (end if offset == expected else expected, window)
        return begin, max(0, end - begin)


def _first_window(length: int) -> int:
    """get_init_ra_size()."""
    size = PAGE
    while size < length:
        size *= 2
    if size <= READAHEAD // 32:
        return size * 4
    return size * 2 if size <= READAHEAD // 4 else READAHEAD
