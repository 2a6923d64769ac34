"""The commands ``simulate`` and ``prefetch``, on trace files."""

import dataclasses
import json

import pytest

from orioncache.cli import main
from orioncache.simulate.validate import Comparison, lines
from orioncache.trace import format
from orioncache.trace.format import Record, Trace, TracedFile
from tests.release_writer import directory, file, write_manifest, write_release

BLOCK = 4096


@pytest.fixture
def release(tmp_path):
    """Sixteen files of four blocks each."""
    contents = [bytes([number]) * (4 * BLOCK) + bytes([number]) for number in range(1, 17)]
    root = directory({b"f%02d" % number: file(content) for number, content in enumerate(contents)})
    manifest, pack = write_manifest(root, block_size=BLOCK)
    return write_release(tmp_path / "release", manifest, pack)


@pytest.fixture
def trace(release, tmp_path):
    """Each file's first block, one after the other, by one process, at no round trip."""
    manifest = (release / "manifest").read_bytes()
    digest = manifest[480:496]
    records = [
        Record(1000 + 2_000_000 * number, 0, 200_000, BLOCK, 1 + number, 7, format.READ, format.MISS, "sh", 1)
        for number in range(16)
    ]
    found = Trace(
        records=records,
        started_ns=0,
        first_touches=False,
        degraded=False,
        lost=0,
        release="test",
        version="1",
        manifest_digest=digest,
        digest_kind=1,
        block_size=BLOCK,
        files={1 + number: TracedFile(f"f{number:02}", 4 * BLOCK + 1) for number in range(16)},
        digests={(1 + number, 0): bytes([number + 1]) * 16 for number in range(16)},
    )
    path = tmp_path / "boot.trace"
    format.write(found, path)
    return path


def run(capsys, *words):
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_three_round_trips_by_default(capsys, trace, release):
    code, out, _ = run(capsys, "simulate", trace, "--release", release, "--read-around", "0", "--json")
    document = json.loads(out)
    assert code == 0 and document["schema"] == "orioncache.simulate/1"
    assert [point["rtt_ms"] for point in document["points"]] == [0, 1, 10]
    seconds = [point["result"]["seconds"] for point in document["points"]]
    # Sixteen dependent reads; the pack is open before.
    assert seconds[2] - seconds[1] == pytest.approx(16 * 0.009, rel=1e-6)
    assert seconds[1] - seconds[0] == pytest.approx(16 * 0.001, rel=1e-6)
    for point in document["points"]:
        assert (
            point["bounds"]["infinite_link_s"]
            <= point["bounds"]["clairvoyant_s"]
            <= point["result"]["seconds"]
        )


def test_a_table_and_each_heuristics_figures(capsys, trace, release):
    code, out, _ = run(
        capsys, "simulate", trace, "--release", release, "--rtt", "10", "--heuristic", "elf,sequential"
    )
    assert code == 0
    assert "boot.trace: 16 READs" in out
    assert "elf,sequential" in out and "read-around" in out


def test_a_sweep_on_all_processors_is_the_same_as_one_by_one(capsys, trace, release):
    words = [
        "simulate",
        trace,
        "--release",
        release,
        "--sweep",
        "sequential.window=1M,2M",
        "--sweep",
        "rtt=0,1,2,5,10",
    ]
    words += ["--heuristic", "sequential", "--json", "--no-bounds"]
    _, one, _ = run(capsys, *words, "--jobs", "1")
    _, many, progress = run(capsys, *words, "--jobs", "2")
    assert json.loads(one) == json.loads(many)
    assert len(json.loads(one)["points"]) == 10
    assert "simulating" in progress


def test_it_works_without_the_release(capsys, trace):
    code, out, _ = run(capsys, "simulate", trace, "--rtt", "10", "--json")
    assert code == 0 and json.loads(out)["points"][0]["result"]["requests"] == 16


def test_what_was_learned_is_used(capsys, trace, tmp_path):
    model = tmp_path / "model"
    code, out, _ = run(capsys, "prefetch", "train", trace, trace, "--output", model, "--json")
    assert code == 0 and json.loads(out)["blocks"] == 16 and json.loads(out)["boots"] == 2
    _, out, _ = run(capsys, "simulate", trace, "--rtt", "10", "--read-around", "0", "--json")
    without = json.loads(out)["points"][0]["result"]["seconds"]
    _, out, _ = run(
        capsys,
        "simulate",
        trace,
        "--rtt",
        "10",
        "--read-around",
        "0",
        "--json",
        "--heuristic",
        f"successor:model={model}",
    )
    result = json.loads(out)["points"][0]["result"]
    assert result["heuristics"]["successor"]["recall"] > 0.9
    assert result["seconds"] < without / 2


def test_evictions(capsys, trace):
    pytest.importorskip("libcachesim")
    code, out, _ = run(capsys, "simulate", trace, "--eviction", "--cache-size", "32K", "--json")
    policies = json.loads(out)["policies"]
    assert code == 0 and {"sieve (ours)", "lru", "s3fifo", "belady"} <= {each["name"] for each in policies}
    assert "sieve (ours)" in run(capsys, "simulate", trace, "--eviction", "--cache-size", "32K")[1]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--heuristic", "psychic"], "no heuristic 'psychic'"),
        (["--heuristic", "elf:"], "TUNABLE=VALUE"),
        (["--heuristic", "successor"], "successor has no model"),
        (["--heuristic", "profile"], "profile has no file"),
        (["--rtt", "x"], "rtt=x"),
        (["--rate", "fast"], "rate=fast"),
        (["--cache-size", "much"], "cache-size=much"),
        (["--sweep", "rtt"], "no PARAM=A,B,…"),
        (["--sweep", "rtt=1,"], "no PARAM=A,B,…"),
        (["--sweep", "elf.depth=3"], "elf does not run"),
        (["--release", "/nonexistent"], "no release that can be read"),
        (["--bundle", "/etc/hostname"], "no bundle"),
        (["--validate"], "records the boots that it needs"),
    ],
)
def test_a_mistake_is_one_line_and_a_mend(capsys, trace, words, problem):
    code, _, errors = run(capsys, "simulate", trace, *words)
    assert code == 1
    assert problem in errors and "mend:" in errors and len(errors.splitlines()) == 2


def test_a_release_of_another_trace_is_refused(capsys, trace, tmp_path):
    other = tmp_path / "other"
    manifest, pack = write_manifest(directory({b"x": file(b"other")}), block_size=BLOCK)
    write_release(other, manifest, pack)
    code, _, errors = run(capsys, "simulate", trace, "--release", other)
    assert code == 1 and "not the release" in errors


def test_no_trace_is_refused(capsys, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"not a trace")
    code, _, errors = run(capsys, "simulate", path)
    assert code == 1 and "no trace" in errors


def test_degraded_boots_teach_nothing(capsys, trace, tmp_path):
    bad = tmp_path / "bad.trace"
    format.write(dataclasses.replace(format.read(trace), degraded=True), bad)
    code, _, errors = run(capsys, "prefetch", "train", bad, "--output", tmp_path / "model")
    assert code == 1 and "degraded" in errors and not (tmp_path / "model").exists()


def test_the_list_has_all_that_can_be_set(capsys):
    code, out, _ = run(capsys, "prefetch", "list", "--json")
    found = {each["name"]: each for each in json.loads(out)}
    assert code == 0 and {"profile", "sequential", "elf", "successor", "script", "scheduler"} <= set(found)
    assert all(tunable["help"] for each in found.values() for tunable in each["tunables"])
    assert "  window " in run(capsys, "prefetch", "list")[1]


def test_the_comparison_says_whether_the_bar_is_met():
    good, bad = Comparison("a", "none", 0, 1.05, 1.0, 0.02), Comparison("a", "bundle", 10, 0.8, 1.0, 0.07)
    assert lines([good])[-1] == "worst error 5.0%, bar 10%: met; the longest simulation took 0.02 s"
    found = lines([good, bad])
    assert found[-1] == "worst error 20.0%, bar 10%: missed; the longest simulation took 0.07 s"
    assert ["missed" in line for line in found[1:3]] == [False, True]


def test_what_is_validated_is_checked_before_anything_is_booted(capsys):
    for words, problem in (
        (["--set", "psychic"], "no heuristic 'psychic'"),
        (["--set", "elf:"], "TUNABLE=VALUE"),
        (["--rtt", "fast"], "'fast' is no number"),
        (["--rate", "much"], "rate=much"),
    ):
        code, _, errors = run(capsys, "simulate", "--validate", *words)
        assert code == 1 and problem in errors and "mend:" in errors


def test_a_trace_is_needed_for_all_else(capsys):
    code, _, errors = run(capsys, "simulate")
    assert code == 1 and "no trace is given" in errors
