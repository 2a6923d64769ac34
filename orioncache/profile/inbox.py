"""What nodes sent: their traces, kept in the store of the releases that they booted.

STORE/learned/NAME/VERSION/ROLE/BOOT.trace      the last ones
STORE/learned/NAME/VERSION/ROLE/ROLE.profile    what was learned of them
"""

import errno
import re
import shutil
import threading
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from orioncache.atomic import replacing
from orioncache.errors import UserError
from orioncache.options import is_role
from orioncache.profile.build import unfit
from orioncache.release.bundle import PAGE
from orioncache.release.format import ManifestError
from orioncache.release.packs import read_header
from orioncache.release.store import Release, Store
from orioncache.trace.format import Trace, decode

BOOT = re.compile(r"[0-9a-f-]{8,64}")
SUFFIX = ".trace"
# Roles of one release, each of which takes room.
ROLES_MOST = 64
# Pages that one boot may have touched, 4 GiB: what is learned of it has to fit into memory.
PAGES_MOST = 1 << 20
# Bytes of the disk that are left to others.
MARGIN = 256 << 20


class Refused(Exception):
    """A trace that is not taken.

    Attributes:
        status: HTTP's.
        text: why, in one line.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class Group(NamedTuple):
    """What is learned together: boots of a release by nodes of a role."""

    name: str
    version: str
    role: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}, role {self.role}"


class Inbox:
    """The traces of a store. Its methods may be called from any thread.

    Attributes:
        store: whose releases nodes boot.
    """

    def __init__(self, store: Store, *, keep: int, roles: Collection[str] = (), margin: int = MARGIN) -> None:
        """Opens it; what a killed process left there half written is removed.

        Args:
            store: an opened one.
            keep: traces of each group.
            roles: those whose traces are taken; none: all, up to :data:`ROLES_MOST` of a release.
            margin: bytes of the disk that stay free.
        """
        self.store = store
        self._keep = keep
        self._roles = frozenset(roles)
        self._margin = margin
        self._changing = threading.Lock()
        for path in store.learned.glob("*/*/*/.*"):
            path.unlink(missing_ok=True)

    def take(self, role: str, boot: str, data: bytes) -> tuple[Group, bool]:
        """Keeps a trace; whose, and whether it is a new one.

        Raises:
            Refused: nobody shall learn from it, or it cannot be kept.
        """
        self.check(role, boot)
        try:
            trace = decode(data, "this")
        except UserError as error:
            raise Refused(400, error.message) from None
        if why := _useless(trace):
            raise Refused(422, why)
        release = self._release(trace)
        group = Group(release.name, release.version, role)
        with self._changing:
            try:
                # As long as that, `release gc` takes nothing away.
                with self.store.locked():
                    return group, self._write(group, boot, data)
            except UserError as error:
                raise Refused(503, error.message) from None
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise Refused(507, "there is no room on the disk") from None

    def check(self, role: str, boot: str) -> None:
        """Looks at what is known before the trace itself.

        Raises:
            Refused: it is wrong.
        """
        if not is_role(role) or not BOOT.fullmatch(boot):
            raise Refused(400, "the path does not end with ROLE/BOOT.trace")
        if self._roles and role not in self._roles:
            raise Refused(403, f"nothing is learned for role {role} here")

    def groups(self) -> list[Group]:
        """Those with traces, of releases that are there."""
        found = []
        for release in self.store.releases():
            top = self.store.learned / release.name / release.version
            if top.is_dir():
                found += [
                    Group(release.name, release.version, each.name)
                    for each in sorted(top.iterdir())
                    if is_role(each.name)
                ]
        return [group for group in found if self.traces(group)]

    def traces(self, group: Group) -> list[Path]:
        """A group's, the oldest first."""
        found = [(path.stat().st_mtime_ns, path) for path in self._place(group).glob(f"*{SUFFIX}")]
        return [path for _, path in sorted(found) if not path.name.startswith(".")]

    def profile(self, group: Group) -> Path:
        """Where what was learned of a group is, or would be."""
        return self._place(group) / f"{group.role}.profile"

    def is_learned(self, group: Group) -> bool:
        """Whether its profile has all of its traces."""
        profile = self.profile(group)
        traces = self.traces(group)
        return profile.is_file() and profile.stat().st_mtime_ns >= traces[-1].stat().st_mtime_ns

    def _place(self, group: Group) -> Path:
        return self.store.learned / group.name / group.version / group.role

    def _release(self, trace: Trace) -> Release:
        for release in self.store.releases():
            try:
                header = read_header(release.manifest)
            except (ManifestError, OSError):
                continue
            if (header.digest_kind, header.digest) == (trace.digest_kind, trace.manifest_digest):
                return release
        raise Refused(404, f"it is of a release that is not in this store: {trace.manifest_digest.hex()}")

    def _write(self, group: Group, boot: str, data: bytes) -> bool:
        place = self._place(group)
        path = place / f"{boot}{SUFFIX}"
        if path.is_file() and path.read_bytes() == data:
            return False
        if not place.is_dir() and place.parent.is_dir():
            others = sum(1 for _ in place.parent.iterdir())
            if others >= ROLES_MOST:
                raise Refused(403, f"{others} roles are learned for this release already")
        if shutil.disk_usage(self.store.path).free < len(data) + self._margin:
            raise Refused(507, "there is too little room on the disk")
        with replacing(path) as file:
            file.write(data)
        for old in self.traces(group)[: -self._keep]:
            old.unlink(missing_ok=True)
        return True


def _useless(trace: Trace) -> str:
    """Why nobody shall learn from a trace; empty if it is good."""
    if not trace.first_touches:
        return "it is not of first touches: it has what the kernel read ahead as well"
    if sum(-(-record.length // PAGE) + 1 for record in trace.reads) > PAGES_MOST:
        return "it has more reads than a boot makes"
    return unfit(trace)
