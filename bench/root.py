"""The node's root file system: a Debian tree built once, or any tree of the user's, and its disk image."""

import dataclasses
import os
import shlex
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from orioncache.atomic import replacing_directory
from orioncache.errors import UserError
from orioncache.paths import cache_directory, content_key, require_room
from orioncache.process import require, run
from orioncache.progress import step

SUITE = "bookworm"

# What a root takes on disk while apt still has the packages (bytes).
BUILD_BYTES = 1_000_000_000

# What PID 1 is made of, by the name of its family.
# systemd waits 90 s for a serial console that no udev has announced.
INITS = {"runit": ["runit-init"], "systemd": ["systemd-sysv", "udev"], "sysvinit": ["sysvinit-core"]}
PACKAGES = ["nginx", "openssh-server", "python3"]

# Left out at unpacking, so that the tree holds only what a node could read. Copyright files stay.
EXCLUDED = [
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/lintian/*",
    "/usr/share/doc/*",
]
KEPT = ["/usr/share/doc/*/copyright", "/usr/share/locale/locale.alias"]

# Runs at the end, in every tree, with the tree as $1. Package caches are of no use in a read-only tree.
CUSTOMIZE = """set -eu
cd "$1"
echo node >etc/hostname
printf '127.0.0.1 localhost node\\n::1 localhost node\\n' >etc/hosts
: >etc/machine-id
rm -rf var/lib/apt/lists/* var/cache/apt/* var/cache/debconf/*-old var/lib/dpkg/*-old
rm -rf var/log/*.log var/log/apt
"""

# runit in its native mode, as a diskless node runs it: Debian's emulation of System V start scripts would
# check, mount and clean disks that are not there, which takes 0.9 s (measured, virtual clock).
# /proc and its like may be there already, or not: without an initramfs. Services: one getty on the serial
# console, and {service}, if there is one. sshd's is left off, as in the boots that all figures compare with.
_RUNIT_SERVICE = """cat >sv/{service}/run <<'EOF'
#!/bin/sh
exec {command}
EOF
chmod 755 sv/{service}/run
ln -s /run/runit/supervise/{service} sv/{service}/supervise
"""
_RUNIT = """set -eu
cd "$1"/etc
touch runit/native.boot.run runit/no.emulate.sysv
mkdir runit/boot-run{directory}
cat >runit/boot-run/node.sh <<'EOF'
[ -e /proc/self ] || mount -t proc proc /proc
[ -e /sys/kernel ] || mount -t sysfs sysfs /sys
[ -e /dev/null ] || mount -t devtmpfs dev /dev
[ -w /run ] || mount -t tmpfs -o mode=0755 run /run
mkdir -p /dev/pts /dev/shm /run/lock
[ -e /dev/pts/ptmx ] || mount -t devpts -o gid=5,mode=620 devpts /dev/pts
grep -q ' /dev/shm ' /proc/mounts || mount -t tmpfs -o mode=1777 shm /dev/shm
read -r name </etc/hostname && echo "$name" >/proc/sys/kernel/hostname
ip link set lo up
EOF
{make}rm runit/runsvdir/default/*
for name in getty-ttyS0{service}; do ln -s "/etc/sv/$name" runit/runsvdir/default/; done
"""


def customize_runit(service: str = "", command: str = "") -> str:
    """The last step of a tree with runit: it boots natively, with a getty and at most one other service."""
    if not service:
        return _RUNIT.format(directory="", make="", service="")
    make = _RUNIT_SERVICE.format(service=service, command=command)
    return _RUNIT.format(directory=f" sv/{service}", make=make, service=f" {service}")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a Debian root is made of.

    Attributes:
        name: of its directory in the cache.
        packages: besides what Debian calls essential, PID 1 among them.
        hooks: shell scripts that run at the end, in this order, with the tree as ``$1``.
        cost: what building it takes, for people.
        files: a directory whose content is laid over the tree before the hooks run; None for none.
    """

    name: str
    packages: Sequence[str]
    hooks: Sequence[str] = (CUSTOMIZE,)
    cost: str = "half a minute to three, 200 MB"
    files: Path | None = None

    def parts(self) -> list[str]:
        """All that the tree follows from, besides Debian's archive."""
        parts = [*self.packages, "--", *EXCLUDED, *KEPT, *self.hooks]
        for path in sorted(self.files.rglob("*")) if self.files else ():
            if path.is_file():
                parts += [str(path.relative_to(self.files or path)), path.read_text()]
        return parts


# Where the kernel looks for an init when none is named (kernel_init() in init/main.c), without /bin/sh, its
# last resort, which is no init.
DEFAULT_INITS = ("/sbin/init", "/etc/init", "/bin/init")
# The init that the bench brings along for trees without one.
OWN_INIT = "/.orion-bench/init"
SYMLINKS_MAX = 40  # as in the kernel (MAXSYMLINKS)

IMAGES_KEPT = 12  # a bench has up to four: the root, its release, that with a bundle, a squashfs image
BLOCK = 4096
INODE = 256
ALIGNMENT = 2 << 20  # what a guest maps as persistent memory comes in large pages


def debian_root(init: str = "runit") -> Path:
    """The directory of a Debian tree with nginx, sshd and Python, built at the first call and cached.

    Args:
        init: family of PID 1: ``runit`` (the bench's own root), ``systemd`` or ``sysvinit``.

    Raises:
        UserError: as :func:`build_root`.
    """
    return build_root(debian_recipe(init))


def debian_recipe(init: str = "runit") -> Recipe:
    """Of the tree that :func:`debian_root` gives."""
    hooks = [CUSTOMIZE]
    if init == "runit":
        hooks.append(customize_runit("nginx", "/usr/sbin/nginx -g 'daemon off;'"))
    return Recipe(init, [*INITS[init], *PACKAGES], hooks)


def root_path(recipe: Recipe, suite: str = SUITE) -> Path:
    """Where the root of this recipe is, once it is built."""
    return cache_directory("root") / f"{suite}-{recipe.name}-{content_key(suite, *recipe.parts())}"


def build_root(recipe: Recipe, suite: str = SUITE) -> Path:
    """The directory of a Debian tree of this recipe, built at the first call and cached.

    mmdebstrap and not debootstrap: it installs with apt, so that security updates and dependencies come out
    right, and in a third of the time (measured: 30 s). The packages come from this machine's apt sources if
    they have the suite, and else from where mmdebstrap gets them by itself.

    Args:
        recipe: what it is made of.
        suite: Debian's code name.

    Raises:
        UserError: no root rights, mmdebstrap is missing or failed.
    """
    path = root_path(recipe, suite)
    if path.is_dir():
        return path
    if os.geteuid() != 0:
        raise UserError(
            "a root tree with its owners and devices is built by root only", "run it as root (sudo)"
        )
    require_room(path.parent, BUILD_BYTES, "a Debian root")
    hooks = [*recipe.hooks]
    if recipe.files is not None:
        hooks.insert(0, f'cp -R --preserve=mode {shlex.quote(str(recipe.files))}/. "$1"/')
    log = path.with_suffix(".log")
    log.unlink(missing_ok=True)
    command: list[str | Path] = [
        # The chroot's mounts and daemons live in namespaces that end with the build, which ends with us,
        # however that comes: nothing is left mounted below a directory that is about to be removed.
        *(require("setpriv", "util-linux"), "--pdeathsig", "KILL", "--"),
        require("unshare", "util-linux"),
        *("--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
        require("mmdebstrap", "mmdebstrap"),
        *("--mode=root", "--variant=minbase", f"--include={','.join(recipe.packages)}"),
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in EXCLUDED),
        *(f"--dpkgopt=path-include={pattern}" for pattern in KEPT),
        '--aptopt=Apt::Install-Recommends "false"',
        *_proxy_options(),
        *(f"--customize-hook={hook}" for hook in hooks),
        suite,
    ]
    with (
        step(f"building a Debian root with {recipe.name}", recipe.cost) as progress,
        replacing_directory(path) as aside,
        tempfile.TemporaryDirectory(prefix="orion-root-") as temporary,
    ):
        progress.update(note=f"log: {log}")
        environment = {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive", "TMPDIR": temporary}
        mend = f"are Debian's mirrors reached? is there 1 GB of room in {path.parent}? the log is {log}"
        try:
            run(
                [*command, aside, *_host_sources(suite)],
                env={**os.environ, **environment},
                log=log,
                mend=mend,
            )
        except KeyboardInterrupt:
            log.unlink()
            raise
    log.unlink()
    return path


def _host_sources(suite: str) -> list[str]:
    """One-line apt sources for the suite and its updates, as this machine has them; empty if it has none."""
    form = "$(ORIGIN)|$(RELEASE)|$(COMPONENT)|$(REPO_URI)"
    try:
        command = ["apt-get", "indextargets", "--format", form, "Created-By: Packages"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []  # no Debian: mmdebstrap knows where Debian is
    sources = {}
    for line in text.splitlines():
        origin, release, component, address = line.split("|")
        if (
            origin == "Debian"
            and component == "main"
            and release in (suite, f"{suite}-updates", f"{suite}-security")
        ):
            sources[f"deb {address} {release} main"] = release
    return list(sources) if suite in sources.values() else []


def _proxy_options() -> list[str]:
    """This machine's apt proxies, which mmdebstrap does not read by itself."""
    try:
        text = subprocess.run(
            ["apt-config", "dump", "--format", "%F=%v%n"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    items = [line.partition("=") for line in text.stdout.splitlines() if line.startswith("Acquire::http")]
    return [f'--aptopt={key} "{value}"' for key, _, value in items if "proxy" in key.lower() and value]


@dataclasses.dataclass(frozen=True)
class Root:
    """A tree that passed :func:`check_root`.

    Attributes:
        path: the directory on this machine.
        init: the absolute path, in the tree, of its init, its symbolic links followed; empty if it has none.
    """

    path: Path
    init: str


def check_root(path: Path, init: str | None = None) -> Root:
    """Checks that a directory can be booted, before minutes are spent on it.

    Args:
        path: the tree.
        init: the init that the node is told to start (``init=``), :data:`OWN_INIT` for no init; None for
            the kernel's usual places.

    Raises:
        UserError: it is no directory, lacks that init, or is no root at all.
    """
    path = path.resolve()
    if not path.is_dir():
        what = "is no directory" if path.exists() else "does not exist"
        raise UserError(f"root {path} {what}", "give --root the directory that holds the node's /")
    if path == Path("/"):
        raise UserError(
            "the running system's own / cannot be the node's root", "copy it first: rsync -axHAX / DIR/"
        )
    if init == OWN_INIT:
        return Root(path, "")
    if init is not None:
        found = resolve_inside(path, init)
        if not is_program(path, found):
            raise UserError(
                f"init {init} does not exist in {path}, or is not executable", "mend init= in --append"
            )
        return Root(path, found or "")
    for candidate in DEFAULT_INITS:
        found = resolve_inside(path, candidate)
        if found is not None and is_program(path, found):
            return Root(path, found)
    if not any((path / name).is_dir() for name in ("bin", "sbin", "usr", "lib", "etc", "opt")):
        raise UserError(
            f"{path} is no root tree: no init, and none of bin, usr, lib, etc", "give --root another one"
        )
    return Root(path, "")


def resolve_inside(root: Path, name: str) -> str | None:
    """Follows symbolic links as a process chrooted to ``root`` would.

    Returns:
        The absolute path in the tree that is left when no link is, or None: missing, a loop, or under a file.
    """
    pending = [part for part in reversed(name.split("/")) if part not in ("", ".")]
    done: list[str] = []
    links = 0
    while pending:
        part = pending.pop()
        if part == "..":
            del done[-1:]
            continue
        here = root.joinpath(*done, part)
        try:
            mode = here.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not stat.S_ISLNK(mode):
            done.append(part)
            continue
        links += 1
        if links > SYMLINKS_MAX:
            return None
        target = str(here.readlink())
        if target.startswith("/"):
            done = []
        pending.extend(part for part in reversed(target.split("/")) if part not in ("", "."))
    return "/" + "/".join(done)


def is_program(root: Path, name: str | None) -> bool:
    """Whether a name that :func:`resolve_inside` gave is an executable file."""
    if name is None:
        return False
    found = (root / name.lstrip("/")).lstat()
    return stat.S_ISREG(found.st_mode) and bool(found.st_mode & 0o111)


@dataclasses.dataclass
class _Census:
    """What an image must hold: bytes of data and metadata, inodes, and a fingerprint of the tree."""

    data: int = 0
    inodes: int = 0
    fingerprint: str = ""


def _walk(top: Path) -> Iterator[tuple[bytes, os.stat_result]]:
    """All below ``top``, by descriptors of directories: a path may be longer than the kernel takes."""
    raw = os.fsencode(top)
    for path, directories, files, descriptor in os.fwalk(raw, follow_symlinks=False):
        directories.sort()
        for name in sorted(directories + files):
            where = path[len(raw) :] + b"/" + name
            yield where, os.stat(name, dir_fd=descriptor, follow_symlinks=False)


def fingerprint(root: Path) -> str:
    """A name for a tree that follows from its names, attributes and times.

    Raises:
        UserError: another file system is mounted inside the tree.
    """
    return _census(root).fingerprint


def _census(root: Path) -> _Census:
    census = _Census()
    device = root.stat().st_dev
    seen: set[int] = set()
    parts = [repr((root.stat().st_mode, root.stat().st_uid, root.stat().st_gid))]
    for path, found in _walk(root):
        if found.st_dev != device:
            raise UserError(
                f"another file system is mounted on {root}{os.fsdecode(path)}",
                "unmount it, or copy the tree without it: rsync -axHAX",
            )
        what = (path, found.st_mode, found.st_uid, found.st_gid, found.st_rdev, found.st_size)
        parts.append(repr((*what, found.st_ino, found.st_nlink, found.st_mtime_ns, found.st_ctime_ns)))
        if found.st_ino in seen:
            continue
        seen.add(found.st_ino)
        census.inodes += 1
        # One block more than the data: for extents, extended attributes, or a directory's last block.
        census.data += -(-found.st_blocks * 512 // BLOCK) * BLOCK + BLOCK
    census.fingerprint = content_key(*parts)
    return census


def disk_image(root: Path) -> Path:
    """An ext4 image of the tree, made without mounting anything and cached by a fingerprint of the tree.

    The fingerprint covers path, inode, mode, owner, size and times of every entry. The image has no journal
    and no spare room: it is for reading only. The newest few images are kept. mke2fs cuts times to seconds,
    leaves sockets out (of no use without their process), and needs minutes for a directory of 50,000 files.

    Raises:
        UserError: another file system is mounted inside the tree, or mke2fs failed (a full disk).
    """
    census = _census(root)
    directory = cache_directory("disk")
    image = directory / f"{census.fingerprint}.ext4"
    if image.exists():
        os.utime(image)  # the newest ones are kept
        return image
    program = require("mke2fs", "e2fsprogs")
    # 1/64 covers group descriptors and bitmaps; 16 MiB whatever small trees need.
    size = census.data + census.inodes * INODE + census.data // 64 + (16 << 20)
    size = -(-size // ALIGNMENT) * ALIGNMENT
    aside = directory / f".{image.name}.{os.getpid()}"
    identity = f"{census.fingerprint[:8]}-0000-4000-8000-{census.fingerprint[4:]}"
    command = [
        *(program, "-q", "-F", "-t", "ext4", "-b", str(BLOCK), "-I", str(INODE), "-m", "0", "-L", "root"),
        # Reproducible: identity and hash seed from the fingerprint. Extents keep large files in one run.
        *("-U", identity, "-E", f"hash_seed={identity},lazy_itable_init=0"),
        *(
            "-O",
            "^has_journal,^resize_inode,large_file,huge_file,extent,dir_index",
            "-N",
            str(census.inodes + 64),
        ),
        *("-d", str(root), str(aside), f"{size >> 10}k"),
    ]
    with step("making a disk image of the root", f"some seconds, {census.data >> 20} MB"):
        try:
            run(
                command, env={**os.environ, "E2FSPROGS_FAKE_TIME": "1"}, mend=f"is there room in {directory}?"
            )
            with aside.open("rb+") as file:
                os.fsync(file.fileno())
            aside.replace(image)
        finally:
            aside.unlink(missing_ok=True)
    _forget_old_images(directory)
    return image


def _forget_old_images(directory: Path) -> None:
    images = sorted(directory.glob("*.ext4"), key=lambda path: path.stat().st_mtime, reverse=True)
    for image in images[IMAGES_KEPT:]:
        image.unlink(missing_ok=True)
