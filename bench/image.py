"""The bench's own cpio, appended to the node's image: scene scripts, static tools, hooks, the workload.

The kernel unpacks concatenated archives one after the other, so the node's image is the same file in every
variant, and the bench adds to it without touching it.
"""

import subprocess
import sysconfig
import tempfile
from collections.abc import Mapping
from pathlib import Path

from orioncache.atomic import replacing
from orioncache.initramfs.cpio import Entry, pack
from orioncache.paths import cache_directory, content_key
from orioncache.process import require, run

GUEST = Path(__file__).parent / "guest"

# Programs in the guest, by the name that they have there. iproute2's stand beside a loader and libraries of
# their own: see ip() in guest/link.sh.
PROGRAMS = {
    "busybox": ("busybox", "busybox-static"),
    "ip.elf": ("ip", "iproute2"),
    "tc.elf": ("tc", "iproute2"),
}

IMAGES_KEPT = 16  # 13 MB each

MARK_HOOK = b"#!/bench/bin/busybox sh\nexec /bench/bin/guest mark initramfs\n"
FAILURE_HOOK = b'#!/bench/bin/busybox sh\nexec /bench/bin/guest fail "the node\'s init: $1"\n'


def bench_image(extra: Mapping[str, Path | bytes], *, node_image: Path) -> Path:
    """The node's image with the bench's archive behind it, cached by content.

    Args:
        extra: files to add (the workload and what injects it): path in the archive to file or content; all
            are executable there.
        node_image: what ``orioncache initramfs build`` made, or any other cpio.

    Returns:
        A file to be given to QEMU's ``-initrd`` together with ``rdinit=/bench/init``.
    """
    files = {**_scene(), **{name: _content(item) for name, item in extra.items()}}
    bench = pack({name: Entry.file(data, executable=True) for name, data in files.items()})
    node = node_image.read_bytes()
    directory = cache_directory("bench")
    path = directory / f"initrd-{content_key(node, bench)}.cpio"
    if not path.exists():
        _forget_old(directory)
        with replacing(path) as file:
            file.write(node)
            # Archives are found at multiples of four bytes.
            file.write(b"\0" * (-len(node) % 4))
            file.write(bench)
    return path


def _forget_old(directory: Path) -> None:
    """Makes room for one more image. QEMU has read its own by the time that so many others were made."""
    images = sorted(directory.glob("initrd-*.cpio"), key=lambda path: path.stat().st_mtime)
    for path in images[: 1 - IMAGES_KEPT]:
        path.unlink(missing_ok=True)


def _content(item: Path | bytes) -> bytes:
    return item if isinstance(item, bytes) else item.read_bytes()


def _scene() -> dict[str, bytes]:
    files = {
        "bench/init": (GUEST / "init.sh").read_bytes(),
        "bench/link.sh": (GUEST / "link.sh").read_bytes(),
        "bench/server.sh": (GUEST / "server.sh").read_bytes(),
        "bench/fault.sh": (GUEST / "fault.sh").read_bytes(),
        "bench/nbd-server.sh": (GUEST / "nbd-server.sh").read_bytes(),
        "bench/bin/guest": guest_helper().read_bytes(),
        "hooks/network/50-nbd": (GUEST / "nbd-mount.sh").read_bytes(),
        "hooks/mount/50-readahead": (GUEST / "readahead.sh").read_bytes(),
        "hooks/switch/99-mark": MARK_HOOK,
        "hooks/failure/00-report": FAILURE_HOOK,
    }
    for name, (program, package) in PROGRAMS.items():
        files[f"bench/bin/{name}"] = Path(require(program, package)).read_bytes()
    loader, libraries = libraries_of([Path(require("ip", "iproute2")), Path(require("tc", "iproute2"))])
    files["bench/bin/ld.so"] = loader.read_bytes()
    for library in libraries:
        files[f"bench/lib/{library.name}"] = library.read_bytes()
    return files


def guest_helper() -> Path:
    """The static helper of guest/*.c, compiled at the first call."""
    sources = sorted(GUEST.glob("*.c"))
    texts = [source.read_bytes() for source in (*sources, GUEST / "guest.h")]
    path = cache_directory("bench") / f"guest-{content_key(*texts)}"
    if not path.exists():
        compiler = require("musl-gcc", "musl-tools")
        flags = ["-static", "-Os", "-s", "-std=c11", "-Wall", "-Wextra", "-Werror"]
        # What musl does not have: the kernel's own headers, and xxhash.h, which is all there is of it here.
        for place in ("/usr/include", f"/usr/include/{sysconfig.get_config_var('MULTIARCH')}"):
            flags += ["-idirafter", place]
        with tempfile.TemporaryDirectory() as directory, replacing(path, 0o755) as file:
            binary = Path(directory, "guest")
            run([compiler, *flags, "-o", binary, *sources])
            file.write(binary.read_bytes())
    return path


def libraries_of(programs: list[Path]) -> tuple[Path, list[Path]]:
    """The loader and the shared libraries that the programs need on this machine."""
    loader: Path | None = None
    libraries: dict[str, Path] = {}
    for program in programs:
        # `ld.so --list` and not ldd, which is a shell script around it.
        text = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        for line in text.splitlines():
            words = line.split()
            if "=>" in words:
                libraries[words[0]] = Path(words[2])
            elif words[0].startswith("/"):
                loader = Path(words[0])
    assert loader is not None
    return loader, [path for _, path in sorted(libraries.items())]
