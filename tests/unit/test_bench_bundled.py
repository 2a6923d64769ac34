"""The bench's release with a bundle: recorded once for each root and workload."""

import dataclasses
import os
from pathlib import Path

import pytest

from orioncache.bench import recorded as recording
from orioncache.bench.bundled import bundled_release, check_bundle
from orioncache.bench.plan import Link
from orioncache.bench.qemu import Outcome
from orioncache.bench.scene import Scene
from orioncache.bench.verdict import Report
from orioncache.errors import UserError
from orioncache.profile import format as profiles
from orioncache.profile.diff import diff, load
from orioncache.release.bundle import Bundle, place
from orioncache.release.content import open_manifest
from orioncache.trace.format import HIT, READ, Record, Trace, TracedFile, encode
from tests.release_writer import directory, file, write_manifest, write_release

BLOCK = 128 << 10


@pytest.fixture
def scene(tmp_path, monkeypatch):
    monkeypatch.setenv("ORION_CACHE", str(tmp_path / "cache"))
    root = directory({b"sh": file(os.urandom(3 * BLOCK))})
    release = write_release(tmp_path / "release", *write_manifest(root, block_size=BLOCK))
    here = Path("x")
    return Scene(here, here, here, here, here, "/sbin/init", release=release, release_disk=here, accel="kvm")


@pytest.fixture
def recorded(scene, monkeypatch):
    """The boots that were asked for, as command lines; each reads a bit of the only file."""
    manifest = open_manifest(scene.release)
    trace = Trace(
        [Record(5000, 4096, 0, 8192, 1, 1, READ, HIT, "sh", 0)], 0, True, False, 0, "test", "1",
        manifest.header.digest, 1, BLOCK, {1: TracedFile("sh", 3 * BLOCK)},
        {(1, 0): manifest.block(1, 0).digest},
    )  # fmt: skip
    done = []

    def boot(machine, directory, timeout):
        done.append(machine)
        return Outcome(Report({}, {"trace": encode(trace)}, [], "ok", ""), "", [], 1.0)

    monkeypatch.setattr(recording, "boot", boot)
    return done


WORKLOAD = {"bench/workload": b"#!/bin/sh\n"}


def make(scene, extra=WORKLOAD, **options):
    return bundled_release(scene, extra, **{"timeout": 1, "record": True, **options})


def test_a_boot_is_recorded_page_by_page_and_becomes_a_bundle(scene, recorded):
    path = make(scene)
    (machine,) = recorded
    assert machine.virtual
    assert machine.accel == "tcg"
    assert machine.disk == scene.release_disk
    assert {"orion.trace=touch", "orion.bundle=off", *Link(0).command_line()} <= set(machine.append)
    bundle = Bundle(place(path, "default"))
    assert [(chunk.inode, chunk.offset, chunk.length) for chunk in bundle.chunks] == [(1, 4096, 8192)]
    assert (path / "manifest").read_bytes() == (scene.release / "manifest").read_bytes()
    found = diff(load(bundle.path), load(path.parent / "boot.trace"))
    assert (found.recall, found.waste) == (1, 0)
    assert profiles.read(path.parent / "boot.profile").bytes == 8192
    check_bundle(path)
    assert not (scene.release / "bundles").exists()


def test_it_is_recorded_once_for_each_root_workload_and_init(scene, recorded):
    first = make(scene)
    assert make(scene) == first
    assert make(dataclasses.replace(scene, append=["orion.read_around=0", "bench.x=1"])) == first
    assert len(recorded) == 1
    others = {
        make(scene, {"bench/workload": b"#!/bin/sh\nexit 0\n"}),
        make(dataclasses.replace(scene, init="/bin/other")),
        make(dataclasses.replace(scene, append=["systemd.unit=x"])),
    }
    assert len(recorded) == 4
    assert len(others | {first}) == 4
    assert all(path.is_dir() for path in others)


def test_words_for_the_cache_are_not_there_when_it_is_recorded(scene, recorded):
    make(dataclasses.replace(scene, append=["orion.trace=off", "quiet"]))
    assert "quiet" in recorded[0].append
    assert "orion.trace=off" not in recorded[0].append


def test_old_ones_go(scene, recorded):
    made = [make(scene, {"w": bytes([number])}) for number in range(6)]
    assert [path.is_dir() for path in made] == [False, False, True, True, True, True]


def test_what_was_not_recorded_cannot_be_had_without_a_boot(scene, recorded):
    with pytest.raises(UserError, match="no boot of this root"):
        make(scene, record=False)
    first = make(scene)
    assert make(scene, record=False) == first


@pytest.mark.parametrize(
    ("report", "error", "said"),
    [({}, "", "sent no trace"), ({}, "it hung", "failed: it hung"), ({"trace": b"x"}, "", "is no trace")],
)
def test_a_boot_that_says_nothing_leaves_nothing(scene, monkeypatch, report, error, said):
    outcome = Outcome(Report({}, report, [], "ok", ""), error, [], 1.0)
    monkeypatch.setattr(recording, "boot", lambda *_: outcome)
    with pytest.raises(UserError, match=said):
        make(scene)
    with pytest.raises(UserError, match="no boot of this root"):
        make(scene, record=False)


def test_a_release_without_a_bundle_is_told(scene):
    with pytest.raises(UserError, match="has no bundle"):
        check_bundle(scene.release)
