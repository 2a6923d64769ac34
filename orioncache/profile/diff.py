"""How good a profile is: what of a boot it foresaw, and what of it the boot did not want, in bytes.

Contents are compared, by block digest and page. A content that several files have counts as often as it is
wanted, whichever of the files it is in.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from orioncache.errors import UserError
from orioncache.native.manifest import NativeManifest
from orioncache.profile import format as files
from orioncache.profile.build import of_boot
from orioncache.profile.format import SHARE, Run, quoted
from orioncache.profile.merge import pages
from orioncache.release import bundle as bundles
from orioncache.release.bundle import Bundle
from orioncache.release.detect import MANIFEST
from orioncache.release.packs import read_quietly
from orioncache.trace import format as traces

_Content = tuple[str, int]


@dataclass
class Pages:
    """Pages that a profile or bundle has, or a boot wanted.

    Attributes:
        what: "profile", "trace" or "bundle".
        path: its file.
        manifest: the digest of the manifest of its release, in hexadecimal.
        files: for each content (a block's digest, a page of it) the files that it is wanted in, one for each.
        lengths: bytes of each content.
    """

    what: str
    path: Path
    manifest: str
    files: dict[_Content, list[str]] = field(default_factory=dict)
    lengths: dict[_Content, int] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Of all pages."""
        return sum(self.lengths[content] * len(found) for content, found in self.files.items())

    def add(self, runs: Iterable[Run]) -> None:
        """Adds all pages of these runs."""
        for page, touch in pages(runs):
            self.add_page((page.block, page.page), page.path, touch.length)

    def add_page(self, content: _Content, path: str, length: int) -> None:
        """Adds one page."""
        self.files.setdefault(content, []).append(path)
        self.lengths[content] = length


@dataclass(frozen=True)
class Difference:
    """A profile, or a bundle, beside what was wanted.

    Attributes:
        had: bytes of the first.
        wanted: bytes of the second.
        hit: bytes that are in both.
        missed: bytes that were wanted in vain, by file, the most first.
        wasted: bytes that nobody wanted, likewise.
        same_release: both are of one release.
    """

    had: int
    wanted: int
    hit: int
    missed: list[tuple[str, int]]
    wasted: list[tuple[str, int]]
    same_release: bool

    @property
    def recall(self) -> float:
        """The part of what was wanted that it had, 0 to 1."""
        return self.hit / self.wanted if self.wanted else 1.0

    @property
    def precision(self) -> float:
        """The part of what it had that was wanted, 0 to 1."""
        return self.hit / self.had if self.had else 1.0

    @property
    def waste(self) -> float:
        """The part of what it had that was not wanted, 0 to 1."""
        return 1 - self.precision


def load(path: Path, share: float = SHARE) -> Pages:
    """The pages of a profile, a trace or a bundle; a file's first bytes tell which it is.

    Args:
        path: the file. A bundle lies in the directory of its release.
        share: pages of a profile that fewer of its boots touched do not count (0 to 1).

    Raises:
        UserError: it is none of the three, broken, or a trace of a boot that says nothing.
    """
    with path.open("rb") as file:
        magic = file.read(8)
    if magic == traces.MAGIC:
        boot = of_boot(path, traces.read(path))
        found = Pages("trace", path, boot.manifest)
        found.add(boot.runs)
    elif magic == bundles.MAGIC:
        found = _bundle(path)
    elif magic.startswith(files.MAGIC):
        profile = files.read(path)
        found = Pages("profile", path, profile.manifest)
        found.add(profile.habits(share))
    else:
        raise UserError(f"{path} is no profile, trace or bundle", "orioncache profile build makes a profile")
    return found


def diff(one: Pages, other: Pages) -> Difference:
    """Holds a profile or a bundle against what was wanted."""
    hit = 0
    missed: Counter[str] = Counter()
    wasted: Counter[str] = Counter()
    for content, theirs in other.files.items():
        ours = one.files.get(content, [])
        both = min(len(ours), len(theirs))
        hit += both * other.lengths[content]
        for path in theirs[both:]:
            missed[path] += other.lengths[content]
    for content, ours in one.files.items():
        theirs = other.files.get(content, [])
        for path in ours[min(len(ours), len(theirs)) :]:
            wasted[path] += one.lengths[content]
    return Difference(
        had=one.bytes,
        wanted=other.bytes,
        hit=hit,
        missed=missed.most_common(),
        wasted=wasted.most_common(),
        same_release=one.manifest == other.manifest,
    )


def _bundle(path: Path) -> Pages:
    bundle = Bundle(path)
    manifest_path = path.parent.parent / MANIFEST
    try:
        data = read_quietly(manifest_path)
        manifest = NativeManifest(data)
    except OSError:
        raise UserError(
            f"{path} is not in a release", "give it where it lies: RELEASE/bundles/ROLE.bundle"
        ) from None
    digest = data[480 : 480 + len(bundle.manifest)]
    if digest != bundle.manifest:
        raise UserError(f"{path} belongs to another release", "orioncache release bundle writes it anew")
    block_size = int.from_bytes(data[32:36], "little")
    found = Pages("bundle", path, bundle.manifest.hex())
    names: dict[int, str] = {}
    for chunk in bundle.chunks:
        for at in range(chunk.offset, chunk.offset + chunk.length, bundles.PAGE):
            try:
                block = manifest.block(chunk.inode, at // block_size)
                if chunk.inode not in names:
                    names[chunk.inode] = quoted(manifest.path(chunk.inode))
            except OSError:
                raise UserError(
                    f"{path}: a chunk lies in no file of the release", "orioncache release verify"
                ) from None
            if block.digest is None:
                continue
            length = min(bundles.PAGE, chunk.offset + chunk.length - at)
            content = block.digest.hex(), at % block_size // bundles.PAGE
            found.add_page(content, names[chunk.inode], length)
    return found
