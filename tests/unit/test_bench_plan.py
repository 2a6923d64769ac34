"""Which boots a bench does, in which order, and what each guest is told."""

from collections import Counter

import pytest

from orioncache.bench.plan import VARIANTS, Link, Run, choose, plan
from orioncache.bench.scene import Scene
from orioncache.bench.virtual import virtual_clock
from orioncache.errors import UserError

SERVERS = ["10.77.0.11", "10.77.0.12"]


def test_every_variant_link_and_run_is_there_once():
    runs = plan(choose(["nfs", "orion", "ram"]), [Link(0), Link(1), Link(10)], 4)
    cells = Counter((run.variant.name, run.link.rtt_ms, run.number) for run in runs)
    assert len(cells) == 3 * 3 * 4
    assert set(cells.values()) == {1}
    assert len({run.name for run in runs}) == len(runs)


def test_variants_alternate_and_take_turns_in_beginning():
    runs = plan(choose(["nfs", "orion"]), [Link(1)], 4)
    assert [run.variant.name for run in runs] == ["nfs", "orion", "orion", "nfs"] * 2
    assert [run.number for run in runs] == [1, 1, 2, 2, 3, 3, 4, 4]


def test_variants_come_in_the_order_asked_for():
    assert [variant.name for variant in choose(["ram", "nfs"])] == ["ram", "nfs"]


@pytest.mark.parametrize(("names", "what"), [(["nfs", "zfs"], "no variant 'zfs'"), (["nfs", "nfs"], "twice")])
def test_wrong_variants_are_told(names, what):
    with pytest.raises(UserError, match=what):
        choose(names)


@pytest.mark.parametrize(
    ("name", "root"),
    [
        ("nfs", "root=nfs4:10.77.0.11:/export"),
        ("nfs-tuned", "root=nfs4:10.77.0.11:/export"),
        ("orion", "root=orion:10.77.0.11:/export,10.77.0.12:/export"),
        ("nbd-squashfs", "root=dir:/bench/nbd"),
        ("ram", "root=dir:/bench/tmpfs"),
    ],
)
def test_a_variant_says_where_the_root_comes_from(name, root):
    words = VARIANTS[name].command_line(SERVERS, "/export")
    assert [word for word in words if word.startswith("root=")] == [root]
    assert ("bench.tmpfs=1" in words) == (name == "ram")


def test_only_the_tuned_variant_is_tuned():
    tuned = VARIANTS["nfs-tuned"].command_line(SERVERS, "/")
    assert "nconnect=4" in " ".join(tuned)
    assert "bench.readahead=2048" in tuned
    for name in ("nfs", "orion", "ram"):
        words = " ".join(VARIANTS[name].command_line(SERVERS, "/"))
        assert "readahead" not in words
        assert "nfsopts" not in words


@pytest.mark.parametrize(("name", "bundle"), [("orion", "off"), ("orion-profile", "default")])
def test_a_variant_says_which_bundle_it_streams(name, bundle):
    words = VARIANTS[name].command_line(SERVERS, "/")
    assert [word for word in words if "bundle" in word] == [f"orion.bundle={bundle}"]
    assert VARIANTS[name].bundled == (bundle != "off")


def test_the_block_device_has_one_server_and_no_nfs_mounts():
    words = VARIANTS["nbd-squashfs"].command_line(SERVERS, "/")
    assert "bench.nbd=10.77.0.11" in words
    # root=dir: leaves the network to the hook that connects the device.
    assert not [word for word in words if "nfs" in word or word.startswith("orion.")]
    for name in ("nfs", "orion", "ram"):
        assert "bench.nbd" not in " ".join(VARIANTS[name].command_line(SERVERS, "/"))


def test_the_virtual_clock_starts_what_a_variant_needs(tmp_path):
    files = {name: tmp_path / name for name in ("kernel", "initramfs", "initrd", "root", "disk")}
    squashed = {"squashed": tmp_path / "squashed", "squashed_disk": tmp_path / "squashed.ext4"}
    scene = Scene(**files, **squashed, init="/sbin/init", servers=3)
    with virtual_clock(scene) as machine:
        block, plain = (machine(Run(VARIANTS[name], Link(1), 1)) for name in ("nbd-squashfs", "nfs"))
    assert block.disk == tmp_path / "squashed.ext4"
    assert plain.disk == tmp_path / "disk"
    assert "bench.servers=1" in block.append
    assert "bench.servers=3" in plain.append
    assert "bench.delay=500" in block.append


def test_a_link_is_halved_for_each_direction():
    assert Link(10).command_line() == ["bench.delay=5000"]
    assert Link(0.5).command_line() == ["bench.delay=250"]
    assert Link(20, rate_mbit=100, jitter_ms=2, loss_percent=0.1).command_line() == [
        "bench.delay=10000",
        "bench.jitter=2000",
        "bench.loss=0.1",
        "bench.rate=100",
    ]
