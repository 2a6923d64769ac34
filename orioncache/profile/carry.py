"""Carries a profile to a release: which pages of its files are meant, also where it is a later one.

A block is known by its digest, wherever it now stands. Where the digest is gone because the file changed,
its old place in the file is the best guess: a new build of a program keeps most of its layout.
"""

import stat
from dataclasses import dataclass, field

from orioncache.errors import UserError
from orioncache.native import digests
from orioncache.profile.format import SHARE, Profile, Run, unquoted
from orioncache.release.bundling import Piece
from orioncache.release.format import ROOT
from orioncache.release.manifest import Manifest


@dataclass
class Carried:
    """A profile's pages in a release.

    Attributes:
        pieces: in order of time.
        same: bytes of blocks that are where they were.
        moved: bytes of blocks that are the same, in another file or at another place.
        guessed: bytes of blocks that changed, taken at the same place of the same file.
        gone: bytes that are left out: there is no such block, and no such place.
        gone_blocks: in how many blocks these were.
    """

    pieces: list[Piece] = field(default_factory=list)
    same: int = 0
    moved: int = 0
    guessed: int = 0
    gone: int = 0
    gone_blocks: int = 0


def check_fit(profile: Profile, kind: int, block_size: int) -> None:
    """Whether a profile can be of use to a release with these digests and blocks.

    Raises:
        UserError: it cannot: nothing of it would be found.
    """
    if (digests.KINDS[profile.digest], profile.block_size) != (kind, block_size):
        name = next(name for name, number in digests.KINDS.items() if number == kind)
        raise UserError(
            f"the profile has {profile.digest} digests of blocks of {profile.block_size:,} bytes, "
            f"the release {name} and {block_size:,}",
            "record a boot of a release that is built so",
        )


def carry(profile: Profile, manifest: Manifest, *, share: float = SHARE, guess: bool = True) -> Carried:
    """The pages of a release's files that a profile means.

    Args:
        profile: of this release, or of one before it.
        manifest: the release's.
        share: pages that fewer of the boots touched are left out (0 to 1).
        guess: take a block that changed at its old place.

    Raises:
        UserError: digests or blocks are of another kind.
    """
    check_fit(profile, manifest.header.digest_kind, manifest.header.block_size)
    runs = profile.habits(share)
    wanted = {(run.path, run.number, run.block) for run in runs}
    places = _Places(manifest, wanted, guess=guess)
    found = Carried()
    gone = set()
    for run in runs:
        key = (run.path, run.number, run.block)
        place, kind = places.find(key)
        piece = None if place is None else _piece(manifest, run, place)
        if piece is None:
            found.gone += run.length
            gone.add(key)
            continue
        found.pieces.append(piece)
        setattr(found, kind, getattr(found, kind) + piece.length)
    found.gone_blocks = len(gone)
    return found


_Key = tuple[str, int, str]
_Place = tuple[int, int]


class _Places:
    """Where the blocks of a profile are in a manifest."""

    def __init__(self, manifest: Manifest, wanted: set[_Key], *, guess: bool) -> None:
        self._manifest = manifest
        self._inodes: dict[str, int | None] = {}
        self._found: dict[_Key, tuple[_Place | None, str]] = {}
        lost = []
        for key in sorted(wanted):
            path, number, block = key
            inode = self._inode(path)
            if inode is not None and self._digest(inode, number) == block:
                self._found[key] = (inode, number), "same"
            else:
                lost.append(key)
        self._search(lost, guess=guess)

    def find(self, key: _Key) -> tuple[_Place | None, str]:
        """The inode and the block of the file, and how it was found: a field of :class:`Carried`."""
        return self._found[key]

    def _search(self, lost: list[_Key], *, guess: bool) -> None:
        places = self._manifest.places({bytes.fromhex(block) for _, _, block in lost})
        taken = {place for place, _ in self._found.values()}
        for key in lost:
            path, number, block = key
            candidates = places.get(bytes.fromhex(block), [])
            # Two files with the same block, and both were moved: each wants one of its own.
            place = next((each for each in candidates if each not in taken), None)
            place = place or next(iter(candidates), None)
            kind = "moved"
            inode = self._inode(path)
            if place is None and guess and inode is not None and self._digest(inode, number) is not None:
                place, kind = (inode, number), "guessed"
            taken.add(place)
            self._found[key] = place, kind

    def _digest(self, inode: int, number: int) -> str | None:
        """The digest of a file's block; None beyond its end, or for a hole."""
        try:
            digest = self._manifest.block(inode, number).digest
        except OSError:
            return None
        return None if digest is None else digest.hex()

    def _inode(self, path: str) -> int | None:
        """The regular file at a path."""
        if path not in self._inodes:
            number: int | None = ROOT
            try:
                for name in unquoted(path).split(b"/"):
                    number = self._manifest.lookup(number or ROOT, name)
                mode = self._manifest.inode(number or ROOT).mode
                self._inodes[path] = number if stat.S_ISREG(mode) else None
            except OSError:
                self._inodes[path] = None
        return self._inodes[path]


def _piece(manifest: Manifest, run: Run, place: _Place) -> Piece | None:
    inode, number = place
    length = min(run.length, manifest.block(inode, number).length - run.offset)
    if length <= 0:
        return None
    offset = number * manifest.header.block_size + run.offset
    return Piece(inode, offset, length, round(run.t_ms * 1000))
