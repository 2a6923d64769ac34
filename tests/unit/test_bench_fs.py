"""What `bench fs` makes of its samples, its table, its trees and its arguments."""

import argparse
import io
import json

import pytest
from rich.console import Console

from orioncache.bench import cli as bench
from orioncache.bench.fs import cells, figures, report, tree
from orioncache.bench.fs.figures import Document, Figure, Sample, Spread
from orioncache.bench.fs.scene import Sizes
from orioncache.errors import UserError


def sample(subject, turn, ns, *, cell="c", operations=10, size=0):
    return Sample(cell, subject, turn, operations, size, ns)


def test_a_ratio_is_that_of_the_medians_and_an_outlier_does_not_move_it():
    samples = [sample("a", turn, 1200) for turn in range(5)] + [sample("b", turn, 1000) for turn in range(5)]
    samples[2] = sample("a", 2, 900_000)
    found = figures.ratio(samples, "c", "a", "b")
    assert found.value == pytest.approx(1.2)
    assert found.low == pytest.approx(1.2)


def test_a_ratio_takes_only_turns_and_cells_that_both_have():
    samples = [sample("a", 0, 300), sample("a", 1, 999), sample("b", 0, 100), sample("b", 0, 5, cell="d")]
    assert figures.ratio(samples, "c", "a", "b").value == pytest.approx(3.0)


def test_the_quartiles_are_those_of_the_turns_ratios():
    samples = [sample("a", turn, ns) for turn, ns in enumerate((100, 200, 300, 400, 500))]
    samples += [sample("b", turn, 100) for turn in range(5)]
    assert figures.ratio(samples, "c", "a", "b") == Spread(3.0, 2.0, 4.0)


def test_nothing_measured_is_told():
    with pytest.raises(UserError, match="nothing was measured"):
        figures.ratio([], "c", "a", "b")


def test_a_time_is_that_of_one_operation():
    assert figures.microseconds([sample("a", 0, 20_000)], "c", "a") == pytest.approx(2.0)


def test_a_rate_is_in_gigabytes_a_second():
    assert figures.rate([sample("a", 0, 500, size=1000)], "c", "a").value == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("value", "bar", "better", "met"),
    [
        (1.15, 1.15, "less", True),
        (1.16, 1.15, "less", False),
        (4.0, 4.0, "more", True),
        (3.9, 4.0, "more", False),
        (7.0, None, "less", None),
        (None, 1.0, "more", False),
        (0, 0, "less", True),
    ],
)
def test_a_bar_is_met_or_missed(value, bar, better, met):
    assert Figure("c", "what", value, "×", bar, better).met is met


def shown(*rows):
    out = io.StringIO()
    report.table(rows, Console(file=out, width=200))
    return out.getvalue()


def test_the_table_has_bar_figure_spread_and_verdict():
    text = shown(Figure("c", "a thing", 1.234, "×", 1.15, "less", 1.1, 1.3, "12 against 10 µs"))
    (line,) = [line for line in text.splitlines() if "a thing" in line]
    assert " ".join(line.split()) == "a thing ≤ 1.15 × 1.23 × 1.10 – 1.30 missed 12 against 10 µs"
    assert "0 of 1 bars met" in text


def test_what_could_not_be_measured_is_in_the_table_with_its_reason():
    text = shown(Figure("c", "a thing", None, "", 0.0, error="it [broke]"), Figure("d", "other", 0, "", 0))
    assert "c: it [broke]" in text
    assert "1 of 2 bars met" in text


def test_measurements_come_in_their_own_order():
    assert cells.choose([]) == list(cells.CELLS)
    assert cells.choose(["cold", "lookup"]) == ["lookup", "cold"]
    with pytest.raises(UserError, match="there is no measurement 'boot'"):
        cells.choose(["boot"])


def test_a_measurement_that_fails_misses_its_bar_and_stops_nothing(monkeypatch):
    def fail(_):
        raise UserError("no such thing", "mend it")

    monkeypatch.setitem(cells.CELLS, "warm", cells.Cell(fail, "help"))
    monkeypatch.setitem(cells.CELLS, "sparse", cells.Cell(fail, "help", bar=False))
    (judged,) = cells.measure(None, "warm")
    (free,) = cells.measure(None, "sparse")
    assert (judged.met, judged.error) == (False, "no such thing")
    assert free.met is None


def test_the_document_can_be_read_by_others(tmp_path):
    document = Document(figures.SCHEMA, {"commit": "abc"}, [Figure("c", "w", 1.0, "×")], [sample("a", 0, 1)])
    figures.write(document, tmp_path / "out.json")
    read = json.loads((tmp_path / "out.json").read_text())
    assert read["schema"] == "orioncache.bench.fs/1"
    assert read["environment"] == {"commit": "abc"}
    assert read["figures"][0]["value"] == 1.0
    assert read["samples"][0]["subject"] == "a"


def grown(path):
    path.mkdir()
    program = path.parent / "program"
    program.write_bytes(b"\x7fELF")
    return tree.grow(path, program, files=200, page_files=2, big_bytes=1 << 20)


def contents(path):
    return {
        str(each.relative_to(path)): each.readlink() if each.is_symlink() else each.read_bytes()
        for each in path.rglob("*")
        if each.is_symlink() or each.is_file()
    }


def test_a_tree_is_always_the_same_and_says_what_is_in_it(tmp_path):
    one, other = grown(tmp_path / "one"), grown(tmp_path / "other")
    found = contents(one.path)
    assert found == contents(other.path)
    assert len(one.files) == len(set(one.files)) == 200
    assert set(found) == {*one.files, *one.symlinks, *one.pages, *one.big, one.program}
    assert all((one.path / link).is_file() for link in one.symlinks)
    assert one.size == sum(len(data) for data in found.values() if isinstance(data, bytes))
    assert max(name.count("/") for name in one.files) > 3


def test_many_files_are_planted(tmp_path):
    tree.plant(tmp_path / "full", 1001, b"x")
    assert len(contents(tmp_path / "full")) == len(set(contents(tmp_path / "full").values())) == 1001
    tree.plant(tmp_path / "empty", 3, b"")
    assert set(contents(tmp_path / "empty").values()) == {b""}


def test_room_is_asked_for_only_what_is_measured():
    sizes = Sizes(files=10, rounds=1, big_bytes=1 << 20, build_files=10, rebuild_files=1000, inodes=1_000_000)
    assert sizes.memory(["million"]) > 1e9 > sizes.memory(["lookup"]) > 8 << 20


def parsed(*words):
    parser = argparse.ArgumentParser()
    bench.configure(parser)
    return parser.parse_args(words)


def test_fs_is_a_command_beside_the_benchs_own_options():
    assert parsed("--rtt", "1").run is bench.run
    args = parsed("fs", "--only", "cold", "--big", "4M", "--bars")
    assert args.run is not bench.run
    assert (args.only, args.big, args.bars) == ("cold", 4 << 20, True)


@pytest.mark.parametrize("words", [("--files", "0"), ("--big", "12"), ("--big", "x"), ("--inodes", "1e6")])
def test_wrong_sizes_are_refused(words, capsys):
    with pytest.raises(SystemExit):
        parsed("fs", *words)
    assert words[0] in capsys.readouterr().err
