"""Choosing heuristics: one grammar, one declaration for each tunable, ours and users' own by name."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from orioncache.errors import UserError
from orioncache.prefetch import registry, settings
from orioncache.prefetch.heuristics.sequential import Sequential
from orioncache.prefetch.interface import Heuristic, count, number
from orioncache.prefetch.settings import Choice
from tests.unit.prefetch_views import TreeView

SAME = [Choice("elf", {}), Choice("sequential", {"window": "2M", "trigger": "3"})]


def test_text_and_toml_say_the_same():
    assert settings.parse("elf, sequential:window=2M:trigger=3") == SAME
    assert settings.from_toml("elf,sequential:window=2M:trigger=3") == SAME
    text = '[heuristics.elf]\n[heuristics.sequential]\nwindow = "2M"\ntrigger = 3\n'
    assert settings.from_toml(tomllib.loads(text)["heuristics"]) == SAME
    assert ",".join(map(str, SAME)) == "elf,sequential:window=2M:trigger=3"
    assert settings.parse("") == settings.parse("none") == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("elf,elf", "named twice"),
        ("elf:window", "TUNABLE=VALUE"),
        ("elf:=3", "TUNABLE=VALUE"),
        ("el/f", "no heuristic's name"),
        ("elf,", "no heuristic's name"),
        (",".join(f"h{number}" for number in range(40)), "more than 32"),
    ],
)
def test_what_is_wrong_is_said(text, problem):
    with pytest.raises(ValueError, match=problem):
        settings.parse(text)


@pytest.mark.parametrize("value", [7, ["elf"], {"elf": 3}])
def test_toml_of_another_kind_is_refused(value):
    with pytest.raises(ValueError, match="table"):
        settings.from_toml(value)


def test_values_are_parsed_and_the_others_have_their_defaults():
    found = settings.create(Sequential, {"window": "4M"})
    assert isinstance(found, Sequential)
    assert found.window == 4 << 20
    assert found.initial == 256 << 10


@pytest.mark.parametrize(
    ("name", "value"), [("width", "2M"), ("window", "much"), ("trigger", "1.5"), ("trigger", "0")]
)
def test_a_wrong_tunable_has_one_line_and_a_mend(name, value):
    with pytest.raises(UserError) as caught:
        settings.create(Sequential, {name: value})
    assert "sequential" in caught.value.message and caught.value.mend
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("name", registry.OURS)
def test_ours_are_what_the_entry_points_say(name):
    kind = registry.load(name)
    assert issubclass(kind, Heuristic) and kind.name == name and kind.__doc__
    with open("pyproject.toml", "rb") as file:
        points = tomllib.load(file)["project"]["entry-points"][registry.GROUP]
    assert points == registry.OURS
    for tunable in kind.tunables:
        assert tunable.name.isidentifier() and tunable.help
        assert type(tunable.parse(str(tunable.default))) is type(tunable.default)


def test_an_unknown_one_is_named_with_those_that_are_known():
    with pytest.raises(UserError, match="no heuristic 'psychic'") as caught:
        registry.load("psychic")
    assert "sequential" in caught.value.mend


def test_users_own_come_from_entry_points(tmp_path):
    """A package of a user's, installed beside ours."""
    (tmp_path / "mine.py").write_text(
        "from orioncache.prefetch.interface import Candidate, Heuristic\n"
        "class Mine(Heuristic):\n"
        "    name = 'mine'\n"
        "    def on_access(self, access, view):\n"
        "        return [Candidate(1, 1.0, 0.0)]\n"
        "other = 3\n"
    )
    info = tmp_path / "mine-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[orioncache.heuristics]\nmine = mine:Mine\nbroken = mine:Missing\nother = mine:other\n"
    )
    program = (
        "from orioncache.prefetch import registry\n"
        "from orioncache.errors import UserError\n"
        "assert registry.load('mine').name == 'mine'\n"
        "assert registry.names()[-3:] == ['broken', 'mine', 'other'], registry.names()\n"
        "for name in ('broken', 'other'):\n"
        "    try:\n"
        "        registry.load(name)\n"
        "    except UserError as error:\n"
        "        assert name in error.message and error.mend\n"
        "    else:\n"
        "        raise AssertionError(name)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": str(tmp_path)})


def test_a_node_imports_them_cheaply():
    program = (
        "import sys\n"
        "from orioncache.prefetch import prefetcher, registry\n"
        "for name in registry.OURS: registry.load(name)\n"
        "slow = {'dataclasses', 're', 'typing', 'pathlib', 'enum', 'ctypes', 'json', 'logging'}\n"
        "print(sorted(slow & set(sys.modules)))\n"
    )
    # -S: site imports some of them by itself.
    found = subprocess.run(
        [sys.executable, "-S", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": "."},
    )
    assert found.stdout.strip() == "[]"


def test_parsers_of_numbers():
    assert number(0, 1)("0.5") == 0.5
    assert count(1, 9)("7") == 7
    for parse, text in (
        (number(0, 1), "2"),
        (number(0, 1), "nan"),
        (number(0, 1), "x"),
        (count(1, 9), "1.5"),
    ):
        with pytest.raises(ValueError, match=text):
            parse(text)


def test_the_worked_example_of_the_documentation_works():
    """docs/prefetch.md's package: its class, its tunable, its candidates."""
    text = Path("docs/prefetch.md").read_text()
    source = text.split("```python\n", 1)[1].split("```", 1)[0]
    project = tomllib.loads("[project]" + text.split("```toml\n[project]", 1)[1].split("```", 1)[0])
    module, _, name = project["project"]["entry-points"][registry.GROUP]["pairs"].partition(":")
    assert module == "orion_pairs"
    scope: dict[str, object] = {}
    exec(compile(source, "docs/prefetch.md", "exec"), scope)
    kind = scope[name]
    assert isinstance(kind, type) and issubclass(kind, Heuristic)

    view = TreeView({"lib/cups.service": b"[Unit]\n", "etc/default/cups": b"A=1\n", "etc/cupsd": b"x"})
    found = settings.create(kind, {"confidence": "0.9"})
    given = list(found.on_access(view.access("lib/cups.service"), view))
    assert view.paths(given) == ["etc/default/cups"]
    assert [each.confidence for each in given] == [0.9]
    assert list(found.on_access(view.access("lib/cups.service"), view)) == []
