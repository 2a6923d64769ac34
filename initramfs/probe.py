"""Run by trace.py in a clean interpreter: imports what a node imports, and says which files that took.

Arguments: ``path:DIR`` (after the standard library's directories), ``stand-in:MODULE=FILE``, ``drop:MODULE``
(must seem absent), ``import:MODULE``, ``optional:MODULE`` (may be no module). It prints, for each module that
has a file, the name, the file and ``package`` or ``module``, parted by tabs. It imports nothing that a node
would not.
"""

import sys
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, spec_from_file_location
from types import ModuleType


class Arranged:
    """A finder that puts stand-ins in place and hides dropped modules."""

    def __init__(self, stand_ins: dict[str, str], dropped: list[str]) -> None:
        self.stand_ins = stand_ins
        self.dropped = dropped

    def find_spec(
        self, name: str, path: object = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """As the import system asks for it."""
        if name in self.dropped:
            raise ModuleNotFoundError(f"{name} is not in the image", name=name)
        return spec_from_file_location(name, self.stand_ins[name]) if name in self.stand_ins else None


def arguments(kind: str) -> list[str]:
    """The arguments of one kind."""
    return [argument.partition(":")[2] for argument in sys.argv[1:] if argument.startswith(f"{kind}:")]


def found(name: str) -> ModuleSpec | None:
    """The module's spec; None for what is no module, such as the last name of ``os.path.join``."""
    try:
        return find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None


def main() -> None:
    """Answers on standard output."""
    stand_ins = dict(pair.split("=", 1) for pair in arguments("stand-in"))
    sys.path.extend(arguments("path"))
    sys.meta_path.insert(0, Arranged(stand_ins, arguments("drop")))
    specs: dict[str, ModuleSpec] = {}
    required = arguments("import")
    for name in [*required, *arguments("optional")]:
        spec = found(name)
        if spec is None and name in required:
            raise ModuleNotFoundError(f"no module named {name}", name=name)
        if spec is None:
            continue
        # A frozen module is only asked for by name if its file is needed all the same.
        specs[name] = (PathFinder.find_spec(name) or spec) if spec.origin == "frozen" else spec
        if not name.endswith("__main__"):  # to import that would be to run it
            __import__(name)
    for name, module in sys.modules.items():
        if getattr(module, "__spec__", None) is not None and name != "__main__":
            specs.setdefault(name, module.__spec__)  # type: ignore[arg-type]
    for name, spec in sorted(specs.items()):
        # What has no file is built into the interpreter, or frozen.
        if spec.origin and spec.origin.startswith("/"):
            package = "package" if spec.submodule_search_locations is not None else "module"
            print(name, spec.origin, package, sep="\t")


if __name__ == "__main__":
    main()
