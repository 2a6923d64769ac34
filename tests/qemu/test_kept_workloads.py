"""The workloads that are kept, each on its own root. A root that nobody has built yet is not built here."""

import subprocess

import pytest

from orioncache.bench import sample
from orioncache.bench.kept import DEFAULT, KEPT
from orioncache.bench.root import root_path
from tests import needs
from tests.program import COMMAND

pytestmark = [needs.ROOT, needs.QEMU, pytest.mark.timeout(600)]


@pytest.mark.parametrize("name", [name for name in KEPT if name != DEFAULT])
def test_a_kept_workload_is_ready(name, tmp_path):
    if not root_path(KEPT[name].recipe).is_dir():
        pytest.skip(f"the root of the workload {name} is not built (orioncache bench --workload {name})")
    found = tmp_path / "samples.json"
    command = [*COMMAND, "bench", "--workload", name, "--variant", "ram", "--rtt", "0", "--json", found]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (boot,) = sample.read(found).samples
    assert boot.ok
    # No wait for a device or a service that is not there.
    assert 0.2 < boot.phases_s.userland < 10
