"""`bench hedge` in its shorter form, held against the same bars."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.program import COMMAND, IS_SANITIZED

# The third longest of these is p99.9: a busy machine can keep one read waiting.
SHORT = ["--rounds=2", "--reads=1000"]
ATTEMPTS = 3


@pytest.mark.skipif(IS_SANITIZED, reason="sanitizers take their time")
def test_hedged_reads_cost_little_and_save_much(tmp_path: Path) -> None:
    path = tmp_path / "hedge.json"
    command = [*COMMAND, "bench", "hedge", *SHORT, "--bars", f"--json={path}"]
    for _ in range(ATTEMPTS):
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
        assert done.returncode in {0, 1}, done.stderr
        if done.returncode == 0:
            break
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(path.read_text())
    assert document["schema"] == "orioncache.bench.hedge/1"
    assert len(document["trials"]) == 6
    by_condition = {
        name: [trial for trial in document["trials"] if trial["condition"] == name]
        for name in ("healthy", "unhedged", "hedged")
    }
    assert all(len(trial["latencies_ms"]) == trial["reads"] == 1000 for trial in document["trials"])
    assert all(trial["late"] > 0 for trial in by_condition["unhedged"] + by_condition["hedged"])
    assert all(trial["failover"]["hedges"] == 0 for trial in by_condition["unhedged"])
    assert all(trial["failover"]["hedges"] > 0 for trial in by_condition["hedged"])
    assert "2 of 2 bars met" in done.stdout
