"""A bundle that is streamed while a node boots, as native/bundle.c does it: pieces come, pages are stored.

Only for traces of first touches: a bundle holds pages that were touched, and only such a trace has these.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from orioncache.errors import UserError
from orioncache.release.bundle import Bundle
from orioncache.simulate.machine import Clock, Network, Processor, Request
from orioncache.simulate.model import PAGE, Costs
from orioncache.simulate.pages import PageCache

# As native/bundle.c has them.
INDEX_FIRST = 128 << 10
PIECE_BYTES, PIECE_FRAMES = 256 << 10, 32
WINDOW_FIRST, WINDOW_LEAST, WINDOW_MOST = 1 << 20, 512 << 10, 8 << 20
QUEUE_S = 0.020

# Seconds between the stream's beginning and the first request: the overlay is mounted, roots are switched.
HEAD_START = 0.021

# In place of a pack's number.
BUNDLE = -1

WAITING, ASKED, LANDED, STORED = range(4)


@dataclasses.dataclass
class Frame:
    """A frame of a bundle.

        Attributes:
            packed, raw: its bytes in the file, and unpacked.
            chunks: what they are: inode, offset, bytes.
            state: # In place of a pack's number.
    BUNDLE = -1

    WAITING, ASKED, LANDED (in the engine's RAM) or STORED (in the page cache).
            waiting: what to call when it has landed.
    """

    packed: int
    raw: int
    chunks: list[tuple[int, int, int]]
    state: int = WAITING
    waiting: list[Callable[[], None]] = dataclasses.field(default_factory=list)


class Piece(Request):
    """One read of the bundle: some frames, or its index."""

    __slots__ = ("frames",)

    def __init__(self, frames: list[Frame], size: int, departed: float) -> None:
        super().__init__([], size, 0, pack=BUNDLE, demand=False, departed=departed)
        self.frames = frames


def read_frames(path: Path, manifest: str) -> tuple[list[Frame], int]:
    """The frames of a bundle, and the bytes of its index.

    Args:
        path: the bundle's file.
        manifest: digest of the release's manifest, in hexadecimal; empty: not known.

    Raises:
        BundleError: it is none, or broken.
        UserError: it is of another release.
    """
    bundle = Bundle(path)
    if manifest and bundle.manifest.hex() != manifest:
        raise UserError(f"{path} belongs to another release than the trace", "give a bundle of that release")
    frames = [
        Frame(
            each.packed,
            each.raw,
            [
                (chunk.inode, chunk.offset, chunk.length)
                for chunk in bundle.chunks[each.first : each.first + each.chunks]
            ],
        )
        for each in bundle.frames
    ]
    return frames, bundle.size - bundle.packed_bytes


class Stream:
    """The stream of one boot.

    Attributes:
        running: it has begun and not ended: the kernel reads nothing ahead, the engine nothing around.
        packed_bytes: that came.
        stored_bytes: that went to the page cache.
    """

    def __init__(
        self,
        frames: list[Frame],
        index_bytes: int,
        *,
        clock: Clock,
        processor: Processor,
        network: Network,
        pages: PageCache,
        costs: Costs,
    ) -> None:
        self._frames = [dataclasses.replace(frame, state=WAITING, waiting=[]) for frame in frames]
        self._index_bytes = index_bytes
        self._clock = clock
        self._processor = processor
        self._network = network
        self._pages = pages
        self._costs = costs
        self._of_page = {
            (inode, page): frame
            for frame in self._frames
            for inode, offset, length in frame.chunks
            for page in range(offset // PAGE, (offset + length - 1) // PAGE + 1)
        }
        self._next = 0
        self._in_flight = 0
        self._window = WINDOW_FIRST
        self._quickest = 0.0
        self._storing = False
        self._known: set[int] = set()
        self.running = False
        self.packed_bytes = 0
        self.stored_bytes = 0

    def begin(self) -> None:
        """Reads the index, and then the rest."""
        self.running = True
        self._network.ask(Piece([], min(INDEX_FIRST, self._index_bytes), self._clock.now))

    def ask(self, inode: int, offset: int, length: int) -> Frame | bool:
        """Whether the bundle has brought all of a range; or the frame that has to be waited for."""
        found: Frame | bool = True
        for page in range(offset // PAGE, (offset + length - 1) // PAGE + 1):
            if self._pages.has(inode, page * PAGE, 1):
                continue
            frame = self._of_page.get((inode, page))
            if frame is None or frame.state == WAITING:
                return False
            if frame.state == ASKED:
                found = frame
        return found

    def landed(self, piece: Piece) -> None:
        """A piece is here."""
        took = self._clock.now - piece.departed
        if piece.frames:
            self._in_flight -= piece.size
            self.packed_bytes += piece.size
            self._quickest = min(self._quickest or took, took)
            if took - self._quickest < QUEUE_S:
                self._window = min(WINDOW_MOST, self._window + piece.size)
            else:
                self._window = max(WINDOW_LEAST, self._window * 3 // 4)
        raw = sum(frame.raw for frame in piece.frames)
        self._processor.compute(raw * self._costs.unpack_s, lambda: self._unpacked(piece))

    def _unpacked(self, piece: Piece) -> None:
        for frame in piece.frames:
            frame.state = LANDED
            waiting, frame.waiting = frame.waiting, []
            for call in waiting:
                call()
        self._ask_for_more()
        if not self._storing:
            self._store()

    def _ask_for_more(self) -> None:
        while self._in_flight < self._window and self._next < len(self._frames):
            frames = [self._frames[self._next]]
            size = frames[0].packed
            self._next += 1
            while self._next < len(self._frames) and len(frames) < PIECE_FRAMES:
                frame = self._frames[self._next]
                if size + frame.packed > PIECE_BYTES:
                    break
                frames.append(frame)
                size += frame.packed
                self._next += 1
            for frame in frames:
                frame.state = ASKED
            self._in_flight += size
            self._network.ask(Piece(frames, size, self._clock.now))

    def _store(self) -> None:
        """One thread stores frame by frame, the first that has landed first."""
        frame = next((each for each in self._frames if each.state == LANDED), None)
        self._storing = frame is not None
        if frame is None:
            self.running = self._in_flight > 0 or self._next < len(self._frames)
            return
        new = {inode for inode, _, _ in frame.chunks} - self._known
        self._known |= new
        cost = frame.raw * self._costs.copy_s + len(new) * self._costs.lookup_s
        self._processor.compute(cost, lambda: self._stored(frame))

    def _stored(self, frame: Frame) -> None:
        frame.state = STORED
        for inode, offset, length in frame.chunks:
            self._pages.add(inode, offset, length)
        self.stored_bytes += frame.raw
        self._store()
