"""Builds the initramfs: what a node needs and nothing else, the same bytes each time."""

import dataclasses
import hashlib
import stat
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from orioncache.atomic import replacing
from orioncache.errors import UserError
from orioncache.initramfs.cpio import Entry, pack
from orioncache.initramfs.trace import ENTRIES, Module, interpreter, trace_libraries, trace_modules
from orioncache.node import KEY
from orioncache.options import OPTIONS
from orioncache.paths import cache_directory, content_key
from orioncache.prefetch import registry
from orioncache.process import require, run
from orioncache.release.key import read_public_key

HERE = Path(__file__).resolve().parent
LIMIT = 6_000_000  # bytes: what the image may have at most
LEVEL = 19  # zstd's; the window is 8 MiB, and the kernel takes up to 128

# What init and the scripts call, and what people want in a rescue shell (all others: "busybox NAME").
APPLETS = (
    *(
        "cttyhack",
        "halt",
        "ip",
        "mkdir",
        "mount",
        "poweroff",
        "reboot",
        "setsid",
        "sh",
        "sleep",
        "udhcpc",
        "usleep",
    ),
    *(
        "arp",
        "cat",
        "chmod",
        "chroot",
        "cp",
        "date",
        "dd",
        "df",
        "dmesg",
        "du",
        "env",
        "find",
        "free",
        "grep",
        "head",
    ),
    *(
        "hexdump",
        "hostname",
        "id",
        "kill",
        "less",
        "ln",
        "ls",
        "mknod",
        "mv",
        "nc",
        "nslookup",
        "ping",
        "ping6",
        "ps",
    ),
    *(
        "pwd",
        "readlink",
        "rm",
        "rmdir",
        "sed",
        "sort",
        "stat",
        "stty",
        "sync",
        "tail",
        "top",
        "touch",
        "traceroute",
    ),
    *("tr", "umount", "uname", "vi", "wc", "wget"),
)
TOOLS = ("nfsmount", "switchroot")
EMPTY = ("dev", "hooks", "proc", "root", "run", "sys", "sysroot", "usr/lib/python{version}/lib-dynload")
BUSYBOX = Path("/bin/busybox")
STRIP = ("--strip-all", "--remove-section=.comment", "--remove-section=.note.gnu.build-id")
TOOL_FLAGS = ("-std=c11", "-Wall", "-Wextra", "-Werror", "-Os", "-static", "-s", "-Wl,--build-id=none")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What goes into an image, before anything is compiled, stripped or packed.

    Attributes:
        version: the interpreter's, such as ``3.11``.
        modules: Python sources; place in the image -> file here.
        binaries: programs and libraries that get stripped; place -> file.
        plain: files that go in as they are; place -> file.
        tools: C sources of static helpers; place -> file.
        texts: small files that are made here; place -> content.
        links: symbolic links; place -> target.
    """

    version: str
    modules: Mapping[str, Path]
    binaries: Mapping[str, Path]
    plain: Mapping[str, Path]
    tools: Mapping[str, Path]
    texts: Mapping[str, str]
    links: Mapping[str, str]

    def key(self) -> str:
        """A name for the image that follows from the content of everything that goes into it."""
        parts: list[str | bytes] = [interpreter().read_bytes(), str(LEVEL), *STRIP, *TOOL_FLAGS]
        for module in ("build.py", "cpio.py", "compiled.py"):
            parts.append((HERE / module).read_bytes())
        for files in (self.modules, self.binaries, self.plain, self.tools):
            for place, file in sorted(files.items()):
                parts += [
                    place,
                    hashlib.blake2b(file.read_bytes()).digest(),
                    str(file.stat().st_mode & 0o111),
                ]
        for words in (self.texts, self.links):
            parts += [word for pair in sorted(words.items()) for word in pair]
        return content_key(*parts)


def plan(
    extra: Mapping[str, Path] | None = None,
    modules: Sequence[Module] | None = None,
    key: Path | None = None,
) -> Plan:
    """Finds out what goes in.

    Args:
        extra: further files as they are: place in the image, without a leading slash -> file here.
        key: the public key that releases must be signed with.
        modules: the Python modules; by default what the node's daemon needs.

    Raises:
        UserError: something that is needed is not installed.
    """
    if not BUSYBOX.exists() or b"ld-linux" in BUSYBOX.read_bytes()[:4096]:
        raise UserError(
            "/bin/busybox is missing, or no static one", "apt-get install busybox-static (or: make setup)"
        )
    heuristics = {} if modules is not None else dict(registry.users())
    names = sorted({target.partition(":")[0] for target in heuristics.values()})
    packages = [name.partition(".")[0] for name in names]
    traced = trace_modules([*ENTRIES, *names], packages) if modules is None else modules
    python = interpreter()
    version = python.name.removeprefix("python")
    native = {module.path(version): module.origin for module in traced if module.native}
    libraries = trace_libraries([python, *native.values()])
    scripts = {f"lib/orion/{file.name}": file for file in sorted((HERE / "lib").glob("*.sh"))}
    return Plan(
        version=version,
        modules={module.path(version): module.origin for module in traced if not module.native},
        binaries={"usr/bin/python3": python, **native, **libraries},
        plain={"init": HERE / "init", "bin/busybox": BUSYBOX, **scripts, **(extra or {})},
        tools={f"bin/{name}": HERE / "tools" / f"{name}.c" for name in TOOLS},
        texts={
            "lib/orion/options.sh": f"ORION_OPTIONS='{' '.join(option.field for option in OPTIONS)}'\n",
            **({registry.LISTED.lstrip("/"): _listed(heuristics)} if heuristics else {}),
            **({KEY.lstrip("/"): read_public_key(key).hex() + "\n"} if key else {}),
        },
        links={
            **{f"bin/{applet}": "busybox" for applet in APPLETS},
            "etc/resolv.conf": "/run/orion/resolv.conf",
        },
    )


def _listed(heuristics: Mapping[str, str]) -> str:
    return "".join(f"{name} {target}\n" for name, target in sorted(heuristics.items()))


def assemble(wanted: Plan) -> dict[str, Entry]:
    """Compiles and strips; returns the image's files, without the directories above them."""
    entries = {place.format(version=wanted.version): Entry.directory() for place in EMPTY}
    # Opened by the kernel for init before anything is mounted.
    entries["dev/console"] = Entry(stat.S_IFCHR | 0o600, device=(5, 1))
    for place, file in wanted.plain.items():
        entries[place] = Entry.file(file.read_bytes(), executable=bool(file.stat().st_mode & 0o111))
    for place, text in wanted.texts.items():
        entries[place] = Entry.file(text.encode())
    for place, target in wanted.links.items():
        entries[place] = Entry.link(target)
    entries |= _compiled(wanted.modules)
    with tempfile.TemporaryDirectory(prefix="orioncache-") as name:
        out = Path(name) / "out"
        for place, file in wanted.binaries.items():
            run([require("strip", "binutils"), *STRIP, "-o", out, file], mend="is it an ELF file?")
            entries[place] = Entry.file(out.read_bytes(), executable=True)
        for place, source in wanted.tools.items():
            run([require("musl-gcc", "musl-tools"), *TOOL_FLAGS, "-o", out, source])
            entries[place] = Entry.file(out.read_bytes(), executable=True)
    return entries


def _compiled(modules: Mapping[str, Path]) -> dict[str, Entry]:
    """The .pyc files of Python sources (see compiled.py)."""
    for source in modules.values():
        if source.suffix != ".py":
            raise UserError(f"{source} is no Python source", "install the package with its sources")
    order = sorted(modules.items())
    lines = "".join(f"{source}\t{place}\n" for place, source in order).encode()
    said = run(
        [interpreter(), "-I", "-S", "-B", HERE / "compiled.py"], input=lines, env={"PYTHONHASHSEED": "0"}
    )
    entries, at = {}, 0
    for place, _ in order:
        length = int.from_bytes(said[at : at + 8], "little")
        entries[place] = Entry.file(said[at + 8 : at + 8 + length])
        at += 8 + length
    return entries


def compress(archive: bytes) -> bytes:
    """One zstd frame, padded to 4 bytes, so that further archives can be appended as the kernel allows."""
    import zstandard  # noqa: PLC0415

    packed = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compress(archive)
    return packed + bytes(-len(packed) % 4)


def build_initramfs(
    output: Path | None = None,
    *,
    extra: Mapping[str, Path] | None = None,
    modules: Sequence[Module] | None = None,
    key: Path | None = None,
) -> Path:
    """Builds the image, or finds the one that was built from the same parts before.

    Args:
        output: where to put it; by default it stays in the cache.
        extra: see :func:`plan`.
        modules: see :func:`plan`.
        key: see :func:`plan`.

    Returns:
        The path of the image.

    Raises:
        UserError: something that is needed is missing or does not compile.
    """
    from orioncache.progress import step  # noqa: PLC0415

    wanted = plan(extra, modules, key)
    cached = cache_directory("initramfs") / f"{wanted.key()}.cpio.zst"
    if not cached.exists():
        with step("building the initramfs", "about 20 s"), replacing(cached) as file:
            file.write(compress(pack(assemble(wanted))))
    if output is None:
        return cached
    with replacing(output) as file:
        file.write(cached.read_bytes())
    return output
