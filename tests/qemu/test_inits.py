"""The default workload as the last boot step of Debian roots with other inits, for real."""

import shutil
import subprocess

import pytest

from orioncache.bench import sample
from orioncache.bench.root import OWN_INIT, debian_root
from tests import needs
from tests.program import COMMAND

pytestmark = [
    pytest.mark.timeout(1800),  # two roots are built the first time
    needs.ROOT,
    needs.QEMU,
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed"),
]


@pytest.mark.parametrize(
    ("init", "words"),
    [("systemd", ()), ("sysvinit", ()), ("runit", ("--append", f"init={OWN_INIT}"))],
    ids=["systemd", "sysvinit", "none"],
)
def test_workload_under(init, words, tmp_path):
    found = tmp_path / "samples.json"
    command = [*COMMAND, "bench", "--root", debian_root(init), "--json", found]
    done = subprocess.run(
        [*command, "--variant", "ram", "--rtt", "0", "--runs", "1", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (boot,) = sample.read(found).samples
    assert boot.ok
    # No wait for a device or a service that is not there: systemd's are 90 s.
    assert 0.2 < boot.phases_s.userland < 10
