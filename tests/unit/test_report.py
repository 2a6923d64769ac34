"""The bench's report: figures from samples, and nothing that a guest says can break the page or the table."""

import io
import re

import pytest
from rich.console import Console

from orioncache.bench import report
from orioncache.bench.report.bars import bars
from orioncache.bench.report.summary import Link, cells, hit_ratio, one_line, seconds, widest
from orioncache.bench.sample import SCHEMA, Document, Nfs, Phases, Sample

HOSTILE = '</pre><script src="http://x/">alert(1)</script>[bold]{{ 7*7 }}\x1b[31m\n"'


def sample(variant="nfs", rtt=0.0, run=1, userland=1.0, **changes):
    phases = Phases(kernel=1.0, initramfs=0.5, userland=userland)
    values = {
        "variant": variant,
        "rtt_ms": rtt,
        "rate_mbit": None,
        "run": run,
        "ok": True,
        "clock": "virtual",
        "boot_s": phases.boot,
        "phases_s": phases,
        "nfs": Nfs(calls=100, read_bytes=3 << 20),
        "cache": {},
        "memory_mb": {"used": 200.0},
        "command": "qemu-system-x86_64",
        "error": None,
    }
    return Sample(**{**values, **changes})


def failure(**changes):
    nothing = {"ok": False, "boot_s": None, "phases_s": None, "nfs": None, "memory_mb": {}}
    return sample(**{**nothing, "error": "the guest hung", **changes})


def document(*samples, **environment):
    return Document(SCHEMA, environment, list(samples))


def console_text(found, width=150):
    file = io.StringIO()
    report.table(found, Console(file=file, width=width, highlight=False))
    return file.getvalue()


def test_spread_is_range_over_median():
    assert report.spread([sample(userland=u) for u in (1.0, 2.5, 2.0)]) == pytest.approx(1.5 / 3.5)


@pytest.mark.parametrize("samples", [[], [sample()], [sample(), failure()]])
def test_spread_needs_two_good_runs(samples):
    assert report.spread(samples) is None


def test_median_leaves_failed_runs_out():
    runs = [sample(run=1, userland=1.0), failure(run=2), sample(run=3, userland=3.0)]
    (cell,) = cells(document(*runs))
    assert cell.boot_s == pytest.approx(3.5)
    assert cell.phases_s == pytest.approx({"kernel": 1.0, "initramfs": 0.5, "userland": 2.0})
    assert [run.run for run in cell.failed] == [2]


def test_ratios_are_within_one_link():
    found = cells(
        document(
            sample("nfs", 10, userland=8.5),
            sample("orion", 10, userland=3.5),
            sample("ram", 10, userland=0.5),
            sample("orion", 1, userland=0.5),
        )
    )
    by_name = {(cell.variant, cell.link.rtt_ms): cell for cell in found}
    assert by_name["orion", 10].to_nfs == pytest.approx(0.5)
    assert by_name["orion", 10].to_ram == pytest.approx(2.5)
    assert by_name["orion", 1].to_nfs is None


def test_a_failed_base_gives_no_ratio():
    _, orion = cells(document(failure(variant="nfs"), sample("orion")))
    assert orion.to_nfs is None


def test_links_come_in_order_and_variants_as_they_ran():
    found = cells(
        document(
            sample("orion", 10), sample("nfs", 10), sample("orion", 0), sample("nfs", 0, rate_mbit=100.0)
        )
    )
    assert [(cell.link.rtt_ms, cell.link.rate_mbit, cell.variant) for cell in found] == [
        (0, None, "orion"),
        (0, 100, "nfs"),
        (10, None, "orion"),
        (10, None, "nfs"),
    ]


@pytest.mark.parametrize(
    ("status", "ratio"),
    [
        ({}, None),
        ({"cache": {"hits": 0}, "servers": [{"reads": 0}]}, None),
        (
            {"cache": {"hits": 5, "packed_hits": 2, "zero_hits": 1}, "servers": [{"reads": 2}, {"reads": 0}]},
            0.8,
        ),
        ({"cache": {"hits": 84, "misses": 0}, "servers": [{"reads": 84}]}, 0.5),
        ({"cache": "none", "servers": []}, None),
        ({"cache": {"hits": "many"}, "servers": [{"reads": 3}, "gone"]}, 0),
        ({"error": "no answer"}, None),
    ],
)
def test_hit_ratio(status, ratio):
    assert hit_ratio(status) == ratio


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0.39, "0.390"), (9.9994, "9.999"), (12.5, "12.50"), (123.456, "123.46")]
)
def test_seconds(value, text):
    assert seconds(value) == text


def test_link_title():
    assert Link(1, None, 0, 0, "virtual").title == "RTT 1 ms"
    assert Link(10, 100, 0.5, 2, "wall").title == "RTT 10 ms ± 0.5 ms, 100 Mbit/s, 2% lost"


def test_one_line_is_one_line():
    assert one_line("a\x1b[31m\r\n b\t" + "c" * 500, 12) == "a [31m b cc…"
    assert one_line(None) == ""


def test_table_shows_figures():
    text = console_text(
        document(
            sample("nfs", 1),
            sample(
                "orion",
                1,
                userland=2.0,
                cache={
                    "cache": {
                        "hits": 3,
                    },
                    "servers": [{"reads": 1}],
                },
            ),
        )
    )
    row = next(line for line in text.splitlines() if line.startswith("orion"))
    assert row.split()[1:7] == ["1.000", "0.500", "2.000", "3.500", "1.40", "–"]
    assert "75%" in row
    assert "RTT 1 ms" in text
    assert "spread" not in text  # one run has none


def test_table_says_what_failed():
    text = console_text(
        document(sample("nfs"), failure(variant="orion", run=2, error="kernel panic:\n" + HOSTILE))
    )
    assert "1 of 2 boots failed" in text
    assert "orion at 0 ms, run 2: kernel panic: </pre>" in text
    assert "[bold]{{ 7*7 }} [31m" in text  # neither markup nor escapes are obeyed
    assert "\x1b" not in text
    assert re.search(r"^orion .* failed", text, re.MULTILINE)


def test_table_warns_of_spread_on_the_virtual_clock_only():
    runs = [sample(run=1, userland=1.0), sample(run=2, userland=1.1)]
    assert "which the virtual clock should hold" in console_text(document(*runs))
    wall = [sample(run=run.run, userland=run.phases_s.userland, clock="wall") for run in runs]
    text = console_text(document(*wall))
    assert "should hold" not in text
    assert "differ by at most 3.92%" in text


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 150])
def test_no_figure_is_cut_off(width):
    runs = [sample(variant, 10, run) for variant in ("nfs", "nfs-tuned", "orion") for run in (1, 2)]
    text = console_text(document(*runs), width)
    rows = [line for line in text.splitlines() if line.startswith("nfs-tuned")]
    assert "…" not in text
    assert "2.500" in rows[0]
    assert all(len(line.rstrip()) <= width for line in rows)


def test_table_without_samples():
    assert console_text(document()) == "nothing was measured\n"


def test_widest():
    found = cells(
        document(sample(run=1), sample(run=2, userland=2), sample("ram", run=1), sample("ram", run=2))
    )
    assert widest(found).variant == "nfs"
    assert widest(cells(document(sample()))) is None


def test_page_escapes_all_it_is_told():
    page = report.page(
        document(
            sample(variant=HOSTILE, command=HOSTILE),
            failure(error=HOSTILE),
            **{HOSTILE: {"nested": HOSTILE}, "command": ["orioncache", HOSTILE]},
        )
    )
    assert "<script" not in page
    assert "alert(1)" in page
    assert "{{ 7*7 }}" in page
    assert page.count("</pre>") == 2


def test_page_loads_nothing():
    page = report.page(document(sample(), sample("orion"), kernel={"version": "6.12"}))
    assert not re.search(r"""(src|href|url\(|@import|<link|<iframe)""", page)
    assert "6.12" in page


def test_page_bars_are_as_long_as_the_boots():
    page = report.page(document(sample("nfs", userland=8.5), sample("ram", userland=0.5)))
    widths = [float(width) for width in re.findall(r'<span class="\w+" style="width:([\d.]+)%', page)]
    assert widths == pytest.approx([10, 5, 85, 10, 5, 5])
    assert "10.00 s" in page


def test_page_of_failures_alone():
    page = report.page(document(failure(), failure(variant="orion")))
    assert "2 of 2 boots failed" in page
    assert "the guest hung" in page


def test_page_without_samples():
    assert "Nothing was measured" in report.page(document())


STATUS = {
    "release": {"name": "node", "version": "7", "digest": "ab12"},
    "fuse": {"upcalls": {"lookup": 40, "read": 2}},
    "cache": {"hits": 0, "raw_bytes": 10_000_000, "packed_bytes": 5_000_000},
    "servers": [{"reads": 4}],
}


def released(rtt=0.0, **changes):
    values = {"cache": STATUS, "memory_mb": {"used": 200.0, "daemon_rss": 25e6 / (1 << 20)}, **changes}
    return sample("orion", rtt, **values)


def test_what_the_status_says_is_in_the_cells():
    (cell,) = cells(document(released()))
    assert (cell.upcalls, cell.release) == (42, "node 7 (ab12)")
    assert cell.beside_mb == pytest.approx(10)
    (cell,) = cells(document(sample(cache={"fuse": "none", "release": []})))
    assert (cell.upcalls, cell.release, cell.beside_mb) == (None, "", None)


def initramfs(seconds):
    phases = Phases(kernel=1.0, initramfs=seconds, userland=1.0)
    return {"phases_s": phases, "boot_s": phases.boot}


@pytest.mark.parametrize(
    ("rtt", "nfs", "orion", "met"),
    [
        (0, 1.0, 1.0, True),
        (0, 1.0, 1.01, False),
        (1, 1.0, 0.5, True),
        (1, 1.0, 0.51, False),
        (10, 9.0, 3.01, False),
    ],
)
def test_userland_bars(rtt, nfs, orion, met):
    found = bars(document(sample("nfs", rtt, userland=nfs), released(rtt, userland=orion)))
    assert [figure.met for figure in found if figure.cell == "userland"] == [met]


@pytest.mark.parametrize(
    ("rtt", "profile", "met"),
    [(0, 1.15, True), (0, 1.16, False), (1, 1.3, True), (10, 2.0, True), (10, 2.1, False)],
)
def test_userland_bars_of_a_bundle(rtt, profile, met):
    found = bars(document(sample("ram", rtt), sample("orion-profile", rtt, userland=profile)))
    assert [(figure.cell, figure.met) for figure in found] == [("profile", met)]


def boot(variant, seconds, **changes):
    return sample(variant, 10, boot_s=seconds, **changes)


def test_bars_of_whole_boots():
    others = [boot("nfs", 12.0), boot("nfs-tuned", 11.0), boot("nbd-squashfs", 6.0)]
    found = bars(document(*others, boot("orion-profile", 2.0)))
    assert [(figure.value, figure.met) for figure in found] == [(6.0, True), (5.5, False), (3.0, True)]
    found = bars(document(boot("nfs", 12.0), boot("ram", 1.5), boot("orion-profile", 2.0)))
    assert "from ram it would be 8.0 ×" in next(figure.note for figure in found if figure.cell == "boot")
    assert not bars(document(sample("nfs", 1, boot_s=12.0), sample("orion-profile", 1, boot_s=2.0)))


def test_bar_of_a_narrow_link():
    link = {"rate_mbit": 100.0}
    status = {"bundle": {"packed_bytes": 6_250_000}}  # half a second
    found = bars(document(boot("ram", 1.5, **link), boot("orion-profile", 2.5, cache=status, **link)))
    assert [(figure.value, figure.met) for figure in found] == [(1.25, True)]
    assert not bars(document(boot("ram", 1.5, **link), boot("orion-profile", 2.5, **link)))


@pytest.mark.parametrize(("nfs", "orion", "met"), [(0.25, 0.3125, True), (0.25, 0.375, False)])
def test_initramfs_bar(nfs, orion, met):
    found = bars(document(sample("nfs", **initramfs(nfs)), released(**initramfs(orion))))
    assert [figure.met for figure in found if figure.cell == "initramfs"] == [met]


def test_bars_of_size():
    heavy = {"used": 200.0, "daemon_rss": 60e6 / (1 << 20)}
    found = bars(document(released(1), released(10, memory_mb=heavy), initramfs={"bytes": 6_000_000}))
    assert [(figure.cell, figure.met) for figure in found] == [("daemon", False), ("image", True)]


@pytest.mark.parametrize(
    "changes", [{"clock": "wall"}, {"rate_mbit": 100.0}, {"loss_percent": 1.0}, {"jitter_ms": 1.0}]
)
def test_no_bars_where_the_figures_are_of_something_else(changes):
    assert bars(document(sample("nfs", **changes), released(**changes), initramfs={"bytes": 5})) == []


def test_a_failed_boot_is_held_against_nothing():
    assert bars(document(sample("nfs"), failure(variant="orion"), initramfs={"bytes": 5})) == []
    assert [figure.cell for figure in bars(document(failure(), released()))] == ["daemon"]


def test_bars_are_shown():
    found = document(sample("nfs"), released(userland=2.0), initramfs={"bytes": 5_700_000})
    text = console_text(found)
    assert re.search(r"userland at 0 ms, orion to nfs +≤ 1 × +2 × +missed", text)
    assert re.search(r"initramfs image +≤ 6 MB +5.70 MB +met", text)
    assert "2 of 4 bars met" not in text
    assert "3 of 4 bars met" in text
    page = report.page(found)
    assert "<h2>Bars</h2>" in page
    assert "node 7 (ab12)" in page
    assert "<h2>Bars</h2>" not in report.page(document(sample()))
