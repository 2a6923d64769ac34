"""Configuring: fragments laid over ``allnoconfig``, and what was asked for compared with what came out."""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from orioncache.errors import UserError
from orioncache.kernel import kconfig
from orioncache.kernel.fragments import Assignment, Fragment, merge
from orioncache.kernel.source import Source
from orioncache.process import require, run

_TOOLS = (
    ("gcc", "gcc"),
    ("ld", "binutils"),
    ("make", "make"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("bc", "bc"),
    ("zstd", "zstd"),
)


@dataclasses.dataclass(frozen=True)
class Lost:
    """A symbol that did not get the value that was asked for.

    Attributes:
        assignment: what was asked.
        got: the value in the ``.config``; ``n`` if it is not there.
        reason: why, with the unmet dependency's name.
        mend: what to change.
    """

    assignment: Assignment
    got: str
    reason: str
    mend: str

    def __str__(self) -> str:
        asked = f"CONFIG_{self.assignment.symbol}={self.assignment.value}"
        return f"{asked} ({self.assignment.where}) came out as {self.got}: {self.reason}"


def environment() -> dict[str, str]:
    """What kernel makefiles see: nothing that could change the result (MAKEFLAGS, CC, ARCH, a rustc)."""
    return {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": os.environ.get("HOME", "/"),
        "TMPDIR": os.environ.get("TMPDIR", "/tmp"),
        "LC_ALL": "C",
    }


def configure(
    source: Source, fragments: Sequence[Fragment], directory: Path, *, dry_run: bool = False
) -> dict[str, str]:
    """Writes ``directory/.config`` and returns its values by symbol.

    Args:
        source: an unpacked tree.
        fragments: in order; a later one wins.
        directory: where the kernel's build goes (``O=``).
        dry_run: print the commands only.

    Raises:
        UserError: a tool is missing, kconfig failed, or a symbol was lost.
    """
    for program, package in _TOOLS:
        require(program, package)
    pieces = directory / "fragments"
    files = [pieces / f"{number:02}-{_file_name(fragment.name)}" for number, fragment in enumerate(fragments)]
    if not dry_run:
        pieces.mkdir(parents=True, exist_ok=True)
        for fragment, file in zip(fragments, files, strict=True):
            file.write_text(fragment.text)
    script = source.directory / "scripts/kconfig/merge_config.sh"
    env = environment() | {"KCONFIG_CONFIG": str(directory / ".config")}
    mend = "see the lines above; is the tree whole, and is make setup done?"
    run(
        ["sh", script, "-n", "-Q", "-O", directory, *files],
        cwd=source.directory,
        env=env,
        dry_run=dry_run,
        mend=mend,
    )
    run(
        ["make", "-s", f"O={directory}", "olddefconfig"],
        cwd=source.directory,
        env=env,
        dry_run=dry_run,
        mend=mend,
    )
    if dry_run:
        return {}
    values = read_config((directory / ".config").read_text())
    require_kept(source, merge(fragments), values)
    return values


def read_config(text: str) -> dict[str, str]:
    """The values in a ``.config``, by symbol without ``CONFIG_``; symbols that are off are left out."""
    return dict(re.findall(r"^CONFIG_(\w+)=(.*)$", text, re.MULTILINE))


def require_kept(source: Source, asked: Mapping[str, Assignment], values: Mapping[str, str]) -> None:
    """Refuses a configuration that lost a symbol.

    Raises:
        UserError: one line for each lost symbol, with the unmet dependency.
    """
    lost = compare(source.directory, asked, values)
    if not lost:
        return
    mend = "; ".join(dict.fromkeys(each.mend for each in lost))
    if len(lost) == 1:
        raise UserError(str(lost[0]), mend)
    listed = "".join(f"\n  {each}" for each in lost)
    raise UserError(f"{len(lost)} symbols did not get the values asked for:{listed}", mend)


def compare(tree: Path, asked: Mapping[str, Assignment], values: Mapping[str, str]) -> list[Lost]:
    """What was asked for and did not come out so, with the reasons."""
    differing = [each for each in asked.values() if not _same(each.value, values.get(each.symbol, "n"))]
    if not differing:
        return []
    known = kconfig.read_tree(tree)
    return [_explain(known, tree, each, values) for each in differing]


def _same(asked: str, got: str) -> bool:
    # With modules off, kconfig turns every m into y; numbers may come out in another notation.
    if asked == got or (asked == "m" and got == "y"):
        return True
    try:
        return int(asked, 0) == int(got, 0)
    except ValueError:
        return asked == '""' and got == "n"


def _explain(known: kconfig.Tree, tree: Path, asked: Assignment, values: Mapping[str, str]) -> Lost:
    got = values.get(asked.symbol, "n")
    definitions = known.definitions.get(asked.symbol)
    if definitions is None:
        return Lost(asked, "nothing", *_unknown(known, tree, asked.symbol))
    if asked.value == "n":
        return Lost(asked, got, *_forced_on(known, asked, values))
    blocked = [_off_because(known, definition, values, {asked.symbol}) for definition in definitions]
    if all(blocked):
        # A symbol with several definitions is off because of each of them.
        reasons = dict.fromkeys(reason for reason, _ in filter(None, blocked))
        return Lost(asked, got, " or ".join(reasons), next(mend for _, mend in filter(None, blocked)))
    ranges = [definition.range for definition in definitions if definition.range]
    if ranges:
        low, _, high = (values.get(word, word) for word in ranges[0].partition(" "))
        return Lost(asked, got, f"its range is {low} to {high}", "give a value within the range")
    return Lost(asked, got, "its type does not take this value", "look up its type in the tree's Kconfig")


def _unknown(known: kconfig.Tree, tree: Path, symbol: str) -> tuple[str, str]:
    pattern = re.compile(rf"^\s*(?:menu)?config {re.escape(symbol)}\s*$", re.MULTILINE)
    for path in sorted((tree / "arch").rglob("Kconfig*")):
        if pattern.search(path.read_text(errors="replace")):
            return (
                f"only {path.relative_to(tree)} has it, for another processor",
                "take it out of the fragment",
            )
    close = known.close_to(symbol)
    mend = f"did you mean CONFIG_{' or CONFIG_'.join(close)}?" if close else "check its name"
    return "this kernel has no such symbol", mend


def _forced_on(known: kconfig.Tree, asked: Assignment, values: Mapping[str, str]) -> tuple[str, str]:
    selectors = [
        f"CONFIG_{name}"
        for name, condition in known.selectors.get(asked.symbol, [])
        if name in values and kconfig.evaluate(condition, values)
    ]
    if selectors:
        return f"selected by {', '.join(dict.fromkeys(selectors))}", "turn that off, or take the line out"
    return "it is on by default and nobody is asked", "take the line out of the fragment"


def _off_because(
    known: kconfig.Tree, definition: kconfig.Definition, values: Mapping[str, str], told: set[str]
) -> tuple[str, str] | None:
    """Why this definition of a symbol cannot be on, and the mend; None if nothing is in its way.

    ``told`` holds the symbols that were spoken of already.
    """
    parts = [part for condition in definition.depends for part in kconfig.unmet(condition, values)]
    if parts:
        parts = list(dict.fromkeys(parts))
        new = set(parts) - told
        told |= new
        shown = [_with_cause(known, part, values, told) if part in new else part for part in parts]
        reason = f"it needs {' and '.join(shown)}"
        plain = [f"CONFIG_{part}=y" for part in parts if re.fullmatch(r"\w+", part)]
        return reason, f"add {' and '.join(plain)} as well" if plain else "take one of the two out"
    if definition.prompt is None:
        selectors = sorted({name for name, _ in known.selectors.get(definition.symbol, [])})
        by = f": {', '.join(selectors[:4])}" if selectors else ""
        return f"it cannot be set by hand, only by those that select it{by}", "ask for one of these instead"
    if not kconfig.evaluate(definition.prompt, values):
        needs = " and ".join(kconfig.unmet(definition.prompt, values))
        return f"it can be set only with {needs}", "take it out of the fragment"
    for others in known.definitions.values() if definition.choice is not None else ():
        if others[0].choice == definition.choice and values.get(others[0].symbol) == "y":
            reason = f"CONFIG_{others[0].symbol} is on, and only one of them can be"
            return reason, f"add # CONFIG_{definition.symbol} is not set, or take the other one out"
    return None


def _with_cause(known: kconfig.Tree, part: str, values: Mapping[str, str], told: set[str]) -> str:
    """An unmet condition; for a symbol that is itself off because of others, these too."""
    causes = [
        _off_because(known, definition, values, set(told)) for definition in known.definitions.get(part, [])
    ]
    if part in values or not causes or not all(causes):
        return part
    cause = causes[0]
    assert cause is not None
    words = set(re.findall(r"\b[A-Z0-9_]*[A-Z][A-Z0-9_]*\b", cause[0]))
    return part if words <= told else f"{part} (off, because {cause[0]})"


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)[-60:]
