"""`--fault`: what is understood, which boots it makes, what a guest is told, how figures are judged."""

import argparse
import dataclasses
import json

import msgspec
import pytest

from orioncache.bench import report
from orioncache.bench.cli import configure
from orioncache.bench.fault import DAEMON, KINDS, check, faultless, parse, plan
from orioncache.bench.plan import VARIANTS, Link, Run, choose
from orioncache.bench.probe import HEAD, probe_files
from orioncache.bench.probed import probed
from orioncache.bench.report.faults import matrices
from orioncache.bench.report.summary import cells
from orioncache.bench.sample import Probe, Sample, Stall
from orioncache.bench.scene import Scene
from orioncache.bench.verdict import parse as parse_port
from orioncache.bench.virtual import virtual_clock
from orioncache.errors import UserError
from orioncache.native import digests
from tests.unit.test_report import HOSTILE, console_text, document, failure, sample


@pytest.mark.parametrize(
    "text",
    [
        "kill@switch_root",
        "hang@userland+0.1:server=2",
        "blackhole@mount:server=1+2:for=2.5",
        "full-restart@idle",
        "corrupt@power-on",
    ],
)
def test_a_fault_is_named_as_it_was_given(text):
    assert [fault.name for fault in parse([text], 2)] == [text]


def test_faults_come_again_and_with_commas_each_once():
    found = parse(["kill@mount, hang@mount", "kill@mount"], 2)
    assert [fault.name for fault in found] == ["kill@mount", "hang@mount"]


def test_all_servers_can_fail():
    assert parse(["kill@idle:server=all"], 3)[0].servers == (1, 2, 3)


def test_the_matrix_has_each_kind_at_each_point():
    names = [fault.name for fault in parse(["all"], 2)]
    assert len(names) == len(set(names)) == 3 * len(KINDS) - 1
    # There is no cache when servers are mounted.
    assert [name for name in names if name.startswith(DAEMON)] == [
        f"{DAEMON}@switch_root",
        f"{DAEMON}@userland+0.1",
    ]
    assert len(parse(["all@idle"], 2)) == len(KINDS)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("kill", "at which point"),
        ("", "at which point"),
        ("explode@mount", "no kind 'explode'"),
        ("kill@noon", "no point 'noon'"),
        ("kill@userland", "seconds belong to userland"),
        ("kill@mount+1", "seconds belong to userland"),
        ("kill@userland+-1", "-1 s is out of range"),
        ("kill@userland+soon", "'soon' is no number"),
        ("kill@userland+nan", "nan s is out of range"),
        ("kill@mount:server=3", "no server '3'"),
        ("kill@mount:server=0", "no server '0'"),
        ("kill@mount:server=", "no server ''"),
        ("kill@mount:for=-2", "-2 s is out of range"),
        ("kill@mount:for=0", "0 s is out of range"),
        ("kill@mount:loud", "'loud' is not known"),
        ("corrupt@mount:for=2", "corrupt cannot be ended"),
        (f"{DAEMON}@mount", "no cache yet"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(text, what):
    with pytest.raises(UserError, match=what) as error:
        parse([text], 2)
    assert "\n" not in str(error.value)
    assert error.value.mend


@pytest.mark.parametrize(
    ("text", "variant", "what"),
    [
        (f"{DAEMON}@idle", "nfs-hard", "no cache to be killed"),
        ("kill@mount:server=2", "nfs-softerr", "server 1 alone"),
        ("kill@mount", "ram", "no NFS server"),
        ("all", "nbd-squashfs", "no NFS server"),
    ],
)
def test_a_fault_that_a_variant_cannot_have_is_told(text, variant, what):
    faults = parse([text], 2)
    with pytest.raises(UserError, match=what):
        check(faults, choose(["orion", variant]), [text])
    if text != "all":
        check(faults, choose(["orion"]), [text])


def test_each_fault_stands_beside_a_faultless_boot_of_each_variant():
    faults = parse(["all"], 2)
    runs = plan(faults, choose(["orion", "nfs-hard"]), [Link(1)], 1)
    assert [(run.variant.name, run.trouble) for run in runs[:2]] == [("orion", ""), ("nfs-hard", "")]
    assert len({run.name for run in runs}) == len(runs)
    assert len([run for run in runs if run.variant.name == "orion"]) == 1 + len(faults)
    assert not [
        run for run in runs if run.variant.name == "nfs-hard" and (run.trouble or "").startswith(DAEMON)
    ]


def test_the_guest_is_told(tmp_path):
    files = {name: tmp_path / name for name in ("kernel", "initramfs", "initrd", "root", "disk")}
    scene = Scene(**files, init="/sbin/init", copies=2)
    (fault,) = parse(["zeros@userland+0.25:server=1+2"], 2)
    with virtual_clock(scene) as machine:
        told = machine(Run(VARIANTS["nfs-hard"], Link(1), 1, fault.name, fault.command_line())).append
        plain = machine(Run(VARIANTS["nfs"], Link(1), 1)).append
    assert "bench.fault=zeros:switch:250:0:1+2" in told
    assert "bench.copies=1+2" in told
    assert any(word.startswith("bench.fault=none:") for word in faultless())
    assert not [word for word in plain if "fault" in word or "copies" in word]
    assert "orion.nfsopts=hard" in told


def test_a_full_restart_ends_by_itself_and_a_kill_when_told():
    told = [
        parse([text], 2)[0].command_line()[0]
        for text in ("full-restart@mount", "kill@mount:for=2", "kill@mount")
    ]
    assert told == [
        "bench.fault=full-restart:mount:0:5000:1",
        "bench.fault=kill:mount:0:2000:1",
        "bench.fault=kill:mount:0:0:1",
    ]


def test_the_list_has_the_digest_of_every_page(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "root"
    contents = {"usr/bin/a": b"a" * 5000, "etc/b": b"b" * 10, "usr/empty": b""}
    for name, data in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    (root / "usr/link").symlink_to("bin/a")
    files = probe_files(root, None, divergent=True)
    data = files["bench/probe.list"].read_bytes()
    found = {}
    while data:
        length, is_read, size = HEAD.unpack_from(data)
        at = HEAD.size + length
        pages = -(-size // 4096)
        found[data[HEAD.size : at].decode()] = (is_read, size, data[at : at + 8 * pages])
        data = data[at + 8 * pages :]
    whole = [digests.digest(digests.XXH3_128, page)[:8] for page in (b"a" * 4096, b"a" * 904, b"b" * 10)]
    assert found == {"usr/bin/a": (1, 5000, whole[0] + whole[1]), "etc/b": (0, 10, whole[2])}
    other = files["bench/other/tree/usr/bin/a"].read_bytes()
    assert len(other) == 5000
    assert other != contents["usr/bin/a"]
    assert b"guest probe" in files["hooks/overlay/60-probe"]


def port(**changes):
    sent = {
        "started": True,
        "finished": True,
        "reads": 100,
        "errors": 0,
        "wrong_bytes": 0,
        "checked_bytes": 4096,
        "checked_files": 1,
        "longest_ns": 70_000_000,
        "longest_at_ns": 11_200_000_000,
        "waiting": False,
        "stalls": [[11_200_000_000, 70_000_000]],
        "first_error": "",
        "first_wrong": "",
        **changes,
    }
    text = json.dumps(sent)
    return parse_port(
        b"mark kernel 900000000\nmark start 10900000000\nmark fault 11100000000\n"
        + f"file probe {len(text)}\n{text}\n".encode()
    )


def test_a_sample_says_what_the_probe_saw():
    found = probed(sample(), "kill@mount", port())
    assert found.fault == "kill@mount"
    assert (found.errors, found.wrong_bytes, found.longest_stall_s) == (0, 0, pytest.approx(0.07))
    assert found.switches is None
    assert found.extra_reads_pct is None
    # The scene that the bench set from 0.9 to 10.9 s is not on the boot's clock.
    assert found.probe.stalls == [Stall(pytest.approx(1.2), pytest.approx(0.07))]
    assert found.probe.fault_at_s == pytest.approx(1.1)
    assert found.probe.fault_end_s is None


def test_the_caches_own_figures_are_taken_and_its_longer_stall_too():
    failover = {"switches": 2, "extra_reads_pct": 1.5, "longest_stall_ms": 300.0}
    found = probed(sample(cache={"failover": failover}), "kill@mount", port())
    assert (found.switches, found.extra_reads_pct) == (2, 1.5)
    assert found.longest_stall_s == pytest.approx(0.3)


def test_a_boot_that_failed_is_an_error_too():
    assert probed(failure(), "kill@mount", port(errors=3)).errors == 4
    silent = probed(failure(), "kill@mount", parse_port(b""))
    assert (silent.errors, silent.wrong_bytes, silent.longest_stall_s, silent.probe) == (1, None, None, None)


def test_without_a_root_there_is_no_stall():
    assert probed(failure(), "kill@mount", port(started=False, longest_ns=0)).longest_stall_s is None


def faulty(fault, variant="orion", stall=0.1, userland=1.0, **changes):
    probe = Probe(
        100, 0, 4096, 1, finished=True, stalls=[Stall(1.6, stall)], fault_at_s=1.5 if fault else None
    )
    values = {"fault": fault, "errors": 0, "wrong_bytes": 0, "longest_stall_s": stall, "probe": probe}
    return sample(variant, 1.0, userland=userland, **{**values, **changes})


@pytest.mark.parametrize(
    ("fault", "changes", "missed"),
    [
        ("kill@mount", {}, []),
        ("kill@mount", {"stall": 0.3}, ["stall 0.300 > 0.25 s"]),
        ("hang@mount", {"stall": 0.3}, []),
        ("hang@mount", {"stall": 0.41}, ["stall 0.410 > 0.4 s"]),
        ("flap@mount", {"stall": 5.0}, []),
        ("flap@mount", {"userland": 1.7}, ["boot 1.28 × > 1.25"]),
        ("reset@mount", {"errors": 1}, ["1 error"]),
        ("corrupt@mount", {"wrong_bytes": 4096}, ["4,096 wrong bytes"]),
        ("corrupt@mount", {"probe": None}, ["no byte was checked"]),
        ("kill@mount:server=1+2:for=5", {"stall": 11.0, "userland": 12.0}, []),
        ("kill@mount:server=1+2:for=5", {"errors": 1}, ["1 error"]),
    ],
)
def test_each_bar_can_be_missed(fault, changes, missed):
    (matrix,) = matrices(document(faulty(""), faulty(fault, **changes)))
    assert matrix.rows[fault]["orion"].missed == missed


def test_a_boot_that_fails_misses_and_so_does_one_without_a_faultless_one():
    dead = faulty("kill@mount", ok=False, boot_s=None, phases_s=None, error="it hung", errors=1)
    (matrix,) = matrices(document(faulty(""), dead))
    assert matrix.rows["kill@mount"]["orion"].missed == ["it did not boot", "1 error"]
    (matrix,) = matrices(document(faulty("kill@mount")))
    assert matrix.rows["kill@mount"]["orion"].missed == ["there is no faultless boot to hold it against"]


def test_of_several_runs_the_worst_counts():
    runs = [faulty("kill@mount", stall=stall, userland=1 + stall) for stall in (0.1, 0.2, 0.15)]
    held = matrices(document(faulty(""), *runs))[0].rows["kill@mount"]["orion"]
    assert held.stall_s == 0.2
    assert held.boot_times == pytest.approx(2.7 / 2.5)


def test_the_tables_stand_side_by_side_and_boots_with_faults_are_in_no_other():
    dead = faulty("kill@mount", "nfs-hard", ok=False, boot_s=None, phases_s=None, error="it hung", errors=1)
    dead = msgspec.structs.replace(
        dead, longest_stall_s=200.0, probe=msgspec.structs.replace(dead.probe, waiting=True)
    )
    found = document(
        *(faulty("", name) for name in ("nfs-hard", "orion")), dead, faulty("kill@mount", stall=0.3)
    )
    assert [len(cell.runs) for cell in cells(found)] == [1, 1]
    text = console_text(found, 200)
    (line,) = (line for line in text.splitlines() if line.startswith("kill@mount"))
    # The cache comes first, whatever ran first.
    assert line.split()[1:7] == ["0.300", "1.00", "0", "0", ">200.000", "failed"]
    assert "missed: stall 0.300 > 0.25 s" in line
    assert "orion: 0 of 1 faults within all bars" in text
    page = report.page(found)
    assert "kill@mount" in page
    assert "a read waited for 0.300 s" in page
    assert "missed: stall 0.300" in page


def test_nothing_that_a_guest_says_breaks_table_or_page():
    wrong = faulty(HOSTILE, errors=1)
    wrong = msgspec.structs.replace(wrong, probe=msgspec.structs.replace(wrong.probe, first_error=HOSTILE))
    found = document(faulty(""), wrong)
    assert "\x1b" not in console_text(found, 400)
    assert "<script src" not in report.page(found)


def test_a_bench_without_faults_says_nothing_of_them():
    found = document(sample(), sample("orion"))
    assert "Faults" not in console_text(found)
    assert "Faults" not in report.page(found)


def test_older_documents_are_read():
    raw = json.loads(msgspec.json.encode(sample()))
    for name in ("fault", "errors", "wrong_bytes", "longest_stall_s", "switches", "extra_reads_pct", "probe"):
        del raw[name]
    assert msgspec.json.decode(json.dumps(raw), type=Sample) == sample()


def test_the_help_names_every_kind_and_bar_kinds_are_documented():
    parser = argparse.ArgumentParser()
    configure(parser)
    text = "".join(parser.format_help().split())
    assert all(kind.name + ":" in text for kind in KINDS.values())
    assert all(dataclasses.asdict(kind)["help"] for kind in KINDS.values())
