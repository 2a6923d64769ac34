"""The file of a profile: JSON lines, compressed with zstd, so that `zstdcat` shows it (docs/profiles.md)."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote_from_bytes, unquote_to_bytes

import msgspec
import zstandard
from msgspec import Meta

from orioncache.atomic import replacing
from orioncache.errors import UserError
from orioncache.native import digests
from orioncache.release.bundle import DEFAULT_ROLE, PAGE, check_role
from orioncache.release.format import BLOCK_SIZES

FORMAT = "orion profile"
VERSION = 1
MAGIC = zstandard.FRAME_HEADER
# A boot's profile has some thousand runs in 100 kB.
PACKED_MAX = 64 << 20
RAW_MAX = 256 << 20
RUNS_MAX = 1 << 20
# Below this share of the boots a page is no habit. One of two boots is enough.
SHARE = 0.5

_LEVEL = 12
_MEND = "orioncache profile build makes one from traces"
# Whatever a name has in it, the line stays one that can be read, and turns back into the same bytes.
_PLAIN = "/!#$&'()*+,:;=@[] ^{}~"
_ASCII = "^[ -~]*$"


class Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Pages of a block that boots touched together.

    Attributes:
        t_ms: when they were wanted, milliseconds after the mount; the median of the boots.
        boots: in how many boots, at least 1.
        path: of a file that has the block, from the root without a leading slash; bytes other than plain
            ASCII are written as %XX.
        number: which block of that file it is.
        block: its digest, in hexadecimal.
        offset: bytes from the block's beginning; a multiple of ``PAGE``.
        length: bytes; a multiple of ``PAGE`` but at the file's end.
    """

    t_ms: Annotated[float, Meta(ge=0, le=1e9)]
    boots: Annotated[int, Meta(ge=1, le=1 << 32)]
    path: Annotated[str, Meta(min_length=1, max_length=16384, pattern=_ASCII)]
    number: Annotated[int, Meta(ge=0, lt=1 << 32)]
    block: Annotated[str, Meta(pattern="^([0-9a-f]{32}|[0-9a-f]{64})$")]
    offset: Annotated[int, Meta(ge=0, lt=1 << 20, multiple_of=PAGE)]
    length: Annotated[int, Meta(ge=1, le=1 << 20)]


class _Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first line."""

    format: Literal["orion profile"]
    version: int
    role: str
    release: Annotated[str, Meta(max_length=200, pattern=_ASCII)]
    release_version: Annotated[str, Meta(max_length=200, pattern=_ASCII)]
    manifest: Annotated[str, Meta(pattern="^([0-9a-f]{32}|[0-9a-f]{64})$")]
    digest: Literal["xxh3", "blake2b", "sha256"]
    block_size: int
    boots: Annotated[int, Meta(ge=1, le=1 << 32)]
    runs: Annotated[int, Meta(ge=1, le=RUNS_MAX)]


class _Version(msgspec.Struct, frozen=True):
    format: Literal["orion profile"]
    version: int


@dataclasses.dataclass(frozen=True)
class Profile:
    """What boots of one role read of one release.

    Attributes:
        role: the nodes'.
        release: the release's name.
        release_version: and its version.
        manifest: the digest of its manifest, in hexadecimal.
        digest: the name of the kind of all digests (``orioncache.native.digests.KINDS``).
        block_size: the release's, bytes.
        boots: how many boots were merged.
        runs: in order of time.
    """

    role: str
    release: str
    release_version: str
    manifest: str
    digest: str
    block_size: int
    boots: int
    runs: Sequence[Run]

    @property
    def bytes(self) -> int:
        """Of all runs."""
        return sum(run.length for run in self.runs)

    def habits(self, share: float = SHARE) -> list[Run]:
        """The runs that at least this share (0 to 1) of the boots had."""
        return [run for run in self.runs if run.boots >= share * self.boots]


def quoted(path: bytes) -> str:
    """A path as a profile has it."""
    return quote_from_bytes(path, safe=_PLAIN)


def unquoted(path: str) -> bytes:
    """A profile's path as the manifest has it."""
    return unquote_to_bytes(path)


def write(profile: Profile, path: Path) -> None:
    """Writes a profile; the file is whole or not there, and the same profile gives the same bytes."""
    head = _Head(
        format="orion profile",
        version=VERSION,
        role=profile.role,
        release=profile.release,
        release_version=profile.release_version,
        manifest=profile.manifest,
        digest=profile.digest,  # type: ignore[arg-type]  # one of the three
        block_size=profile.block_size,
        boots=profile.boots,
        runs=len(profile.runs),
    )
    text = msgspec.json.Encoder().encode_lines([head, *profile.runs])
    packed = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True, write_content_size=True).compress(
        text
    )
    with replacing(path) as file:
        file.write(packed)


def read(path: Path) -> Profile:
    """Reads a profile, and checks all of it.

    Raises:
        UserError: it is no profile, one of another version, or broken.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        packed = file.read(PACKED_MAX + 1)
    try:
        return _parse(_unpack(packed))
    except _BrokenError as error:
        raise UserError(f"{path}: {error}", _MEND) from None


class _BrokenError(Exception):
    """Why this is no profile."""


def _unpack(packed: bytes) -> bytes:
    if packed[: len(MAGIC)] != MAGIC:
        raise _BrokenError("this is no profile")
    if len(packed) > PACKED_MAX:
        raise _BrokenError(f"a profile with more than {PACKED_MAX:,} bytes is none")
    try:
        frame = zstandard.get_frame_parameters(packed)
        # 2**64 - 1 stands for "not said".
        if frame.content_size > RAW_MAX or not frame.has_checksum:
            raise _BrokenError("it is too large, or nothing tells whether it is whole")
        text = zstandard.ZstdDecompressor().decompress(packed, allow_extra_data=False)
    except zstandard.ZstdError:
        raise _BrokenError("it is damaged") from None
    return text


def _parse(text: bytes) -> Profile:
    if text.count(b"\n") > RUNS_MAX + 1:
        raise _BrokenError(f"a profile with more than {RUNS_MAX:,} runs is none")
    lines = text.split(b"\n")
    try:
        version = msgspec.json.decode(lines[0], type=_Version).version
        if version != VERSION:
            raise _BrokenError(f"it has version {version} of the format, and this program reads {VERSION}")
        head = msgspec.json.decode(lines[0], type=_Head)
        decoder = msgspec.json.Decoder(Run)
        runs = [decoder.decode(line) for line in lines[1:] if line]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _BrokenError(f"a line of it is broken: {_one_line(error)}") from None
    try:
        check_role(head.role)
    except UserError as error:
        raise _BrokenError(error.message) from None
    _check(head, runs)
    fields = {
        name: getattr(head, name) for name in head.__struct_fields__ if name not in ("format", "version")
    }
    return Profile(**{**fields, "runs": runs})


def _check(head: _Head, runs: Sequence[Run]) -> None:
    length = 2 * digests.size(digests.KINDS[head.digest])
    if len(runs) != head.runs:
        raise _BrokenError(f"it has {len(runs):,} runs and should have {head.runs:,}")
    if head.block_size not in BLOCK_SIZES or len(head.manifest) != length:
        raise _BrokenError("its first line does not fit together")
    last = 0.0
    ends: dict[tuple[str, int, str], list[tuple[int, int]]] = {}
    for run in runs:
        good = (
            last <= run.t_ms
            and math.isfinite(run.t_ms)
            and run.boots <= head.boots
            and len(run.block) == length
            and run.offset + run.length <= head.block_size
        )
        if not good:
            raise _BrokenError(f"the run of {run.path[:80]!r} at block {run.number} is broken")
        last = run.t_ms
        ends.setdefault((run.path, run.number, run.block), []).append((run.offset, run.length))
    for (path, number, _), parts in ends.items():
        end = 0
        for offset, size in sorted(parts):
            if offset < end:
                raise _BrokenError(f"a page of {path[:80]!r} stands twice, at block {number}")
            end = offset + -(-size // PAGE) * PAGE


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


__all__ = ["DEFAULT_ROLE", "MAGIC", "SHARE", "Profile", "Run", "quoted", "read", "unquoted", "write"]
