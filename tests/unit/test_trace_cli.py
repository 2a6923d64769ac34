"""`orioncache trace`: figures, merging, what other programs get, and the commands around it."""

import csv
import io
import json
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from orioncache.cli import main
from orioncache.control.server import ControlServer
from orioncache.errors import UserError
from orioncache.trace import export, format
from orioncache.trace.figures import figures, waits
from orioncache.trace.merging import merge
from orioncache.trace.recording import since
from tests.unit.traces import BLOCK, START, record, sample


@pytest.fixture
def trace_file(tmp_path: Path) -> Path:
    path = tmp_path / "a.trace"
    format.write(sample(), path)
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[SimpleNamespace]:
    """A control socket whose trace a test may change."""
    found = SimpleNamespace(answer=None, path=str(tmp_path / "x.sock"))
    with ControlServer(found.path, dict, trace=lambda: found.answer):
        yield found


def says(trace: format.Trace) -> tuple[dict[str, object], bytes]:
    data = format.encode(trace)
    return {"records": len(trace.records), "bytes": len(data)}, data


def test_figures() -> None:
    found = figures(sample())
    assert (found["records"], found["reads"], found["lookups"]) == (6, 5, 1)
    assert found["bytes"] == BLOCK + (BLOCK + 100) + 2 * BLOCK + 200 + BLOCK
    assert (found["pages"], found["files"]) == (5, 2)
    # Blocks a (in both files), b and c; the hole is none.
    assert (found["blocks"], found["block_bytes"]) == (3, 2 * BLOCK + 100)
    assert [found[name] for name in format.OUTCOMES] == [2, 1, 1, 1]
    assert found["hit_ratio"] == 0.4
    assert found["wait_ms"] == {"p50": 2.0, "p95": 10.0, "max": 10.0, "sum": 17.02}
    assert found["wait_ms_of_waiting"] == {"p50": 2.0, "p95": 10.0, "max": 10.0, "sum": 12.0}
    assert found["seconds"] == 0.02
    assert found["programs"][0] == {
        "program": "cat", "reads": 2, "bytes": 2 * BLOCK + 200, "waited": 0, "wait_ms": 0.02
    }  # fmt: skip
    assert [each["path"] for each in found["paths"]] == ["bin/sh", "data"]
    assert len(figures(sample(), top=1)["programs"]) == 1


def test_figures_of_nothing() -> None:
    found = figures(sample(records=[]))
    assert (found["reads"], found["hit_ratio"], found["seconds"]) == (0, None, 0.0)
    assert waits([])["max"] == 0.0


def test_merged_traces_begin_together() -> None:
    later = sample(
        records=[record(5, 3)._replace(t_ns=9_000_000_000 + 5_000_000)],
        started_ns=9_000_000_000,
        degraded=True,
        lost=3,
        files={3: format.TracedFile("etc/x", BLOCK)},
        digests={(3, 0): b"x" * 16},
    )
    merged = merge([sample(first_touches=True), later], ["a", "b"])
    assert [each.t_ns // 1_000_000 for each in merged.records] == [0, 1, 5, 12, 15, 16, 20]
    assert (merged.started_ns, merged.lost, merged.degraded, merged.first_touches) == (0, 3, True, False)
    assert set(merged.files) == {1, 2, 3}
    assert format.decode(format.encode(merged), "x") == merged


def test_traces_of_two_releases_are_not_merged() -> None:
    other = sample(version="2", manifest_digest=bytes(16))
    with pytest.raises(
        UserError, match=r"b is of debian 2 \(000000000000\), and a of debian 1 \(000102030405\)"
    ):
        merge([sample(), other], ["a", "b"])


def test_csv_has_a_row_for_each_record() -> None:
    file = io.BytesIO()
    odd = {**sample().files, 2: format.TracedFile('a,"b\udcff\n', 2 * BLOCK)}
    export.write_csv(sample(files=odd), file)
    assert b'"a,""b\xff\n"' in file.getvalue()
    rows = list(csv.DictReader(io.StringIO(file.getvalue().decode(errors="surrogateescape"), newline="")))
    assert len(rows) == 6
    assert rows[0]["kind"] == "lookup"
    assert rows[2] == {
        "t_ns": "12000000", "kind": "read", "outcome": "late", "wait_ns": "2000000", "comm": "sh", "pid": "7",
        "path": "bin/sh", "inode": "1", "offset": "4096", "length": "4196", "blocks": "2",
        "blocks_missed": "1", "digest": "62" * 16,
    }  # fmt: skip
    assert rows[3]["path"] == 'a,"b\udcff\n'


def test_parquet_has_the_same_columns_and_rows() -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    for trace in (sample(), sample(records=[])):
        file = io.BytesIO()
        export.write_parquet(trace, file)
        table = parquet.read_table(file)
        assert tuple(table.column_names) == export.COLUMNS
        assert [tuple(row.values()) for row in table.to_pylist()] == list(export.rows(trace))


def test_parquet_without_pyarrow_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="pyarrow is not installed") as told:
        export.write_parquet(sample(), io.BytesIO())
    assert "workbench" in told.value.mend


def test_oracle_general_knows_the_next_access() -> None:
    file = io.BytesIO()
    export.write_oracle(sample(), file)
    accesses = list(struct.iter_unpack("<IQIq", file.getvalue()))
    a, b, c = (int.from_bytes(letter * 8, "little") for letter in (b"a", b"b", b"c"))
    assert accesses == [
        (0, a, BLOCK, 4),
        (0, b, BLOCK, -1),
        (0, c, 100, -1),
        (0, a, BLOCK, 5),  # the hole behind it is none
        (0, a, BLOCK, 6),
        (0, a, BLOCK, -1),
    ]
    with pytest.raises(UserError, match="does not say which blocks"):
        export.write_oracle(sample(digests={}), io.BytesIO())


def test_a_part_of_a_trace_speaks_of_no_more() -> None:
    part = since(sample(), START + 14_000_000)
    assert [each.inode for each in part.records] == [2, 2, 1]
    assert part.started_ns == START + 14_000_000
    assert set(part.digests) == {(1, 0), (2, 0), (2, 1)}
    assert format.decode(format.encode(part), "x") == part


def test_show(trace_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "show", str(trace_file), "--limit", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["0.000000", "sh", "bin/sh", "lookup", "0.000"]
    assert lines[3].split() == ["0.012000", "sh", "bin/sh", "62626262", "+1", "4096", "4196", "late", "2.000"]
    assert lines[4] == "3 more: --limit 0 shows all"
    assert main(["trace", "show", str(trace_file), "--limit", "0", "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(found) == 6
    assert found[2]["digest"] == "62" * 16
    assert found[2]["wait_ms"] == 2.0


def test_show_lets_no_name_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "evil"
    files = {1: format.TracedFile("\x1b[2Jx\udcff", BLOCK)}
    format.write(sample(files=files, digests={}, records=[record(0, 1, comm="\x07")]), path)
    for command in ("show", "stats"):
        assert main(["trace", command, str(path)]) == 0
        said = capsys.readouterr().out
        assert "\\x1b[2Jx\\xff" in said
        assert "\x1b" not in said
        assert "\x07" not in said


def test_stats(trace_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "stats", str(trace_file)]) == 0
    said = capsys.readouterr().out
    for text in ("debian 1 (000102030405)", "5 reads, 1 lookups", "2 hits (40.0%)", "bin/sh", "<not known>"):
        assert text in said
    assert main(["trace", "stats", str(trace_file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == figures(sample())


def test_merge_and_export(trace_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["trace", "merge", str(trace_file), str(trace_file), "-o", str(out)]) == 0
    assert "10 reads" in capsys.readouterr().out
    assert len(format.read(out).records) == 12
    for kind in export.FORMATS:
        assert main(["trace", "export", str(trace_file), "--format", kind, "-o", str(out)]) == 0
    assert out.stat().st_size == 6 * 24


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["show", "/nonexistent"], "/nonexistent"),
        (["stats", "/etc/passwd"], "is no trace"),
        (["merge", "FILE", "-o", "/nonexistent/x"], "cannot be written"),
        (["export", "FILE", "--format", "csv", "-o", "/"], "cannot be written"),
        (["record", "/nonexistent.sock", "-o", "/tmp/x"], "there is no control socket"),
        (["record", "/nonexistent.sock", "-o", "/nonexistent/x"], "cannot be written"),
    ],
)
def test_wrong_input_is_told(
    trace_file: Path, arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trace", *(str(trace_file) if word == "FILE" else word for word in arguments)]) == 1
    said = capsys.readouterr().err
    assert text in said
    assert "mend: " in said
    assert "Traceback" not in said


def test_record(cache: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache.answer = says(sample(degraded=True, lost=2))
    out = tmp_path / "out"
    assert main(["trace", "record", cache.path, "-o", str(out)]) == 0
    assert format.read(out) == sample(degraded=True, lost=2)
    captured = capsys.readouterr()
    assert captured.out == f"{out}: 5 reads, 20.8 kB, 1 lookups, degraded, 2 records lost\n"
    assert "2 requests found no room" in captured.err
    assert main(["trace", "record", cache.path, "--json", "-o", str(out)]) == 0
    assert json.loads(capsys.readouterr().out)["reads"] == 5


def test_record_while(cache: SimpleNamespace, tmp_path: Path) -> None:
    out = tmp_path / "out"
    later = time.monotonic_ns() + 3_600_000_000_000
    cache.answer = says(sample(records=[record(0, 1), record(0, 2)._replace(t_ns=later)]))
    command = [sys.executable, "-c", "raise SystemExit(3)"]
    assert main(["trace", "record", cache.path, "-o", str(out), "--while", *command]) == 3
    found = format.read(out)
    assert [each.inode for each in found.records] == [2]
    assert set(found.files) == {2}
    assert found.started_ns < later


def test_record_of_what_records_nothing(
    cache: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, ran = tmp_path / "out", tmp_path / "ran"
    assert main(["trace", "record", cache.path, "-o", str(out), "--while", "touch", str(ran)]) == 1
    assert "records no trace" in capsys.readouterr().err
    assert not out.exists()
    assert not ran.exists()
    cache.answer = ({"bytes": 100_000}, b"cut off")
    assert main(["trace", "record", cache.path, "-o", str(out)]) == 1
    assert "7 of 100000 bytes came" in capsys.readouterr().err
    cache.answer = says(sample())
    assert main(["trace", "record", cache.path, "-o", str(out), "--while", "/no/such/command"]) == 1
    assert "/no/such/command" in capsys.readouterr().err
    assert main(["trace", "record", cache.path, "-o", str(out), "--while"]) == 1
    assert "--while has no command" in capsys.readouterr().err
