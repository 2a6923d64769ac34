"""What is read from a guest's port, whole or cut off."""

import pytest

from orioncache.bench.sample import Nbd
from orioncache.bench.verdict import parse

MOUNTSTATS = """device sysfs mounted on /sys with fstype sysfs
device 10.77.0.11:/ mounted on /run/orion/server/1 with fstype nfs4 statvers=1.1
\topts:\tro,vers=4.1
\tbytes:\t1 2 3 4 1000 6 7 8
\tRPC iostats version: 1.1  p/v: 100003/4 (nfs)
\tper-op statistics
\t        NULL: 1 1 0 44 24 0 0 0 0
\t        READ: 5 5 0 1 1 0 0 0 0
\t       WRITE: 0 0 0 0 0 0 0 0 0

device 10.77.0.12:/ mounted on /run/orion/server/2 with fstype nfs4 statvers=1.1
\tbytes:\t1 2 3 4 234 6 7 8
\tper-op statistics
\t        READ: 2 2 0 1 1 0 0 0 0
device none mounted on / with fstype overlay
"""
RPC = "net 0 0 0 0\nrpc 1407 0 1409\nproc4 69 1 2 3\n"
MEMINFO = (
    "MemTotal:  1048576 kB\nMemFree: 1 kB\nMemAvailable: 786432 kB\nCached: 51200 kB\nHugePages_Total: 0\n"
)


def file(name, text):
    return f"file {name} {len(text.encode())}\n{text}\n"


MARKS = (
    "mark kernel 500000000\nmark start 13000000000\nmark initramfs 13100000000\nmark workload 14000000000\n"
)
WHOLE = (
    MARKS
    + "log hello\nlog verdict ok is what it prints\nmark ready 14600000000\n"
    + file("nfs", RPC)
    + file("mountstats", MOUNTSTATS)
    + file("meminfo", MEMINFO)
    + file("nbd", "     345        7    20000       12 0 0 0 0 0 9 12 0 0 0 0 0 0\n")
    + file("cache", '{"hits": 7}\n')
    + file("daemon", "Name:\tpython3\nVmRSS:\t   57344 kB\n")
    + "verdict ok\n"
).encode()


def test_a_whole_report():
    report = parse(WHOLE)
    assert report.verdict == "ok"
    assert report.log == ["hello", "verdict ok is what it prints"]
    phases = report.phases()
    assert (phases.kernel, phases.initramfs, phases.userland) == pytest.approx((0.5, 0.1, 1.5))
    assert phases.boot == pytest.approx(2.1)
    nfs = report.nfs()
    assert (nfs.calls, nfs.read_bytes) == (1407, 1234)
    assert nfs.operations == {"NULL": 1, "READ": 7}
    assert report.memory_mb() == {
        "total": 1024.0,
        "available": 768.0,
        "used": 256.0,
        "page_cache": 50.0,
        "daemon_rss": 56.0,
    }
    assert report.nbd() == Nbd(requests=345, read_bytes=10_240_000)
    assert report.cache() == {"hits": 7}


@pytest.mark.parametrize("length", range(0, len(WHOLE) - 1, 7))
def test_a_report_cut_off_anywhere_has_no_verdict_and_raises_nothing(length):
    report = parse(WHOLE[:length])
    assert report.verdict == ""
    report.phases()
    report.nfs()
    report.nbd()
    report.memory_mb()
    report.cache()


def test_a_failure_says_why_and_where():
    report = parse((MARKS + "verdict failed the workload exited with 3\n").encode())
    assert (report.verdict, report.message) == ("failed", "the workload exited with 3")
    assert report.phases() is None
    assert report.phase() == "workload"
    assert parse(b"").phase() == "kernel"
    assert parse(b"mark kernel 1\nmark start 2\n").phase() == "initramfs"


def test_a_guest_without_cache_or_network_has_none():
    report = parse(b"mark kernel 1\nverdict ok\n")
    assert report.nfs() is None
    assert report.nbd() is None
    assert report.cache() == {}
    assert report.memory_mb() == {}


def test_a_control_socket_that_answers_nonsense_is_told():
    assert "no JSON" in parse(file("cache", "nonsense").encode()).cache()["error"]


def test_a_file_of_any_bytes_comes_whole():
    content = bytes(range(256)) + b"\nverdict failed\nfile nfs 3\n"
    data = b"mark kernel 1\nfile trace %d\n%s\nverdict ok\n" % (len(content), content)
    report = parse(data)
    assert report.files == {"trace": content}
    assert report.text("trace").startswith("\0\x01")
    assert (report.text("nfs"), report.verdict) == ("", "ok")
    assert parse(data[:-20]).files == {}
