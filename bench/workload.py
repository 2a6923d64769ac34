"""What a node does once it is up, and how it is started there: last, under any init, the root untouched."""

import dataclasses
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from orioncache.bench.kept import DEFAULT, KEPT, Kept
from orioncache.bench.root import OWN_INIT, Root, is_program, resolve_inside
from orioncache.errors import UserError

GUEST = Path(__file__).parent / "guest"

# Everything of ours in the node's root is below this directory; guest/inject.sh knows it as well.
OURS = "/.orion-bench"
RUN = f"{OURS}/run"

RUN_SCRIPT = f"""#!{OURS}/busybox sh
# The last boot step: the workload, whose exit code is the node's verdict.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
cd /
{OURS}/busybox ip link set lo up
exec {OURS}/guest run {OURS}/workload
"""

# PID 1 of a root that has no init of its own.
INIT_SCRIPT = f"""#!{OURS}/busybox sh
busybox={OURS}/busybox
mount() {{
    [ -e "$3" ] || {{ $busybox mkdir -p "$2" && $busybox mount -t "$1" "$1" "$2"; }}
}}
mount proc /proc /proc/self
mount sysfs /sys /sys/kernel
mount devtmpfs /dev /dev/console
$busybox mkdir -p /tmp /run /root
$busybox chmod 1777 /tmp
{RUN} &
# The shell reaps what the workload leaves behind.
wait
exec $busybox sleep 2147483647
"""

# runsvdir starts all services at once, after all start scripts.
RUNIT_SERVICE = f"""#!{OURS}/busybox sh
exec {RUN}
"""
RUNIT_SERVICES = ("/etc/runit/runsvdir/default", "/etc/service", "/var/service", "/service")

# The target has the service among its wants, and would by default be ordered after it.
SYSTEMD_UNIT = f"""[Unit]
Description=The bench's workload, the last step of the boot
DefaultDependencies=no
After=default.target

[Service]
Type=exec
ExecStart={RUN}
TimeoutStartSec=infinity
"""
SYSTEMD_WANT = "[Unit]\nWants=orion-bench.service\n"

# Without this line's file, busybox's init acts as if these lines were in it (init/init.c, parse_inittab()).
BUSYBOX_DEFAULT = "::sysinit:/etc/init.d/rcS\n"


@dataclasses.dataclass(frozen=True)
class Injection:
    """What the bench adds to a node so that it runs a workload.

    Attributes:
        kind: of the root's init: runit, systemd, sysvinit, busybox or none.
        init: the path for ``init=`` on the kernel command line.
        files: path in the bench's part of the initramfs to contents; all are executable there.
    """

    kind: str
    init: str
    files: Mapping[str, bytes | Path]


def find_workload(text: str = DEFAULT) -> Kept | Path:
    """What ``--workload`` means: one that is kept, or else a file (``./systemd`` is a file in any case)."""
    return KEPT.get(text) or Path(text)


def init_kind(root: Root) -> str:
    """The family of the root's init: runit, systemd, sysvinit, busybox, or none.

    Raises:
        UserError: it has an init of another family.
    """
    if not root.init:
        return "none"
    name = root.init.rpartition("/")[2]
    if name in ("runit", "runit-init"):
        return "runit"
    if name in ("systemd", "busybox"):
        return name
    # The others are all called init.
    if name == "init":
        content = (root.path / root.init.lstrip("/")).read_bytes()
        if b"/etc/inittab" in content:
            return "busybox" if b"BusyBox" in content else "sysvinit"
    raise UserError(
        f"{root.init} in {root.path} is no init that the bench knows (runit, systemd, sysvinit, busybox)",
        f"--append init={OWN_INIT} starts the workload alone, without the root's init",
    )


def inject(root: Root, workload: Kept | Path) -> Injection:
    """Decides what is added to a node with this root so that it runs a workload as its last boot step.

    Args:
        root: the checked tree.
        workload: an executable file, or one that is kept.

    Raises:
        UserError: the workload cannot run in that root, or the root's init is of an unknown kind.
    """
    kind = init_kind(root)
    file = workload.file if isinstance(workload, Kept) else workload
    check_workload(root, file, workload.needs if isinstance(workload, Kept) else ())
    placed: dict[str, tuple[int, bytes | Path]] = {
        f"{OURS}/workload": (0o755, file),
        RUN: (0o755, RUN_SCRIPT.encode()),
    }
    if kind == "none":
        placed[OWN_INIT] = (0o755, INIT_SCRIPT.encode())
    elif kind == "runit":
        placed[f"{_runit_services(root)}/orion-bench/run"] = (0o755, RUNIT_SERVICE.encode())
    elif kind == "systemd":
        units = _directory(root, "/etc/systemd/system")
        placed[f"{units}/orion-bench.service"] = (0o644, SYSTEMD_UNIT.encode())
        placed[f"{units}/default.target.d/orion-bench.conf"] = (0o644, SYSTEMD_WANT.encode())
    else:
        placed[f"{_directory(root, '/etc')}/inittab"] = (0o644, _inittab(root, kind))
    listing = "".join(f"{mode:o} {path.lstrip('/')}\n" for path, (mode, _) in placed.items())
    files: dict[str, bytes | Path] = {
        "hooks/overlay/50-workload": GUEST / "inject.sh",
        "bench/inject.list": listing.encode(),
    }
    for path, (_, content) in placed.items():
        files["bench/inject" + path] = content
    return Injection(kind, root.init or OWN_INIT, files)


def check_workload(root: Root, path: Path, needs: Sequence[str] = ()) -> None:
    """Checks, as far as can be seen from here, that a workload runs in that root.

    Args:
        root: the checked tree.
        path: the workload's file.
        needs: absolute paths of programs that it starts.

    Raises:
        UserError: it does not exist, is not executable, or the root lacks what it needs.
    """
    mend = f"give --workload an executable file, or one of {', '.join(KEPT)}"
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise UserError(f"workload {path}: {error.strerror}", mend) from None
    if not stat.S_ISREG(mode):
        raise UserError(f"workload {path} is no file", mend)
    if not mode & 0o111:
        raise UserError(f"workload {path} is not executable", f"chmod +x {path}")
    with path.open("rb") as file:
        first = file.readline(4096)
    if first.startswith(b"#!"):
        interpreter = first[2:].split()[0].decode(errors="replace") if first[2:].split() else ""
        if not is_program(root.path, resolve_inside(root.path, interpreter)):
            raise UserError(
                f"workload {path} is run by '{interpreter}', which {root.path} lacks",
                "name an interpreter of that root in its first line, or give a static program",
            )
    for program in needs:
        if not is_program(root.path, resolve_inside(root.path, program)):
            raise UserError(
                f"{root.path} lacks {program}, which the workload {path.name} starts",
                "give --workload FILE, an executable whose exit 0 means that this node is ready",
            )


def _runit_services(root: Root) -> str:
    for name in RUNIT_SERVICES:
        found = resolve_inside(root.path, name)
        if found is not None and (root.path / found.lstrip("/")).is_dir():
            return found
    raise UserError(
        f"{root.path} starts {root.init} but has no directory of services ({', '.join(RUNIT_SERVICES)})",
        "add one to the root",
    )


def _directory(root: Root, name: str) -> str:
    """Where a directory really is in the tree; as named, if it is not there yet."""
    parent, _, last = name.rpartition("/")
    found = resolve_inside(root.path, name)
    return found if found is not None else f"{_directory(root, parent) if parent else ''}/{last}"


def _inittab(root: Root, kind: str) -> bytes:
    """The root's inittab with the workload as its last line: init goes through it in order."""
    found = resolve_inside(root.path, "/etc/inittab")
    if found is not None:
        text = (root.path / found.lstrip("/")).read_bytes().rstrip(b"\n") + b"\n"
    elif kind == "busybox":
        text = BUSYBOX_DEFAULT.encode()
    else:
        raise UserError(f"{root.path} starts {root.init} but has no /etc/inittab", "add it to the root")
    line = f"::once:{RUN}\n" if kind == "busybox" else f"orb:2345:once:{RUN}\n"
    return text + line.encode()
