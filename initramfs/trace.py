"""Which Python modules and shared libraries a node needs: found by importing what it imports."""

import ast
import dataclasses
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from orioncache.errors import UserError
from orioncache.process import run

HERE = Path(__file__).resolve().parent

# What a node starts, and what it needs beyond what that imports, each with its reason.
ENTRIES = ("orioncache.node",)
EXPLICIT = {
    "os": "frozen into the interpreter, but os.pyc is how it finds its own prefix",
    "encodings.utf_8": "loaded at start, by name",
    "encodings.ascii": "codecs are loaded by name when they are first asked for",
    "encodings.latin_1": "as above",
    "traceback": "to report an exception that nobody caught",
    "linecache": "as above",
    **dict.fromkeys(
        (f"orioncache.prefetch.heuristics.{name}" for name in ("elf", "script", "sequential", "successor")),
        "imported by the name that the kernel command line gives",
    ),
}
# Modules that must seem absent: their importers get by without.
DROPPED = {
    "_ssl": "TLS: 5 MB with libcrypto, and a node speaks none",
    "_hashlib": "drags libcrypto in; hashlib falls back to the interpreter's own digests",
    "_bz2": "shutil's archives, which a node never makes; drags libbz2 in",
    "_lzma": "as above, with liblzma",
}
# Modules of which a node uses one name or none: a small one in initramfs/stand_ins/ takes their place.
STAND_INS = {
    "ssl": "ssl.py",
    "pickle": "pickle.py",
    "importlib.metadata": "importlib_metadata.py",
    "trio._dtls": "trio_dtls.py",
    "idna": "idna.py",
}
# Packages of ours, whose imports inside of functions are followed too: they happen on a node, if later.
OWN = ("orioncache",)
# Libraries that are opened by name at run time, so that no DT_NEEDED tells of them.
LIBRARIES = {"libgcc_s.so.1": "glibc opens it when a thread is cancelled, which libfuse does"}


@dataclasses.dataclass(frozen=True)
class Module:
    """One Python module of the image.

    Attributes:
        name: its dotted name.
        origin: its source (``.py``) or shared object.
        package: whether it is a package's own module.
    """

    name: str
    origin: Path
    package: bool

    @property
    def native(self) -> bool:
        """Whether it is a shared object."""
        return self.origin.suffix == ".so"

    def path(self, version: str) -> str:
        """Its place in the image: all in the standard library's directory, the only one to search."""
        stem = self.name.replace(".", "/") + ("/__init__" if self.package else "")
        if not self.native:
            return f"usr/lib/python{version}/{stem}.pyc"
        below = "lib-dynload/" if "lib-dynload" in self.origin.parts else ""
        return f"usr/lib/python{version}/{below}{stem}{''.join(self.origin.suffixes)}"


def interpreter() -> Path:
    """The Python that our virtual environment was made from; the image carries this one."""
    return Path(getattr(sys, "_base_executable", sys.executable)).resolve()


def trace_modules(entries: Sequence[str] = ENTRIES, packages: Sequence[str] = ()) -> list[Module]:
    """Every module that the entries need, sorted by name.

    Args:
        entries: dotted names.
        packages: where they are, beyond ours.

    Raises:
        UserError: an entry cannot be imported.
    """
    wanted: set[str] = set()
    modules = _probe(entries, wanted, packages)
    while True:
        new = {
            name for module in modules if module.name.split(".")[0] in OWN for name in _imports_of(module)
        } - wanted
        if not new:
            return modules
        wanted |= new
        modules = _probe(entries, wanted, packages)


def _probe(entries: Sequence[str], optional: Iterable[str], packages: Sequence[str]) -> list[Module]:
    arguments = [f"path:{path}" for path in _search_path(packages)]
    arguments += [f"stand-in:{name}={HERE / 'stand_ins' / file}" for name, file in STAND_INS.items()]
    arguments += [f"drop:{name}" for name in DROPPED]
    arguments += [f"import:{name}" for name in [*entries, *EXPLICIT]]
    arguments += [f"optional:{name}" for name in sorted(optional)]
    command: list[str | Path] = [interpreter(), "-I", "-S", "-B", HERE / "probe.py", *arguments]
    said = run(command, mend="does `.venv/bin/python -c 'import orioncache.node'` work? make setup")
    fields = [line.split("\t") for line in said.decode().splitlines()]
    return [Module(name, Path(origin), package == "package") for name, origin, package in fields]


def _search_path(packages: Sequence[str]) -> list[Path]:
    """Where orioncache, the packages that it needs, and others are."""
    found = []
    for name in ("orioncache", "trio", "pyfuse3", "cffi", *packages):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise UserError(f"the Python package {name} is not installed", "make setup")
        origin = Path(spec.origin).resolve()
        found.append(origin.parent.parent if spec.submodule_search_locations else origin.parent)
    return list(dict.fromkeys(found))


def _imports_of(module: Module) -> Iterator[str]:
    """What a module's source imports outside of ``if TYPE_CHECKING``; also names that are no modules."""
    if module.native:
        return
    package = module.name if module.package else module.name.rpartition(".")[0]
    todo: list[ast.AST] = [ast.parse(module.origin.read_bytes())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        todo.extend(ast.iter_child_nodes(node))


_LIBRARY = re.compile(r"^\s*(?:(\S+) => )?(/\S+) \(0x", re.MULTILINE)
_LOADER = Path("/lib64/ld-linux-x86-64.so.2")


def trace_libraries(files: Iterable[Path]) -> dict[str, Path]:
    """The shared libraries that the files need, and theirs: place in the image -> file here.

    Asks the dynamic loader itself, which knows every rule about search paths.

    Raises:
        UserError: a library is missing here.
    """
    found: dict[str, Path] = {}
    for file in files:
        said = run([_LOADER, "--list", file], mend="is it a dynamic executable for this machine?").decode()
        if "=> not found" in said:
            missing = re.findall(r"(\S+) => not found", said)
            raise UserError(
                f"{file} needs {', '.join(missing)}, which is not here", "install the library's package"
            )
        for soname, path in _LIBRARY.findall(said):
            found[_place(soname or path)] = Path(path)
    directory = found["lib/x86_64-linux-gnu/libc.so.6"].parent
    for soname in LIBRARIES:
        found[_place(soname)] = directory / soname
    return dict(sorted(found.items()))


def _place(name: str) -> str:
    # The loader is named by its whole path in every executable; all else is found by its name.
    return name.lstrip("/") if name.startswith("/") else f"lib/x86_64-linux-gnu/{name}"
