"""What the guest of a fault bench is given: the digests of all files, and another release of the root."""

import os
import random
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

from orioncache.atomic import replacing_directory
from orioncache.bench.root import fingerprint
from orioncache.native import digests
from orioncache.paths import cache_directory, content_key
from orioncache.process import run
from orioncache.progress import step
from orioncache.release.build import build
from orioncache.release.detect import MANIFEST, PACKS
from orioncache.release.store import Store

# guest/probe.c has the same.
PAGE = 4096
HEAD = struct.Struct("=IIQ")
DIGEST = 8  # bytes of the xxh3-128 of each page

LIST = "probe.list"
OTHER = "other"  # version of the other release
# Files of the list that the other release has with other bytes.
CHANGED = 64
CHANGED_LIMIT = 64 << 10  # bytes of each: no need for more
# Below these the probe reads. The rest is written to by boots; what is cached of it is checked as well.
READ = (b"/usr/", b"/opt/", b"/srv/")
KEPT = 4
RECIPE = "2"

HOOK = "#!/bench/bin/busybox sh\nexec /bench/bin/guest {}\n"
HOOKS = {
    "hooks/mount/70-fault": "reached mount",
    "hooks/overlay/60-probe": "probe",
    # The time stamp comes after it: a fault at this point belongs to userland.
    "hooks/switch/98-fault": "reached switch",
}


def probe_files(root: Path, release: Path | None, *, divergent: bool) -> dict[str, Path | bytes]:
    """What the bench's archive gets for a fault bench, by path in it.

    Args:
        root: the node's root.
        release: of it, if a variant has one.
        divergent: whether a server will have another release.
    """
    place = _place(root, release, divergent=divergent)
    files: dict[str, Path | bytes] = {name: HOOK.format(words).encode() for name, words in HOOKS.items()}
    for path in sorted(place.rglob("*")):
        if path.is_file():
            files[f"bench/{path.relative_to(place)}"] = path
    return files


def _place(root: Path, release: Path | None, *, divergent: bool) -> Path:
    directory = cache_directory("probe")
    path = directory / content_key(RECIPE, fingerprint(root), str(release), str(divergent))
    if not path.is_dir():
        with step("taking the digests of the root", "some seconds"), replacing_directory(path) as aside:
            changed = _write_list(root, aside / LIST)
            if divergent:
                _make_other(root, release, changed, aside / OTHER)
    os.utime(path)  # the newest ones are kept
    for old in sorted(directory.iterdir(), key=lambda each: each.stat().st_mtime, reverse=True)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def _regular(root: Path) -> Iterator[bytes]:
    top = os.fsencode(root)
    for path, directories, files in os.walk(top):
        directories.sort()
        for name in sorted(files):
            whole = path + b"/" + name
            if os.path.isfile(whole) and not os.path.islink(whole) and os.path.getsize(whole):  # noqa: PTH113, PTH114, PTH202
                yield whole[len(top) :]


def _write_list(root: Path, path: Path) -> list[bytes]:
    """Writes the list, in an order that nothing reads in; returns what the other release changes."""
    names = list(_regular(root))
    random.Random(1).shuffle(names)
    changed: list[bytes] = []
    with path.open("wb") as file:
        for name in names:
            data = (root / os.fsdecode(name[1:])).read_bytes()
            is_read = name.startswith(READ)
            if is_read and len(changed) < CHANGED and PAGE <= len(data) <= CHANGED_LIMIT:
                changed.append(name)
            file.write(HEAD.pack(len(name) - 1, is_read, len(data)) + name[1:])
            file.writelines(
                digests.digest(digests.XXH3_128, data[at : at + PAGE])[:DIGEST]
                for at in range(0, len(data), PAGE)
            )
    return changed


def _make_other(root: Path, release: Path | None, changed: list[bytes], other: Path) -> None:
    """What a server with another release has in other bytes: of the tree, and of its release."""
    tree = other / "tree"
    for name in changed:
        source, target = (top / os.fsdecode(name[1:]) for top in (root, tree))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(bytes(byte ^ 1 for byte in source.read_bytes()))
    if release is None:
        return
    # A root that is linked to would get another fingerprint.
    work = other / "work"
    work.mkdir()
    run(["cp", "-a", root, work / "root"])
    run(["cp", "-a", release.parent.parent.parent, work / "store"])
    for name in changed:
        inside = work / "root" / os.fsdecode(name[1:])
        old = inside.stat()
        inside.write_bytes((tree / os.fsdecode(name[1:])).read_bytes())
        os.utime(inside, ns=(old.st_atime_ns, old.st_mtime_ns))
    store = Store.create(work / "store")
    name_of = release.parent.name
    build(work / "root", store, name_of, OTHER)
    built = store.place(name_of, OTHER)
    (other / "release" / PACKS).mkdir(parents=True)
    shutil.copyfile(built / MANIFEST, other / "release" / MANIFEST)
    for pack in (built / PACKS).iterdir():
        # The others are those that the first release has.
        if not (release / PACKS / pack.name).exists():
            shutil.copyfile(pack, other / "release" / PACKS / pack.name)
    shutil.rmtree(work)
