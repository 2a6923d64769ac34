"""What a program needs to start: interpreter, libraries, of each the parts that are touched before main().

As ld.so(8) searches: RPATH (of the object and of those that need it, unless it has a RUNPATH), RUNPATH,
ld.so.cache, default directories. LD_LIBRARY_PATH and ld.so.preload are not known here. An object is looked
into as soon as its first block is in RAM; what its libraries need follows when they have landed.
"""

from __future__ import annotations

from orioncache.options import size
from orioncache.prefetch import elf_file
from orioncache.prefetch.interface import Candidate, Heuristic, Tunable, count, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from orioncache.prefetch.elf_file import Elf as Headers
    from orioncache.prefetch.interface import Access, View

CACHE = "etc/ld.so.cache"
# Where ld.so looks last; x86-64 and arm64 on Debian and its kin, then elsewhere.
TRIPLETS = {62: "x86_64-linux-gnu", 183: "aarch64-linux-gnu", 3: "i386-linux-gnu", 243: "riscv64-linux-gnu"}
# Headers of all files that are linked today lie within these.
HEAD = 4096
# Seconds between two things that a loader does, as deadlines: they keep the order, no more.
STEP = 0.0002


class _Object:
    """A file that may be an ELF object.

    Attributes:
        rpath: directories of those that need it, nearest first.
        order: how many were found before it.
    """

    __slots__ = ("headers", "order", "rpath")

    def __init__(self, rpath: Sequence[str], order: int) -> None:
        self.rpath = rpath
        self.order = order
        self.headers: Headers | None = None


class Elf(Heuristic):
    """Follows what an executable needs."""

    name = "elf"
    tunables = (
        Tunable("whole", size, 512 << 10, "bytes", "an object up to this size is wanted whole"),
        Tunable("depth", count(0, 256), 64, "objects", "the most that one program can bring"),
        Tunable("confidence", number(0, 1), 0.95, "", "in what a loader must read"),
        Tunable("rest", number(0, 1), 0.6, "", "in segments' other parts: first blocks, small objects whole"),
    )
    whole: int
    depth: int
    confidence: float
    rest: float

    def __init__(self, settings: dict[str, object]) -> None:
        super().__init__(settings)
        self._done: set[int] = set()
        self._objects: dict[int, _Object] = {}
        # Objects that wait for a block, by it.
        self._waiting: dict[int, set[int]] = {}
        self._libraries: dict[str, list[str]] | None = None
        self._cache_asked = False

    def on_access(self, access: Access, view: View) -> Iterable[Candidate]:
        """What a file needs, when it is touched for the first time."""
        inode = access.inode
        if inode in self._done:
            return ()
        if inode not in self._objects:
            self._objects[inode] = _Object((), 0)
        return self._look(inode, view)

    def on_landed(self, block: int, view: View) -> Iterable[Candidate]:
        """What objects need that waited for this block."""
        found: list[Candidate] = []
        for inode in self._waiting.pop(block, ()):
            if inode not in self._done:
                found += self._look(inode, view)
        return found

    def _look(self, inode: int, view: View) -> Iterator[Candidate]:
        """Goes on with an object as far as its content is in RAM."""
        item = self._objects[inode]
        length = view.size(inode)
        soon = STEP * item.order
        if item.headers is None:
            head = view.content(inode, 0, HEAD)
            if head is None:
                self._wait(inode, 0, HEAD, view)
                return
            item.headers = elf_file.read_headers(head, length)
            if item.headers is None:
                self._done.add(inode)
                del self._objects[inode]
                return
            yield from self._segments(inode, item.headers, soon, view)
        headers = item.headers
        if headers.interpreter is not None:
            text = view.content(inode, *headers.interpreter)
            path = elf_file.text_at(text, 0) if text else None
            if path:
                yield from self._add(view.inode(path.lstrip("/")), (), item.order + 1, view)
        if headers.dynamic is None:
            self._done.add(inode)
            return
        section = view.content(inode, *headers.dynamic)
        if section is None:
            self._wait(inode, *headers.dynamic, view)
            return
        dynamic = elf_file.read_dynamic(headers, section, length)
        at, room = dynamic.strings
        strings = view.content(inode, at, min(room, 1 << 20)) if room else b""
        if strings is None:
            yield from self._want(inode, (at, room), self.confidence, soon, view)
            self._wait(inode, at, min(room, 1 << 20), view)
            return
        self._done.add(inode)
        for begin, many in dynamic.tables:
            yield from self._want(inode, (begin, many), self.confidence, soon, view)
        origin = (view.path(inode) or "").rpartition("/")[0]
        rpath, runpath = (
            _directories(
                elf_file.text_at(strings, place) if place is not None else None, origin, headers.machine
            )
            for place in (dynamic.rpath, dynamic.runpath)
        )
        inherited = [*rpath, *item.rpath] if dynamic.runpath is None else []
        yield from self._load_cache(view)
        for position, place in enumerate(dynamic.needed):
            name = elf_file.text_at(strings, place)
            if name:
                library = self._search(name, [*inherited, *runpath], origin, headers.machine, view)
                yield from self._add(library, inherited, item.order + 2 + position, view)

    def _segments(self, inode: int, headers: Headers, soon: float, view: View) -> Iterator[Candidate]:
        """What of a file is touched whatever it needs: relocated data, the dynamic section, the start."""
        length = view.size(inode)
        if headers.dynamic is not None:
            yield from self._want(inode, headers.dynamic, self.confidence, soon, view)
        if length <= self.whole:
            yield from self._want(inode, (0, length), self.rest, soon + STEP, view)
        for _, offset, many, writable in headers.loads:
            if writable:
                yield from self._want(inode, (offset, many), self.confidence, soon + STEP, view)
            else:
                yield from self._want(inode, (offset, 1), self.rest, soon + STEP, view)
        entry = headers.offset(headers.entry)
        if headers.entry and entry is not None:
            yield from self._want(inode, (entry, 1), self.rest, soon + 2 * STEP, view)

    def _want(
        self, inode: int, part: tuple[int, int], confidence: float, soon: float, view: View
    ) -> Iterator[Candidate]:
        """The blocks of a part of a file: offset and bytes."""
        for block in view.blocks(inode, *part):
            if not view.is_cached(block):
                yield Candidate(block, confidence, soon)

    def _add(self, inode: int | None, rpath: Sequence[str], order: int, view: View) -> Iterator[Candidate]:
        """An object that another one needs."""
        if inode is None or inode in self._done or inode in self._objects or order > self.depth:
            return
        self._objects[inode] = _Object(rpath, order)
        yield from self._want(inode, (0, HEAD), self.confidence, STEP * order, view)
        yield from self._look(inode, view)

    def _wait(self, inode: int, offset: int, length: int, view: View) -> None:
        """Comes back when the first block of a range that is missing has landed."""
        for block in view.blocks(inode, offset, length):
            if not view.is_cached(block):
                self._waiting.setdefault(block, set()).add(inode)
                return

    def _load_cache(self, view: View) -> Iterator[Candidate]:
        """ld.so.cache, once it is in RAM."""
        if self._libraries is not None:
            return
        inode = view.inode(CACHE)
        if inode is None:
            self._libraries = {}
            return
        data = view.content(inode, 0, elf_file.CACHE_MOST)
        if data is not None:
            self._libraries = elf_file.read_cache(data)
        elif not self._cache_asked:
            self._cache_asked = True
            yield from self._want(inode, (0, view.size(inode)), self.confidence, 0.0, view)

    def _search(
        self, name: str, directories: Sequence[str], origin: str, machine: int, view: View
    ) -> int | None:
        if "/" in name:
            return view.inode(_expand(name, origin, machine)[0].lstrip("/"))
        for directory in directories:
            inode = view.inode(f"{directory}/{name}")
            if inode is not None:
                return inode
        for path in (self._libraries or {}).get(name, ()):
            inode = view.inode(path.lstrip("/"))
            if inode is not None:
                return inode
        triplet = TRIPLETS.get(machine, "")
        for directory in (f"lib/{triplet}", f"usr/lib/{triplet}", "lib64", "usr/lib64", "lib", "usr/lib"):
            inode = view.inode(f"{directory}/{name}")
            if inode is not None:
                return inode
        return None


def _directories(text: str | None, origin: str, machine: int) -> list[str]:
    """The directories of a search path, without leading slashes."""
    parts = (text or "").split(":")[:64]
    return [each.lstrip("/") for part in parts if part for each in _expand(part, origin, machine)]


def _expand(text: str, origin: str, machine: int) -> list[str]:
    """ld.so's variables; $LIB has one value or another."""
    triplet = TRIPLETS.get(machine, "")
    for name, value in (("ORIGIN", "/" + origin), ("PLATFORM", triplet.partition("-")[0])):
        text = text.replace("${" + name + "}", value).replace("$" + name, value)
    if "$LIB" not in text and "${LIB}" not in text:
        return [text]
    return [text.replace("${LIB}", each).replace("$LIB", each) for each in (f"lib/{triplet}", "lib64", "lib")]
