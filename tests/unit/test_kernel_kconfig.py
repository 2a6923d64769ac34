"""The reader of Kconfig files, on small trees written here."""

import pytest

from orioncache.kernel import kconfig
from orioncache.kernel.config import compare, read_config
from orioncache.kernel.fragments import merge, parse

TOP = """
mainmenu "Test"
config NET
        bool "Networking if you like"
        help
          Text with words as
            depends on NOTHING

          and a last line.
source "net/Kconfig"  # a comment
source "arch/$(SRCARCH)/Kconfig"
if NET && !64BIT
config OLD
        bool "Old"
endif
config HIDDEN
        bool
config PICKY
        bool "Picky" if EXPERT
config COMPILER
        bool "Compiler"
        depends on $(cc-option,-mfoo) && NET
choice
        prompt "One"
config ONE
        bool "One"
config TWO
        bool "Two"
endchoice
config COUNT
        int "Count"
        range 2 MOST if NET
config MOST
        int
"""
NET = """
menu "Devices"
        depends on NET || \\
                OTHER
config CARD
        tristate "Card"
        depends on PCI
        select HIDDEN if NET
config ONLY
        bool "Only"
        depends on CARD
config SPEED
        bool "Speed"
        depends on MOST > 100
endmenu
"""


@pytest.fixture
def tree(tmp_path):
    for path, text in (
        ("Kconfig", TOP),
        ("net/Kconfig", NET),
        ("arch/x86/Kconfig", "config 64BIT\n\tdef_bool y\n"),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        # As people write them: with tabs.
        (tmp_path / path).write_text(text.replace(" " * 8, "\t"))
    other = tmp_path / "arch/arm64/Kconfig"
    other.parent.mkdir()
    other.write_text("config ARM_ONLY\n\tbool\n")
    return tmp_path


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("A", True),
        ("B", False),
        ("M", True),
        ("!A", False),
        ("!B && A", True),
        ("B || A && B", False),
        ("(B || A) && A", True),
        ("NUMBER > 99", True),
        ("NUMBER <= 99", False),
        ("A = y", True),
        ("M != y", True),
        ('TEXT = "x"', True),
        ("$(cc-option,-f(oo)) && A", True),
        ("", True),
    ],
)
def test_conditions(condition, holds):
    values = {"A": "y", "M": "m", "NUMBER": "100", "TEXT": '"x"'}
    assert kconfig.evaluate(condition, values) == holds
    assert (kconfig.unmet(condition, values) == []) == holds


def test_unmet_parts_are_the_smallest():
    assert kconfig.unmet("A && (B || C) && !D", {"D": "y"}) == ["A", "(B || C)", "!D"]


def test_scopes_and_help_texts(tree):
    read = kconfig.read_tree(tree)
    assert set(read.definitions) >= {"NET", "CARD", "OLD", "64BIT", "ONE", "TWO"}
    assert read.definitions["NET"][0].depends == []
    assert read.definitions["CARD"][0].depends == ["NET || OTHER", "PCI"]
    assert read.definitions["OLD"][0].depends == ["NET && !64BIT"]
    assert read.definitions["NET"][0].prompt == ""
    assert read.definitions["HIDDEN"][0].prompt is None
    assert read.definitions["PICKY"][0].prompt == "EXPERT"
    assert read.selectors["HIDDEN"] == [("CARD", "NET")]
    assert read.definitions["ONE"][0].choice == read.definitions["TWO"][0].choice is not None
    assert read.definitions["COUNT"][0].choice is None


@pytest.mark.parametrize(
    ("asked", "got", "reason", "mend"),
    [
        ("CONFIG_CARD=y", "CONFIG_NET=y\n", "needs PCI", "CONFIG_PCI=y"),
        ("CONFIG_CARD=y", "CONFIG_PCI=y\n", "needs (NET || OTHER)", ""),
        ("CONFIG_ONLY=y", "CONFIG_NET=y\n", "needs CARD (off, because it needs PCI)", "CONFIG_CARD=y"),
        ("CONFIG_CADR=y", "", "no such symbol", "CONFIG_CARD"),
        ("CONFIG_ARM_ONLY=y", "", "only arch/arm64/Kconfig", ""),
        ("CONFIG_HIDDEN=y", "", "those that select it: CARD", ""),
        ("CONFIG_PICKY=y", "", "only with EXPERT", ""),
        ("CONFIG_OLD=y", "CONFIG_NET=y\nCONFIG_64BIT=y\n", "needs !64BIT", ""),
        ("CONFIG_TWO=y", "CONFIG_ONE=y\n", "CONFIG_ONE is on", "CONFIG_TWO is not set"),
        ("CONFIG_COUNT=999", "CONFIG_COUNT=64\nCONFIG_MOST=64\n", "range is 2 to 64", "within the range"),
        ("CONFIG_HIDDEN=n", "CONFIG_HIDDEN=y\nCONFIG_CARD=y\nCONFIG_NET=y\n", "selected by CONFIG_CARD", ""),
        ("CONFIG_64BIT=n", "CONFIG_64BIT=y\n", "on by default", ""),
    ],
)
def test_lost_symbols_are_explained(tree, asked, got, reason, mend):
    (lost,) = compare(tree, merge([parse("f", asked)]), read_config(got))
    assert reason in lost.reason
    assert mend in lost.mend
    assert "(f:1)" in str(lost)


def test_modules_become_built_in_and_numbers_keep_their_value(tree):
    asked = merge([parse("f", "CONFIG_CARD=m\nCONFIG_COUNT=0x10\n# CONFIG_NET is not set\n")])
    assert (
        compare(tree, asked, read_config("CONFIG_CARD=y\nCONFIG_COUNT=16\n# CONFIG_NET is not set\n")) == []
    )
