"""What a script needs: its interpreter, and the modules that it imports.

Python: names in a source's import statements, or among the strings of a compiled file (each imported module's
name is one, Python/marshal.c), that are modules beside it or in the library's directories. Nothing is
unmarshalled. Perl: ``use`` and ``require``. A module that was predicted is looked into when it has landed.
"""

from __future__ import annotations

from orioncache.options import size
from orioncache.prefetch.interface import Candidate, Heuristic, Tunable, count, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from orioncache.prefetch.interface import Access, View

LINE = 256
# As most systems set it for services.
PATH = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin")
# Of strings in compiled Python: short, ASCII and interned; with FLAG_REF and without.
MARKS = (b"\xda", b"Z")
STEP = 0.001


class Script(Heuristic):
    """Follows shebangs and imports."""

    name = "script"
    tunables = (
        Tunable("confidence", number(0, 1), 0.6, "", "in a module whose name stands in another one"),
        Tunable("shebang", number(0, 1), 0.95, "", "in the interpreter that a script names"),
        Tunable("scan", size, 128 << 10, "bytes", "how much of a file is looked at"),
        Tunable("modules", count(0, 1000), 64, "modules", "the most that one file can bring"),
    )
    confidence: float
    shebang: float
    scan: int
    modules: int

    def __init__(self, settings: dict[str, object]) -> None:
        super().__init__(settings)
        self._done: set[int] = set()
        # Modules that were predicted, by the block that they wait for: inode, and how likely it is.
        self._waiting: dict[int, tuple[int, float]] = {}
        # Python modules of a directory: name to what is read for it.
        self._listed: dict[str, dict[bytes, str]] = {}
        self._perl: list[str] | None = None

    def on_access(self, access: Access, view: View) -> Iterable[Candidate]:
        """What a file needs, when it is touched for the first time."""
        return self._look(access.inode, 1.0, view) if access.inode not in self._done else ()

    def on_landed(self, block: int, view: View) -> Iterable[Candidate]:
        """What a module needs that was predicted."""
        inode, likely = self._waiting.pop(block, (None, 0.0))
        return self._look(inode, likely, view) if inode is not None and inode not in self._done else ()

    def _look(self, inode: int, likely: float, view: View) -> Iterator[Candidate]:
        """What a file needs that is as likely as this to be needed itself."""
        data = view.content(inode, 0, min(self.scan, view.block_size))
        if data is None:
            return
        self._done.add(inode)
        interpreter = b""
        if data.startswith(b"#!"):
            interpreter = yield from self._shebang(data, view)
        elif data[:4] == b"\x7fELF":
            return
        path = view.path(inode) or ""
        if path.endswith(".pyc"):
            yield from self._python(path, _strings(data), likely, view)
        elif path.endswith(".py") or interpreter.startswith(b"python"):
            yield from self._python(path, _imports(data), likely, view)
        elif path.endswith((".pl", ".pm")) or interpreter.startswith(b"perl"):
            yield from self._perl_modules(data, likely, view)

    def _shebang(self, data: bytes, view: View) -> Generator[Candidate, None, bytes]:
        """The interpreter's first block; gives its name."""
        words = data[2:LINE].split(b"\n", 1)[0].split()
        if not words:
            return b""
        name = words[0].decode(errors="surrogateescape").lstrip("/")
        yield from self._whole(view.inode(name), self.shebang, 0.0, view, most=1)
        if name.endswith("/env"):
            names = [word for word in words[1:] if not word.startswith(b"-") and b"=" not in word]
            if not names:
                return b""
            words = names
            for directory in PATH:
                found = view.inode(f"{directory}/{words[0].decode(errors='surrogateescape')}")
                if found is not None:
                    yield from self._whole(found, self.shebang, 0.0, view, most=1)
                    break
        return words[0].rpartition(b"/")[2]

    def _python(self, path: str, names: Iterable[bytes], likely: float, view: View) -> Iterator[Candidate]:
        package = path.rpartition("/")[0].removesuffix("/__pycache__")
        roots = self._python_roots(path, view)
        found = 0
        for name in dict.fromkeys(names):
            if found >= self.modules:
                return
            for target in self._module(name, package, roots, view):
                inode = view.inode(target)
                if inode is not None and inode not in self._done:
                    found += 1
                    yield from self._whole(inode, likely * self.confidence, STEP * found, view)

    def _python_roots(self, path: str, view: View) -> list[str]:
        """The library's directories, as they follow from a file of it, or from what is installed."""
        parts = path.split("/")
        libraries = ("usr/lib", "usr/local/lib", "lib")
        for position, part in enumerate(parts):
            if part.startswith("python3.") and "/".join(parts[:position]) in libraries:
                root = "/".join(parts[: position + 1])
                break
        else:
            versions = sorted(name for name in view.names("usr/lib") if name.startswith("python3."))
            if not versions:
                return []
            root = f"usr/lib/{versions[-1]}"
        return [root, f"{root}/lib-dynload", "usr/lib/python3/dist-packages", f"{root}/site-packages"]

    def _module(self, name: bytes, package: str, roots: Sequence[str], view: View) -> Iterator[str]:
        """Files that importing a module reads."""
        for place in (package, *roots):
            directory = place
            for part in name.split(b"."):
                listed = self._list(directory, view)
                if part not in listed:
                    break
                yield listed[part]
                directory = f"{directory}/{part.decode()}"
            else:
                return

    def _list(self, directory: str, view: View) -> dict[bytes, str]:
        """The Python modules of a directory."""
        if directory not in self._listed:
            found: dict[bytes, str] = {}
            cached = view.names(f"{directory}/__pycache__")
            for file in cached:
                if file.endswith(".pyc") and ".opt-" not in file:
                    found[file.partition(".")[0].encode(errors="replace")] = f"{directory}/__pycache__/{file}"
            for file in view.names(directory):
                name, _, ending = file.partition(".")
                if ending == "py" or (ending.endswith("so") and ending):
                    found.setdefault(name.encode(errors="replace"), f"{directory}/{file}")
                elif not ending and name.isidentifier() and name != "__pycache__":
                    inner = f"{directory}/{name}/__init__.py"
                    if view.inode(inner) is not None:
                        compiled = [
                            each
                            for each in view.names(f"{directory}/{name}/__pycache__")
                            if each.startswith("__init__.") and each.endswith(".pyc") and ".opt-" not in each
                        ]
                        target = f"{directory}/{name}/__pycache__/{compiled[0]}" if compiled else inner
                        found[name.encode(errors="replace")] = target
            found.pop(b"__init__", None)
            self._listed[directory] = found
        return self._listed[directory]

    def _perl_modules(self, data: bytes, likely: float, view: View) -> Iterator[Candidate]:
        if self._perl is None:
            self._perl = _perl_roots(view)
        found = 0
        for line in data.splitlines():
            words = line.split(None, 2)
            if len(words) < 2 or words[0] not in (b"use", b"require") or found >= self.modules:
                continue
            name = words[1].rstrip(b";").decode(errors="replace")
            if not name[:1].isalpha() or not name.replace("::", "").replace("_", "").isalnum():
                continue
            for root in self._perl:
                inode = view.inode(f"{root}/{name.replace('::', '/')}.pm")
                if inode is not None:
                    found += 1
                    yield from self._whole(inode, likely * self.confidence, STEP * found, view)
                    break

    def _whole(
        self, inode: int | None, confidence: float, soon: float, view: View, most: int = 8
    ) -> Iterator[Candidate]:
        """A file's first blocks; it is looked into when the first of them has landed."""
        if inode is None:
            return
        for position, block in enumerate(view.blocks(inode)[:most]):
            if view.is_cached(block):
                continue
            if position == 0 and most > 1:
                self._waiting[block] = inode, confidence
            yield Candidate(block, confidence, soon)


def _imports(data: bytes) -> Iterator[bytes]:
    """Modules that Python source imports, as the beginnings of lines say."""
    for line in data.splitlines():
        words = line.replace(b",", b" ").split()
        if len(words) > 1 and words[0] == b"import":
            yield from (word for word in words[1:] if word.replace(b".", b"").replace(b"_", b"").isalnum())
        elif len(words) > 3 and words[0] == b"from" and words[2] == b"import":
            base = words[1].lstrip(b".")
            if base:
                yield base
            for word in words[3:]:
                if word.replace(b"_", b"").isalnum():
                    yield base + b"." + word if base else word


def _strings(data: bytes) -> Iterator[bytes]:
    """Short strings of compiled Python that could be modules' names."""
    for mark in MARKS:
        at = data.find(mark, 16)
        while 0 <= at < len(data) - 1:
            text = data[at + 2 : at + 2 + data[at + 1]]
            if text and text.isascii() and text.replace(b".", b"").replace(b"_", b"").isalnum():
                yield text
            at = data.find(mark, at + 1)


def _perl_roots(view: View) -> list[str]:
    """@INC, as Debian and others lay it out."""
    roots = ["etc/perl"]
    libraries = [f"usr/lib/{name}" for name in view.names("usr/lib") if name.endswith("-linux-gnu")]
    for base in libraries:
        roots += [f"{base}/perl-base"]
        roots += [
            f"{base}/{name}/{version}"
            for name in ("perl5", "perl")
            for version in view.names(f"{base}/{name}")
        ]
    for base in ("usr/share/perl5", "usr/share/perl"):
        roots += [base, *(f"{base}/{version}" for version in view.names(base) if version[:1].isdigit())]
    return roots
