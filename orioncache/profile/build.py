"""Learns a profile from traces of boots."""

import os
from collections.abc import Sequence
from pathlib import Path

from orioncache.errors import UserError
from orioncache.native import digests
from orioncache.profile.format import DEFAULT_ROLE, Profile, quoted
from orioncache.profile.merge import Page, Touch, merge, runs
from orioncache.release.bundle import PAGE
from orioncache.trace.format import ERROR, Trace


def build(traces: Sequence[tuple[Path, Trace]], role: str = DEFAULT_ROLE, *, carry: bool = False) -> Profile:
    """The profile of several boots, each with its path for messages.

    Args:
        traces: at least one. The last one's release is the profile's.
        role: the nodes'.
        carry: take traces of other releases, too: what is still the same is known by its digest.

    Raises:
        UserError: a trace is not fit to learn from, or of another release.
    """
    return merge([of_boot(path, trace, role) for path, trace in traces], role, carry=carry)


def of_boot(path: Path, trace: Trace, role: str = DEFAULT_ROLE) -> Profile:
    """The profile of one boot.

    Raises:
        UserError: the trace is not fit to learn from.
    """
    if why := unfit(trace):
        raise UserError(f"{path}: {why}", "record a boot where all goes well: orioncache trace record --help")
    return Profile(
        role=role,
        release=_plain(trace.release),
        release_version=_plain(trace.version),
        manifest=trace.manifest_digest.hex(),
        digest=next(name for name, number in digests.KINDS.items() if number == trace.digest_kind),
        block_size=trace.block_size,
        boots=1,
        runs=runs(_first(trace)),
    )


def unfit(trace: Trace) -> str:
    """Why a trace says nothing reliable of what boots read; empty if it does."""
    if trace.lost:
        return f"{trace.lost:,} records found no room in it"
    if trace.degraded:
        return "it is of a degraded boot: a server failed, or gave wrong bytes"
    if not trace.files:
        return "it does not say which files were read"
    if not any(trace.digests.values()):
        return "nothing was read in it"
    return ""


def _first(trace: Trace) -> dict[Page, Touch]:
    """Each page that was read, when it was read first; records are in order of time."""
    found: dict[Page, Touch] = {}
    for record in trace.reads:
        path = quoted(os.fsencode(trace.files[record.inode].path))
        # What failed was not read, and what has no name any more cannot be found again.
        if record.outcome == ERROR or not path:
            continue
        size = trace.files[record.inode].size
        t_ms = round(max(0, record.t_ns - trace.started_ns) / 1e6, 3)
        for at in range(record.offset // PAGE * PAGE, record.offset + record.length, PAGE):
            number, skip = divmod(at, trace.block_size)
            digest = trace.digests.get((record.inode, number))
            # A hole has no content that anybody could send.
            if digest is not None:
                page = Page(path, number, digest.hex(), skip // PAGE)
                found.setdefault(page, Touch(t_ms, 1, min(PAGE, size - at)))
    return found


def _plain(name: str) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in name)
