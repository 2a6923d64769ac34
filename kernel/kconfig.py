"""A reader of Kconfig files: enough to say why a symbol did not get the value that was asked for.

The tree's own ``conf`` decides; this only explains. It covers what the kernel's
``Documentation/kbuild/kconfig-language.rst`` lists, but for macros: a condition that calls the compiler
(``$(cc-option,…)``) counts as met.
"""

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

ARCH = "x86"

_TOKEN = re.compile(r'\s*(&&|\|\||!=|<=|>=|[!()=<>]|\$\((?:[^()]|\([^()]*\))*\)|"[^"]*"|\'[^\']*\'|[\w./-]+)')
_TYPES = ("bool", "tristate", "int", "hex", "string", "def_bool", "def_tristate")
_OPENING = ("config", "menuconfig", "menu", "choice", "if")
_STATEMENTS = (*_OPENING, "endmenu", "endchoice", "endif", "source", "comment", "mainmenu")
_LEVEL = {"n": 0, "m": 1, "y": 2}


@dataclasses.dataclass
class Definition:
    """One ``config`` entry; a symbol may have several.

    Attributes:
        symbol: without ``CONFIG_``.
        depends: conditions that all must hold: its own, and those of the menus, choices and ifs around it.
        prompt: the condition under which people can set it (empty: always); None if they never can.
        range: the text of its ``range``; empty if it has none.
        choice: which choice it is a member of; None for none.
    """

    symbol: str
    depends: list[str]
    prompt: str | None = None
    range: str = ""
    choice: int | None = None


@dataclasses.dataclass
class Tree:
    """All definitions that hold for our architecture.

    Attributes:
        definitions: by symbol.
        selectors: who selects a symbol, and under which condition (empty: always).
        choices: how many choices there are.
    """

    definitions: dict[str, list[Definition]] = dataclasses.field(default_factory=dict)
    selectors: dict[str, list[tuple[str, str]]] = dataclasses.field(default_factory=dict)
    choices: int = 0

    def close_to(self, symbol: str) -> list[str]:
        """Names of symbols that someone who wrote ``symbol`` may have meant, the likeliest first."""
        return difflib.get_close_matches(symbol, self.definitions, n=3, cutoff=0.75)


def read_tree(source: Path) -> Tree:
    """Reads all Kconfig files of a kernel tree (about a second)."""
    tree = Tree()
    _Reader(source, tree, [], None).read("Kconfig")
    return tree


def evaluate(condition: str, values: Mapping[str, str]) -> bool:
    """Whether a condition holds, be it as module or built in, with the values of a ``.config``."""
    return _Expression(condition).parse().level(values) > 0


def unmet(condition: str, values: Mapping[str, str]) -> list[str]:
    """The smallest parts of a condition that would have to change; empty if it holds."""
    return _Expression(condition).parse().unmet(values)


class _Reader:
    """Reads one file, and those that it sources.

    ``scopes`` holds, for each menu, choice and if that is open, the conditions and the choice that hold
    inside; ``entry`` is what properties belong to, and ``in_head`` says that they belong to the scope.
    """

    def __init__(self, source: Path, tree: Tree, around: list[str], choice: int | None) -> None:
        self.source = source
        self.tree = tree
        self.scopes: list[tuple[list[str], int | None]] = [(list(around), choice)]
        self.entry: Definition | None = None
        self.in_head = False

    def read(self, name: str) -> None:
        """Takes in one file; one that is not there is passed over (conf itself would have complained)."""
        path = self.source / name
        if not path.is_file():
            return
        for line in _lines(path.read_text(errors="replace")):
            word, _, rest = line.partition(" ")
            if word in _STATEMENTS:
                self.entry, self.in_head = None, False
                self.statement(word, rest.strip())
            elif word == "depends":
                conditions = self.entry.depends if self.entry else self.scopes[-1][0] if self.in_head else []
                conditions.append(rest.strip().removeprefix("on").strip())
            elif self.entry is not None:
                self.property(self.entry, word, rest.strip())

    def statement(self, word: str, rest: str) -> None:
        conditions, choice = self.scopes[-1]
        if word in ("config", "menuconfig"):
            self.entry = Definition(rest, list(conditions), choice=choice)
            self.tree.definitions.setdefault(rest, []).append(self.entry)
        elif word == "source":
            name = rest.strip('"').replace("$(SRCARCH)", ARCH).removeprefix("$(srctree)/")
            _Reader(self.source, self.tree, conditions, choice).read(name)
        elif word == "if":
            self.scopes.append(([*conditions, rest], choice))
        elif word in ("menu", "choice"):
            self.tree.choices += word == "choice"
            self.scopes.append((list(conditions), self.tree.choices if word == "choice" else choice))
            self.in_head = True
        elif word.startswith("end") and len(self.scopes) > 1:
            self.scopes.pop()

    def property(self, entry: Definition, word: str, rest: str) -> None:
        if word in _TYPES or word == "prompt":
            text, condition = _split_if(rest)
            if text and not word.startswith("def_"):
                entry.prompt = condition
        elif word == "select":
            symbol, condition = _split_if(rest)
            self.tree.selectors.setdefault(symbol, []).append((entry.symbol, condition))
        elif word == "range":
            entry.range = _split_if(rest)[0]


def _lines(text: str) -> Iterator[str]:
    """Logical lines without comments, help texts and indentation."""
    help_indent: int | None = None
    in_help = False
    for raw in text.replace("\\\n", " ").splitlines():
        expanded = raw.expandtabs(8)
        stripped = expanded.strip()
        if in_help:
            if not stripped:
                continue
            indent = len(expanded) - len(expanded.lstrip())
            if help_indent is None and indent:
                help_indent = indent
            if help_indent is not None and indent >= help_indent:
                continue
            in_help, help_indent = False, None
        if stripped in ("help", "---help---"):
            in_help = True
            continue
        # A number sign starts a comment, unless it stands inside a prompt's text.
        code = re.sub(r'^((?:[^"#]|"[^"]*")*)#.*', r"\1", stripped).strip()
        if code:
            yield re.sub(r"\s+", " ", code)


def _split_if(text: str) -> tuple[str, str]:
    """`"Prompt" if COND` in its two parts; an "if" within the prompt's text does not count."""
    quoted = re.match(r'"[^"]*"|\'[^\']*\'', text)
    start = quoted.end() if quoted else 0
    before, _, after = text[start:].partition(" if ")
    return (text[:start] + before).strip(), after.strip()


class _Node:
    """One node of a condition: an operator with operands, or a comparison, symbol or text as it stands."""

    def __init__(self, operator: str, operands: Sequence["_Node"] = (), text: str = "") -> None:
        self.operator = operator
        self.operands = operands
        self.text = text

    def level(self, values: Mapping[str, str]) -> int:
        """0, 1 or 2 for n, m and y."""
        if self.operator == "&&":
            return min(node.level(values) for node in self.operands)
        if self.operator == "||":
            return max(node.level(values) for node in self.operands)
        if self.operator == "!":
            return 2 - self.operands[0].level(values)
        if self.operator:
            return 2 * self.compare(values)
        if self.text.startswith("$("):
            return 2
        return _LEVEL.get(_value(self.text, values), 0)

    def compare(self, values: Mapping[str, str]) -> bool:
        left, right = (_value(node.text, values) for node in self.operands)
        if self.text_only(left, right):
            return True
        if self.operator in ("=", "!="):
            return (left == right) == (self.operator == "=")
        try:
            a, b = int(left, 0), int(right, 0)
        except ValueError:
            return False
        return {"<": a < b, ">": a > b, "<=": a <= b, ">=": a >= b}[self.operator]

    @staticmethod
    def text_only(*sides: str) -> bool:
        """A macro is on one side: what it gives is not known here."""
        return any(side.startswith("$(") for side in sides)

    def unmet(self, values: Mapping[str, str]) -> list[str]:
        if self.level(values):
            return []
        if self.operator == "&&":
            return [part for node in self.operands for part in node.unmet(values)]
        return [self.show()]

    def show(self) -> str:
        """The condition as people write it."""
        if self.operator == "!":
            return f"!{self.operands[0].show()}"
        if self.operator:
            return f"({f' {self.operator} '.join(node.show() for node in self.operands)})"
        return self.text


class _Expression:
    """Parser for a condition: ``||`` binds loosest, then ``&&``, then comparisons, then ``!``."""

    def __init__(self, text: str) -> None:
        self.tokens = [found[1] for found in _TOKEN.finditer(text)]
        self.at = 0

    def parse(self) -> _Node:
        return self.chain("||", lambda: self.chain("&&", self.unary)) if self.tokens else _Node("", text="y")

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def chain(self, operator: str, operand: Callable[[], _Node]) -> _Node:
        operands = [operand()]
        while self.peek() == operator:
            self.take()
            operands.append(operand())
        return operands[0] if len(operands) == 1 else _Node(operator, operands)

    def unary(self) -> _Node:
        token = self.take()
        if token == "!":
            return _Node("!", [self.unary()])
        if token == "(":
            inside = self.parse_inside()
            self.take()
            return inside
        left = _Node("", text=token)
        if self.peek() in ("=", "!=", "<", ">", "<=", ">="):
            return _Node(self.take(), [left, _Node("", text=self.take())])
        return left

    def parse_inside(self) -> _Node:
        return self.chain("||", lambda: self.chain("&&", self.unary))


def _value(text: str, values: Mapping[str, str]) -> str:
    if text.startswith("$("):
        return text
    if text[:1] in "\"'":
        return text[1:-1]
    if text in ("y", "m", "n") or re.fullmatch(r"-?[0-9]+|0x[0-9a-fA-F]+", text):
        return text
    return values.get(text, "n").strip('"')
