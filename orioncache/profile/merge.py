"""Merges profiles: of each page, in how many boots it was touched, and when."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from orioncache.errors import UserError
from orioncache.profile.format import Profile, Run
from orioncache.release.bundle import PAGE

# Neighbours that are touched within so many milliseconds are one run. A page that comes so much too early
# delays others by less than that, and a bundle of single pages would have 4,000 chunks in place of 900.
NEAR_MS = 20.0


class Page(NamedTuple):
    """A page of a file.

    Attributes:
        path: the file's, as :class:`Run` has it.
        number: which block of it.
        block: that block's digest, in hexadecimal.
        page: which page of the block.
    """

    path: str
    number: int
    block: str
    page: int


class Touch(NamedTuple):
    """When a page was touched first.

    Attributes:
        t_ms: milliseconds after the mount.
        boots: in how many boots.
        length: bytes; less than ``PAGE`` at a file's end.
    """

    t_ms: float
    boots: int
    length: int


def pages(runs: Iterable[Run]) -> Iterable[tuple[Page, Touch]]:
    """Runs, page by page."""
    for run in runs:
        for at in range(run.offset, run.offset + run.length, PAGE):
            length = min(PAGE, run.offset + run.length - at)
            yield (
                Page(run.path, run.number, run.block, at // PAGE),
                Touch(run.t_ms, run.boots, length),
            )


def runs(touched: Mapping[Page, Touch]) -> list[Run]:
    """Pages as runs, in order of time."""
    found: list[Run] = []
    for page, touch in sorted(touched.items()):
        last = found[-1] if found else None
        if (
            last is not None
            and (last.path, last.number, last.block) == page[:3]
            and last.offset + last.length == page.page * PAGE
            and last.boots == touch.boots
            and abs(last.t_ms - touch.t_ms) <= NEAR_MS
        ):
            found[-1] = Run(
                t_ms=min(last.t_ms, touch.t_ms),
                boots=last.boots,
                path=last.path,
                number=last.number,
                block=last.block,
                offset=last.offset,
                length=last.length + touch.length,
            )
        else:
            found.append(
                Run(
                    t_ms=touch.t_ms,
                    boots=touch.boots,
                    path=page.path,
                    number=page.number,
                    block=page.block,
                    offset=page.page * PAGE,
                    length=touch.length,
                )
            )
    return sorted(found, key=lambda run: (run.t_ms, run.path, run.number, run.offset))


def merge(profiles: Sequence[Profile], role: str | None = None, *, carry: bool = False) -> Profile:
    """One profile of several: boots add up, and the time of a page is the median.

    Args:
        profiles: at least one. The last one's release is the result's.
        role: the result's; None: that of the first.
        carry: take profiles of other releases, too: what is still the same is known by its digest.

    Raises:
        UserError: they are of different releases or have different digests or blocks.
    """
    last = profiles[-1]
    for profile in profiles:
        if (profile.digest, profile.block_size) != (last.digest, last.block_size):
            raise UserError(
                f"{profile.release} {profile.release_version} has {profile.digest} digests of blocks of "
                f"{profile.block_size:,} bytes, {last.release} {last.release_version} {last.digest} and "
                f"{last.block_size:,}",
                "merge what was recorded of releases that were built alike",
            )
        if profile.manifest != last.manifest and not carry:
            raise UserError(
                f"{profile.release} {profile.release_version} ({profile.manifest[:8]}) is another release "
                f"than {last.release} {last.release_version} ({last.manifest[:8]})",
                "give --carry to keep of it what is the same by its digest",
            )
    seen: dict[Page, list[Touch]] = {}
    for profile in profiles:
        for page, touch in pages(profile.runs):
            seen.setdefault(page, []).append(touch)
    return Profile(
        role=profiles[0].role if role is None else role,
        release=last.release,
        release_version=last.release_version,
        manifest=last.manifest,
        digest=last.digest,
        block_size=last.block_size,
        boots=sum(profile.boots for profile in profiles),
        runs=runs({page: _together(touches) for page, touches in seen.items()}),
    )


def _together(touches: list[Touch]) -> Touch:
    """The median of the times, each as often as there were boots; of two in the middle the earlier."""
    boots = sum(touch.boots for touch in touches)
    passed = 0
    for touch in sorted(touches):
        passed += touch.boots
        if 2 * passed >= boots:
            return Touch(touch.t_ms, boots, max(each.length for each in touches))
    raise AssertionError("no touches")
