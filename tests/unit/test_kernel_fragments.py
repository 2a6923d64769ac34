"""Fragments: what a line means, which fragments there are, and what is said about a wrong one."""

import io

import pytest

from orioncache.errors import UserError
from orioncache.kernel.fragments import BASE, known, load, merge, parse


def test_lines_become_assignments():
    fragment = parse(
        "f", '# Help: text\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C="x y"\nCONFIG_D=0x10\n# free text\n'
    )
    assert fragment.help == "text"
    assert [(each.symbol, each.value, each.where) for each in fragment.assignments] == [
        ("A", "y", "f:2"),
        ("B", "n", "f:3"),
        ("C", '"x y"', "f:4"),
        ("D", "0x10", "f:5"),
    ]
    assert parse("again", fragment.text).text == fragment.text


def test_paragraphs_say_what_is_needed():
    fragment = parse(
        "f", "# Help: x\n\nCONFIG_A=y\n\n# Good to have\n# because\nCONFIG_B=y\n\n# Why\nCONFIG_C=y\n"
    )
    assert {each.symbol: each.needed for each in fragment.assignments} == {"A": True, "B": False, "C": True}


@pytest.mark.parametrize(
    "line", ["CONFIG_A", "CONFIG_A=", "CONFIG_A=maybe", "A=y", "CONFIG_A = y", 'CONFIG_A="x']
)
def test_a_wrong_line_is_named(line):
    with pytest.raises(UserError, match=r"f:2: ") as error:
        parse("f", f"# Help: x\n{line}\n")
    assert "CONFIG_X=y" in error.value.mend


def test_later_fragments_win_and_need_stays():
    merged = merge(
        [parse("a", "CONFIG_A=y\nCONFIG_B=y\n"), parse("b", "# Good to have\nCONFIG_A=n\nCONFIG_B=y\n")]
    )
    assert merged["A"].value == "n"
    assert merged["A"].where == "b:2"
    assert merged["B"].needed


def test_extra_fragments_as_name_file_assignment_and_standard_input(tmp_path, monkeypatch):
    file = tmp_path / "mine.config"
    file.write_text("CONFIG_MINE=y\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("CONFIG_PIPED=y\n"))
    loaded = load(["bench", str(file), "CONFIG_GIVEN=7", "-", "bench"])
    assert [fragment.name for fragment in loaded[: len(BASE)]] == list(BASE)
    assert len(loaded) == len(BASE) + 4
    asked = merge(loaded)
    assert {asked[name].value for name in ("MINE", "PIPED")} == {"y"}
    assert asked["GIVEN"].value == "7"


@pytest.mark.parametrize(
    ("name", "message", "mend"),
    [
        ("hardwear", "no fragment 'hardwear'", "did you mean hardware"),
        ("/nowhere/x.config", "no fragment", "a file, - or CONFIG_X=y"),
        ("CONFIG_FUSE", "is no line", "CONFIG_X=y"),
    ],
)
def test_a_fragment_that_is_not_there(name, message, mend):
    with pytest.raises(UserError) as error:
        load([name])
    assert message in error.value.message
    assert mend in error.value.mend


def test_a_binary_is_no_fragment(tmp_path):
    file = tmp_path / "x"
    file.write_bytes(b"\xff\xfe\0")
    with pytest.raises(UserError, match="is no text"):
        load([str(file)])


def test_house_rules_of_our_fragments():
    ours = known()
    assert {"core", "nfs-root", "overlay", "fuse", "virt", "hardware", "bench"} <= {
        each.name for each in ours
    }
    for fragment in ours:
        assert fragment.help, f"{fragment.name} does not say what it is for"
        symbols = [each.symbol for each in fragment.assignments]
        assert len(symbols) == len(set(symbols)), f"{fragment.name} sets a symbol twice"
        assert "m" not in {each.value for each in fragment.assignments}
        assert any(each.needed for each in fragment.assignments)


def test_what_only_the_bench_needs_is_in_no_node():
    node = merge(load(["hardware"]))
    assert not {"NFSD", "NET_SCH_NETEM", "VETH", "KPROBES", "EXT4_FS", "FTRACE"} & set(node)
    assert node["MODULES"].value == "n"
