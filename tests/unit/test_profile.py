"""Profiles: learned from traces, merged, written, read with every check, and compared."""

import dataclasses
import json
from pathlib import Path

import msgspec
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orioncache.cli import main
from orioncache.errors import UserError
from orioncache.profile import format as files
from orioncache.profile.build import build, of_boot
from orioncache.profile.diff import Pages, diff, load
from orioncache.profile.merge import NEAR_MS, merge
from orioncache.trace.format import ERROR, write
from tests.boots import BLOCK, PAGE, boot, digest

HERE = Path("boot.trace")


def learn(*traces, **options):
    return build([(HERE, trace) for trace in traces], **options)


def spans(profile):
    """path, number, offset and length of each run, in order."""
    return [(run.path, run.number, run.offset, run.length) for run in profile.runs]


def test_pages_become_runs_of_a_block_in_order_of_time():
    profile = learn(
        boot(
            [
                (5, "lib", 2 * PAGE, PAGE),
                (1, "sh", BLOCK - PAGE, 2 * PAGE),  # over the end of a block
                (6, "lib", PAGE, PAGE),
                (6, "lib", 3 * PAGE, 10),  # a part of a page is the page
                (7, "sh", BLOCK - PAGE, PAGE),  # again
            ]
        )
    )
    assert spans(profile) == [
        ("sh", 0, BLOCK - PAGE, PAGE),
        ("sh", 1, 0, PAGE),
        ("lib", 0, PAGE, 3 * PAGE),
    ]
    assert [run.t_ms for run in profile.runs] == [1, 1, 5]
    assert [run.block for run in profile.runs] == [
        digest("sh 0").hex(), digest("sh 1").hex(), digest("lib 0").hex(),
    ]  # fmt: skip
    assert (profile.boots, profile.role, profile.release, profile.release_version) == (1, "default", "t", "1")
    assert profile.bytes == 5 * PAGE


def test_neighbours_that_are_touched_much_later_are_a_run_of_their_own():
    profile = learn(boot([(1, "a", 0, PAGE), (2 + NEAR_MS, "a", PAGE, PAGE)]))
    assert spans(profile) == [("a", 0, 0, PAGE), ("a", 0, PAGE, PAGE)]


def test_the_end_of_a_file_is_no_whole_page():
    profile = learn(boot([(1, "a", 0, BLOCK)], {"a": PAGE + 100}))
    assert spans(profile) == [("a", 0, 0, PAGE + 100)]


def test_holes_errors_and_nameless_files_are_left_out():
    reads = [(1, "a", 0, 2 * BLOCK), (2, "b", 0, PAGE, ERROR), (3, "", 0, PAGE)]
    profile = learn(boot(reads, blocks={("a", 0): None}))
    assert spans(profile) == [("a", 1, 0, BLOCK)]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"lost": 3}, "3 records found no room"),
        ({"degraded": True}, "degraded boot"),
        ({"files": {}}, "which files"),
        ({"digests": {}}, "nothing was read"),
    ],
)
def test_what_is_not_fit_to_learn_from(fields, said):
    with pytest.raises(UserError, match=said) as told:
        learn(boot([(1, "a", 0, PAGE)]), dataclasses.replace(boot([(1, "a", 0, PAGE)]), **fields))
    assert str(HERE) in told.value.message
    assert told.value.mend


def test_boots_add_up_and_times_are_medians():
    profile = learn(
        boot([(10, "a", 0, PAGE), (20, "rare", 0, PAGE)]),
        boot([(50, "a", 0, PAGE), (20, "often", 0, PAGE)]),
        boot([(20, "a", 0, PAGE), (60, "often", 0, PAGE)]),
    )
    assert profile.boots == 3
    assert {run.path: (run.t_ms, run.boots) for run in profile.runs} == {
        "a": (20, 3), "often": (20, 2), "rare": (20, 1),
    }  # fmt: skip
    assert [run.path for run in profile.habits()] == ["a", "often"]
    assert len(profile.habits(0.1)) == 3
    assert [run.path for run in profile.habits(1)] == ["a"]


def test_pages_with_other_frequencies_are_no_run():
    profile = learn(boot([(1, "a", 0, 2 * PAGE)]), boot([(1, "a", 0, PAGE)]))
    assert [(run.offset, run.boots) for run in profile.runs] == [(0, 2), (PAGE, 1)]


def test_to_merge_profiles_is_to_build_of_all():
    boots = [boot([(10 * n, "a", n * PAGE, 9 * PAGE), (40, "b", 0, n * PAGE)]) for n in (1, 2, 3, 4)]
    parts = [of_boot(HERE, trace) for trace in boots]
    assert merge([merge(parts[:1]), merge(parts[1:])]).boots == 4
    assert merge(parts) == learn(*boots)
    assert {(r.path, r.offset, r.boots) for r in merge([merge(parts[:2]), merge(parts[2:])]).runs} == {
        (r.path, r.offset, r.boots) for r in learn(*boots).runs
    }


def test_other_releases_are_refused_unless_they_are_carried():
    old = boot([(1, "a", 0, PAGE)], manifest_digest=bytes(16), version="0")
    new = boot([(1, "a", 0, PAGE), (2, "b", 0, PAGE)])
    with pytest.raises(UserError, match=r"t 0 .* is another release than t 1"):
        learn(old, new)
    profile = learn(old, new, carry=True)
    assert (profile.release_version, profile.boots) == ("1", 2)
    assert {run.path: run.boots for run in profile.runs} == {"a": 2, "b": 1}


def test_other_digests_or_blocks_are_refused_in_any_case():
    other = boot([(1, "a", 0, PAGE)], block_size=64 << 10)
    with pytest.raises(UserError, match="blocks of"):
        learn(other, boot([(1, "a", 0, PAGE)]), carry=True)


ODD = "usr/bin/with space/ä\udcff\n%41\x7f"


def a_profile():
    return learn(boot([(1.5, "a", 0, 3 * PAGE), (2, ODD, BLOCK, PAGE)]), boot([(3, "a", 0, PAGE)]))


def test_a_file_gives_back_what_was_written(tmp_path):
    path = tmp_path / "p"
    files.write(a_profile(), path)
    assert files.read(path) == a_profile()
    first = path.read_bytes()
    files.write(a_profile(), path)
    assert path.read_bytes() == first
    run = next(run for run in a_profile().runs if run.path != "a")
    assert files.unquoted(run.path) == ODD.encode(errors="surrogateescape")
    assert run.path.isprintable()


def test_people_can_read_it(tmp_path):
    files.write(a_profile(), tmp_path / "p")
    lines = zstandard.ZstdDecompressor().decompress((tmp_path / "p").read_bytes()).decode().splitlines()
    assert json.loads(lines[0])["format"] == "orion profile"
    assert json.loads(lines[1]) == {
        "t_ms": 1.5, "boots": 2, "path": "a", "number": 0, "block": digest("a 0").hex(), "offset": 0,
        "length": PAGE,
    }  # fmt: skip


def packed(text, **options):
    return zstandard.ZstdCompressor(**{"write_checksum": True, **options}).compress(text)


def lines(**changes):
    """The lines of a profile, with changes of its head; keys with a leading _ are of its first run."""
    profile = a_profile()
    head = {
        "format": "orion profile", "version": 1, "role": "default", "release": "t", "release_version": "1",
        "manifest": profile.manifest, "digest": "xxh3", "block_size": BLOCK, "boots": 2,
        "runs": len(profile.runs),
    }  # fmt: skip
    runs = [msgspec.to_builtins(run) for run in profile.runs]
    head |= {key: value for key, value in changes.items() if key[0] != "_"}
    runs[0] |= {key[1:]: value for key, value in changes.items() if key[0] == "_"}
    return "\n".join(json.dumps(each) for each in (head, *runs)).encode() + b"\n"


def test_the_test_writes_a_good_one(tmp_path):
    (tmp_path / "p").write_bytes(packed(lines()))
    assert files.read(tmp_path / "p") == a_profile()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no profile"),
        (b"anything else", "no profile"),
        (packed(lines())[:-5], "damaged"),
        (packed(lines()) + b"x", "damaged"),
        (packed(lines(), write_checksum=False), "whole"),
        (packed(lines(version=2)), "version 2"),
        (packed(b""), "broken"),
        (packed(b"[" * 100_000), "broken"),
        (packed(b'{"format":"orion profile","version":1,"x":' + b"[" * 100_000), "broken"),
        (packed(b"\n" * (files.RUNS_MAX + 5)), "more than"),
        (packed(lines() + b'{"more": 1}\n'), "broken"),
        (packed(lines().replace(b'"a"', b'"\xff"')), "broken"),
        (packed(lines(format="x")), "broken"),
        (packed(lines(role="../x")), "no role"),
        (packed(lines(digest="md5")), "broken"),
        (packed(lines(digest="sha256")), "does not fit together"),
        (packed(lines(block_size=5000)), "does not fit together"),
        (packed(lines(boots=1)), "is broken"),
        (packed(lines(boots=0)), "broken"),
        (packed(lines(runs=17)), "should have 17"),
        (packed(lines(_t_ms=-1)), "broken"),
        (packed(lines(_t_ms=99)), "is broken"),
        (packed(lines().replace(b"1.5", b"NaN")), "broken"),
        (packed(lines(_path="")), "broken"),
        (packed(lines(_path="\x1b[2J")), "broken"),
        (packed(lines(_path="\ud800")), "broken"),
        (packed(lines(_offset=1)), "broken"),
        (packed(lines(_offset=BLOCK)), "is broken"),
        (packed(lines(_length=0)), "broken"),
        (packed(lines(_length=BLOCK + 1)), "is broken"),
        (packed(lines(_length=3 * PAGE)), "stands twice"),
        (packed(lines(_block="00")), "broken"),
        (packed(lines(_block="00" * 32)), "is broken"),
        (packed(lines(_number=1 << 32)), "broken"),
        (packed(lines(_boots=3)), "is broken"),
        (packed(lines(_more=3)), "broken"),
    ],
)
def test_what_is_no_profile(tmp_path, content, said):
    path = tmp_path / "p"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said) as told:
        files.read(path)
    assert told.value.mend
    assert "\n" not in told.value.message


def test_a_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "p"
    path.write_bytes(packed(bytes(files.RAW_MAX + 1)))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(UserError, match="too large"):
        files.read(path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_change_is_an_error_of_the_users_or_none(tmp_path, data):
    path = tmp_path / "p"
    good = packed(lines())
    changed = bytearray(good[: data.draw(st.integers(0, len(good)))] if data.draw(st.booleans()) else good)
    if changed:
        changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(changed)
    try:
        assert files.read(path) == a_profile()
    except UserError:
        assert bytes(changed) != good


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_hostile_lines_with_a_right_checksum(tmp_path, data):
    path = tmp_path / "p"
    text = bytearray(lines())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 3))] = data.draw(
            st.one_of(
                st.binary(max_size=4), st.sampled_from([b"-1", b"9" * 30, b"1e999", b"null", b"\\ud800"])
            )
        )
    path.write_bytes(packed(bytes(text)))
    try:
        files.read(path)
    except UserError as error:
        assert "\n" not in error.message


def pages_of(trace):
    found = Pages("trace", HERE, trace.manifest_digest.hex())
    found.add(of_boot(HERE, trace).runs)
    return found


def test_recall_and_waste_are_bytes():
    one = pages_of(boot([(1, "a", 0, 3 * PAGE), (1, "b", 0, PAGE + 100)], {"b": PAGE + 100}))
    other = pages_of(boot([(1, "a", PAGE, 4 * PAGE), (1, "b", PAGE, PAGE)], {"b": PAGE + 100}))
    found = diff(one, other)
    assert (found.had, found.wanted, found.hit) == (4 * PAGE + 100, 4 * PAGE + 100, 2 * PAGE + 100)
    assert found.missed == [("a", 2 * PAGE)]
    assert found.wasted == [("a", PAGE), ("b", PAGE)]
    assert found.recall == found.precision == pytest.approx((2 * PAGE + 100) / (4 * PAGE + 100))
    assert found.recall + found.waste == pytest.approx(1)
    assert diff(one, one).recall == diff(one, one).precision == 1


def test_equal_blocks_count_once_for_each_file():
    same = {("a", 0): digest("x"), ("b", 0): digest("x")}
    both = pages_of(boot([(1, "a", 0, PAGE), (1, "b", 0, PAGE)], blocks=same))
    alone = pages_of(boot([(1, "b", 0, PAGE)], blocks=same))
    assert diff(alone, both).recall == 0.5
    assert diff(both, alone).waste == 0.5


@pytest.fixture
def traces(tmp_path):
    write(boot([(1, "a", 0, 10 * PAGE), (2, "b", 0, 2 * PAGE), (900, "c", 0, PAGE)]), tmp_path / "1.trace")
    write(boot([(3, "a", 0, 10 * PAGE), (4, "b", 0, 1 * PAGE)]), tmp_path / "2.trace")
    return [str(tmp_path / "1.trace"), str(tmp_path / "2.trace")]


def test_the_command_line_builds_shows_and_compares(tmp_path, traces, capsys):
    path = str(tmp_path / "p")
    assert main(["profile", "build", *traces, "-o", path, "--role", "kiosk"]) == 0
    assert "role kiosk, t 1, 2 boots" in capsys.readouterr().out
    assert main(["profile", "show", path]) == 0
    shown = capsys.readouterr().out
    assert "2: 45.1 kB, 1: 8.2 kB" in shown
    assert len([line for line in shown.splitlines() if "▇" in line]) == 2
    assert main(["profile", "show", path, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["role"], facts["boots"], facts["bytes"], len(facts["runs"])) == ("kiosk", 2, 13 * PAGE, 4)
    assert main(["profile", "diff", path, traces[1]]) == 0
    assert "recall  100.00%" in capsys.readouterr().out
    limits = ["--min-recall", "97", "--max-waste", "10"]
    assert main(["profile", "diff", path, traces[1], *limits, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["recall"], found["waste"]) == (1, pytest.approx(2 / 13, abs=1e-5))
    assert found["failed"] == ["the waste is above 10%"]
    assert main(["profile", "diff", path, traces[1], *limits, "--share", "100"]) == 0
    capsys.readouterr()


def test_the_command_line_merges(tmp_path, traces, capsys):
    for number, trace in enumerate(traces):
        assert main(["profile", "build", trace, "-o", str(tmp_path / f"{number}")]) == 0
    capsys.readouterr()
    parts = [str(tmp_path / "0"), str(tmp_path / "1")]
    assert main(["profile", "merge", *parts, "-o", str(tmp_path / "m"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["boots"] == 2
    assert main(["profile", "build", *traces, "-o", str(tmp_path / "b")]) == 0
    assert (tmp_path / "m").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_trace_with_readahead_is_taken_with_a_warning(tmp_path, capsys):
    write(boot([(1, "a", 0, PAGE)], first_touches=False), tmp_path / "t")
    assert main(["profile", "build", str(tmp_path / "t"), "-o", str(tmp_path / "p")]) == 0
    assert "read ahead as well" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["build", "{bad}", "-o", "{to}"], "no trace"),
        (["build", "{trace}", "-o", "{to}/x/y"], "cannot be written"),
        (["build", "{trace}", "-o", "{to}", "--role", "A/b"], "no role"),
        (["show", "{trace}"], "no profile"),
        (["diff", "{bad}", "{trace}"], "no profile, trace or bundle"),
        (["merge", "{bad}", "-o", "{to}"], "no profile"),
        (["show", "{to}"], "No such file"),
    ],
)
def test_mistakes_get_a_line_and_a_mend(tmp_path, traces, words, said, capsys):
    (tmp_path / "bad").write_bytes(b"something else")
    places = {"bad": tmp_path / "bad", "trace": traces[0], "to": tmp_path / "to"}
    assert main(["profile", *(word.format(**places) for word in words)]) == 1
    told = capsys.readouterr().err
    assert said in told
    assert "mend:" in told
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("name", ["build", "show", "diff", "merge"])
def test_every_subcommand_has_help_with_examples(name, capsys):
    with pytest.raises(SystemExit):
        main(["profile", name, "--help"])
    said = capsys.readouterr().out
    assert f"orioncache profile {name}" in said
    assert "Examples:" in said


def test_diff_takes_a_trace_for_either_side(tmp_path, traces):
    one, other = (load(Path(path)) for path in traces)
    assert diff(one, other).recall == 1
    assert dataclasses.replace(one).bytes == 13 * PAGE
