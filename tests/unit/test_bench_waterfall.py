"""The waterfall: what became of each fetch, which runs record, and the page of a boot that did."""

import json
import re

from orioncache.bench import report
from orioncache.bench.plan import Link, choose, plan
from orioncache.bench.sample import SCHEMA, Document
from orioncache.bench.waterfall.figure import Recorded, fetched, figure
from orioncache.bench.waterfall.recording import recording
from orioncache.bench.waterfall.uses import judge, touched_pages
from orioncache.release.bundle import Chunk, Frame
from orioncache.trace.format import AROUND, BUNDLE, DEMAND, Fetch
from tests.unit.traces import BLOCK, MS, START, record, sample


class Release:
    """Inode 1 has the blocks 0, 1, 2; inode 2 the block 0 and a hole."""

    block_size = BLOCK

    def block(self, inode, file_block):
        return None if (inode, file_block) == (2, 1) else file_block

    def length(self, block):
        return BLOCK


class Bundle:
    """Frame 0 has two pages of inode 1, frame 1 its third."""

    frames = (Frame(0, 9, 2 * BLOCK, 0, 1, 0, b""), Frame(9, 9, BLOCK, 1, 1, 0, b""))
    chunks = (Chunk(0, 1, 2 * BLOCK, 0, 0), Chunk(2 * BLOCK, 1, BLOCK, 0, 0))


def fetch(at_ms, first, blocks=1, *, took_ms=10, reason=AROUND, good=True, server=0):
    return Fetch(START + at_ms * MS, 0, took_ms * MS, blocks * BLOCK, first, server, good, reason, blocks)


def uses(records, fetches, **known):
    found = judge(sample(records=records, fetches=fetches), Release(), **known)
    return [{use: amount.number for use, amount in each.amounts.items()} for each in found]


def test_a_block_is_useful_late_or_wasted():
    reads = [record(5, 1), record(30, 1, BLOCK), record(40, 1, BLOCK), record(41, 1)]
    assert uses(reads, [fetch(0, 0, 3)]) == [{"useful": 1, "late": 1, "wasted": 1}]


def test_what_was_asked_for_before_does_not_count():
    assert uses([record(1, 1, wait_ms=50)], [fetch(2, 0)]) == [{"wasted": 1}]
    # Neither does what the next flight of the same block brought.
    both = [fetch(0, 0), fetch(20, 0, reason=DEMAND)]
    assert uses([record(20, 1)], both) == [{"wasted": 1}, {"demanded": 1}]


def test_a_hole_is_no_block_and_equal_blocks_are_one():
    assert uses([record(30, 2, 0, 2 * BLOCK)], [fetch(0, 0, 2)]) == [{"useful": 1, "wasted": 1}]


def test_a_retry_is_the_same_flight():
    both = [fetch(0, 0, 2, good=False), fetch(9, 1, server=1)]
    # Block 0 was good in the first read, for nobody asked for it again; block 1 was late all the time.
    reads = [record(4, 1, BLOCK), record(30, 1)]
    assert uses(reads, both) == [{"useful": 1, "failed": 1}, {"late": 1}]
    assert uses(reads, [fetch(0, 0, 2, good=False)]) == [{"failed": 2}]


def test_pages_of_a_bundle():
    stream = [fetch(10, 0, 2, reason=BUNDLE)]
    assert uses([], stream)[0].keys() == {"unseen"}
    assert uses([], stream, bundle=Bundle()) == [{"unseen": 3}]
    assert uses([], stream, bundle=Bundle(), touched={(1, 0), (1, 2)}) == [{"useful": 2, "wasted": 1}]
    # Read before anybody asked for its frame; while it was on its way; after it.
    reads = [record(5, 1), record(12, 1, BLOCK), record(30, 1, 2 * BLOCK, 100)]
    assert uses(reads, stream, bundle=Bundle(), touched={(1, 0)}) == [{"useful": 1, "late": 1, "wasted": 1}]
    assert touched_pages(sample(records=reads)) == {(1, 0), (1, 1), (1, 2)}


def test_a_frame_of_which_no_copy_was_good_is_asked_of_the_next_server():
    stream = [fetch(10, 0, reason=BUNDLE, good=False), fetch(30, 0, reason=BUNDLE, server=1)]
    assert uses([record(25, 1)], stream, bundle=Bundle()) == [{"failed": 2}, {"late": 1, "unseen": 1}]


def test_the_first_run_of_each_variant_of_a_release_records():
    runs = recording(plan(choose(["nfs", "orion", "orion-live"]), [Link(0)], 2))
    found = [run.name for run in runs if "orion.trace=on" in run.variant.words]
    assert found == ["orion-rtt0-run1"]


HOSTILE = "</script><script>alert(1)</script>"


def recorded(**changes):
    trace = sample(records=[record(2, 1, comm=HOSTILE[:15]), record(30, 1, BLOCK)], fetches=[fetch(0, 0, 2)])
    marks = {name: START + at * MS for name, at in {"start": 0, "initramfs": 1, "ready": 50}.items()}
    values = {
        "variant": "orion", "link": Link(10), "run": 1, "trace": trace,
        "marks": {"kernel": 900 * MS, **marks},
        "judged": judge(trace, Release()), "files": {0: HOSTILE}, "is_touched_known": False,
    }  # fmt: skip
    return Recorded(**{**values, **changes})


def test_times_are_the_boots_own():
    found = figure(recorded())
    assert found["phases"] == [
        ["kernel", 0, 900_000],
        ["initramfs", 900_000, 901_000],
        ["userland", 901_000, 950_000],
    ]
    assert found["reads"]["t"] == [902_000, 930_000]
    assert found["fetches"]["t"] == [900_000]


def test_the_page_has_every_read_and_obeys_nobody():
    boot = recorded()
    page = report.page(Document(SCHEMA, {}, []), [boot])
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', page)
    assert len(json.loads(data)["reads"]["t"]) == 2
    assert json.loads(data)["fetches"]["files"] == [HOSTILE]
    assert page.count("<script") == 2
    assert "alert(1)</script>" not in page
    assert not re.search(r"""(src|href|url\(|@import|<link|<iframe)""", page)
    assert fetched(boot.judged)["read-around"].uses["late"].count == 1
