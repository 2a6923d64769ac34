"""The page of a real boot: its waterfall has what the engine itself has counted."""

import json
import re

import pytest

from tests import needs
from tests.qemu.test_boot import bench, samples

pytestmark = [needs.QEMU, needs.ROOT, pytest.mark.timeout(3600)]


def test_the_page_shows_all_reads_and_fetches_of_a_boot(tmp_path):
    page, document = tmp_path / "page.html", tmp_path / "samples.json"
    code, _, errors = bench("--variant", "orion", "--rtt", "10", "--html", page, "--json", document)
    assert code == 0, errors
    (sample,) = samples(document)
    (text,) = re.findall(r'<script type="application/json">(.*?)</script>', page.read_text(), re.DOTALL)
    drawn = json.loads(text)

    # The engine is asked for its figures a moment after the node was ready.
    assert 0 <= sample["cache"]["fuse"]["upcalls"]["read"] - len(drawn["reads"]["t"]) <= 10
    assert [name for name, _, _ in drawn["phases"]] == ["kernel", "initramfs", "userland"]
    assert drawn["ready"] == pytest.approx(1e6 * sample["boot_s"], rel=0.01)
    assert max(drawn["reads"]["t"]) <= drawn["ready"]
    around, engine = sample["fetched"]["read-around"]["uses"], sample["cache"]["fetch"]
    wanted = sum(around[use]["count"] for use in ("useful", "late"))
    assert wanted == pytest.approx(engine["ahead_used"], rel=0.05)
    assert around["wasted"]["count"] > 0
    assert sample["fetched"]["demand"]["reads"] > 0
