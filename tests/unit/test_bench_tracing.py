"""`bench --trace`: which variants record, and where what they recorded goes."""

from pathlib import Path

import pytest

from orioncache.bench.plan import Link, choose, plan
from orioncache.bench.qemu import Outcome
from orioncache.bench.tracing import TraceFiles, traced
from orioncache.bench.verdict import Report
from orioncache.cli import main
from orioncache.errors import UserError
from orioncache.trace import format
from tests.unit.traces import sample


def outcome(data: bytes | None, error: str = "") -> Outcome:
    files = {} if data is None else {"trace": data}
    return Outcome(Report({}, files, [], "ok", ""), error, [], 1.0)


def test_only_releases_through_the_cache_record() -> None:
    nfs, orion, live = traced(choose(["nfs", "orion", "orion-live"]), "touch")
    assert "orion.trace=touch" in orion.command_line(["10.0.0.1"], "/")
    assert not nfs.words
    assert not live.words
    with pytest.raises(UserError, match="none of the variants"):
        traced(choose(["nfs", "orion-live"]), "on")


def test_one_run_has_the_file_and_several_have_one_each(tmp_path: Path) -> None:
    path = tmp_path / "boot.trace"
    variants = choose(["nfs", "orion"])
    data = format.encode(sample())
    one = plan(variants, [Link(0)], 1)
    files = TraceFiles(path, one)
    for run in one:
        files.take(run, outcome(data if run.variant.name == "orion" else None))
    assert [each.name for each in tmp_path.iterdir()] == ["boot.trace"]
    assert format.read(path) == sample()
    files = TraceFiles(path, plan(variants, [Link(0), Link(1)], 1))
    assert files.path(one[1]).name == "boot.orion-rtt0-run1.trace"


def test_a_boot_that_failed_is_degraded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run,) = plan(choose(["orion"]), [Link(0)], 1)
    files = TraceFiles(tmp_path / "x", [run])
    with pytest.raises(UserError, match="no boot sent a trace"):
        files.tell()
    files.take(run, outcome(format.encode(sample()), "the workload exited with 1"))
    assert format.read(tmp_path / "x").degraded
    files.tell()
    assert "5 reads, degraded" in capsys.readouterr().err


def test_wrong_use_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--trace-touch", "--dry-run"]) == 1
    assert "say --trace FILE as well" in capsys.readouterr().err
    assert main(["bench", "--variant", "nfs", "--trace", "/tmp/x", "--dry-run"]) == 1
    assert "--trace wants one" in capsys.readouterr().err
