"""From traces to the bundle of a release, of the same one and of the next."""

import json
import os
import random
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from releases import BLOCK, build, run, verify

from orioncache.cli import main
from orioncache.errors import UserError
from orioncache.native import digests
from orioncache.profile import format as profiles
from orioncache.profile.build import of_boot
from orioncache.profile.carry import carry
from orioncache.profile.diff import diff, load
from orioncache.release.bundle import Bundle
from orioncache.release.content import open_manifest
from orioncache.release.manifest import Manifest
from orioncache.trace.format import HIT, READ, Record, Trace, TracedFile, write
from tests.release_writer import directory, file, write_manifest

PAGE = 4096
RNG = random.Random(11)


@pytest.fixture
def tree(tmp_path):
    top = tmp_path / "tree"
    (top / "d").mkdir(parents=True)
    for name, length in (("bin", 3 * BLOCK + 500), ("lib", 2 * BLOCK), ("d/conf", 700), ("d/twin", 5000)):
        (top / name).write_bytes(RNG.randbytes(length))
    (top / "d/other twin").write_bytes((top / "d/twin").read_bytes())
    os.truncate(top / "lib", 4 * BLOCK)
    return top


@pytest.fixture
def store(tmp_path, tree):
    build(tree, tmp_path / "store", "1")
    return tmp_path / "store"


def place(store, version):
    return store / "releases/t" / version


def boot(release, reads):
    """The trace of a boot of a release that read these: (ms, path, offset, length)."""
    manifest = open_manifest(release)
    records, files, blocks = [], {}, {}
    for ms, path, offset, length in reads:
        inode = 0
        for name in path.encode().split(b"/"):
            inode = manifest.lookup(inode, name)
        size = manifest.inode(inode).size
        end = min(size, offset + length)
        files[inode] = TracedFile(path, size)
        records.append(Record(round(ms * 1e6), offset, 0, end - offset, inode, 1, READ, HIT, "sh", 0))
        for number in range(offset // BLOCK, -(-end // BLOCK)):
            blocks[inode, number] = manifest.block(inode, number).digest
    header = manifest.header
    return Trace(
        records, 0, True, False, 0, header.name, header.label, header.digest, header.digest_kind,
        header.block_size, files, blocks,
    )  # fmt: skip


READS = [
    (1, "bin", 0, BLOCK + PAGE),
    (2, "lib", PAGE, 2 * PAGE),
    (3, "d/conf", 0, PAGE),
    (40, "bin", 3 * BLOCK, PAGE),
    (50, "d/twin", 0, PAGE),
    (60, "d/other twin", PAGE, PAGE),
    (70, "lib", 3 * BLOCK, PAGE),  # a hole
]
READ_BYTES = BLOCK + PAGE + 2 * PAGE + 700 + 500 + PAGE + (5000 - PAGE)


@pytest.fixture
def profile(tmp_path, store):
    """A profile of a boot of release 1; its file, and beside it the trace."""
    write(boot(place(store, "1"), READS), tmp_path / "1.trace")
    assert main(["profile", "build", str(tmp_path / "1.trace"), "-o", str(tmp_path / "profile")]) == 0
    return tmp_path / "profile"


def bundled(release, role="default"):
    """path -> bytes of pages, in the order of a bundle."""
    manifest = open_manifest(release)
    found = {}
    for chunk, data in Bundle(release / f"bundles/{role}.bundle").contents():
        path = manifest.path(chunk.inode).decode()
        found[path] = found.get(path, 0) + len(data)
    return found


def test_a_bundle_has_what_the_boot_read_and_nothing_else(store, profile, tmp_path):
    facts = json.loads(run("bundle", store, "t", "--profile", profile, "--json").stdout)
    assert facts["path"] == str(place(store, "1") / "bundles/default.bundle")
    assert (facts["raw_bytes"], facts["same_bytes"], facts["gone_bytes"]) == (READ_BYTES, READ_BYTES, 0)
    assert list(bundled(place(store, "1"))) == ["bin", "lib", "d/conf", "d/twin", "d/other twin"]
    verify(store)
    found = diff(load(Path(facts["path"])), load(tmp_path / "1.trace"))
    assert (found.recall, found.waste, found.same_release) == (1, 0, True)
    assert found.had == READ_BYTES
    assert main(["profile", "diff", facts["path"], str(tmp_path / "1.trace"), "--min-recall", "100"]) == 0


def change(tree):
    """The next version: a part of a program changed, a library renamed, a file gone."""
    content = bytearray((tree / "bin").read_bytes())
    content[10:20] = b"new bytes!"
    (tree / "bin").write_bytes(content)
    (tree / "lib").rename(tree / "lib.2")
    (tree / "d/conf").unlink()


def test_a_build_with_a_profile_carries_it_to_the_next_release(store, tree, profile):
    change(tree)
    said = build(tree, store, "2", "--profile", profile, "--role", "kiosk")
    bundle = said["bundle"]
    assert bundle["role"] == "kiosk"
    assert bundle["guessed_bytes"] == BLOCK  # bin's first block
    assert bundle["moved_bytes"] == 2 * PAGE  # lib
    assert (bundle["gone_bytes"], bundle["gone_blocks"]) == (700, 1)
    assert bundle["same_bytes"] == PAGE + 500 + 5000
    assert list(bundled(place(store, "2"), "kiosk")) == ["bin", "lib.2", "d/twin", "d/other twin"]
    verify(store)
    text = run("build", tree, store, "--name", "t", "--profile", profile).stdout
    assert "bundle    role default" in text
    assert "1 blocks are gone" in text


def test_the_release_appears_with_its_bundle_or_not_at_all(store, tree, profile):
    (pack,) = (store / "packs").iterdir()
    data = bytearray(pack.read_bytes())
    data[100] ^= 1
    pack.write_bytes(data)
    (tree / "new").write_bytes(b"new")
    done = run("build", tree, store, "--name", "t", "--version", "2", "--profile", profile, code=1)
    assert "does not have its digest" in done.stderr
    assert not place(store, "2").exists()
    assert not list((store / "builds").iterdir())
    build(tree, store, "2")
    assert not (place(store, "2") / "bundles").exists()


def test_a_profile_of_which_nothing_is_left(store, tree, profile, tmp_path):
    for path in list(tree.rglob("*")):
        if path.is_file():
            path.unlink()
    (tree / "else").write_bytes(b"else")
    assert build(tree, store, "2", "--profile", profile)["bundle"] is None
    said = run("bundle", store, "t", "2", "--profile", profile, code=1).stderr
    assert "nothing of the profile is in the release" in said
    assert not (place(store, "2") / "bundles").exists()


@pytest.mark.parametrize("words", [("--digest", "sha256"), ("--block-size", "64k")])
def test_a_profile_that_cannot_fit_is_refused_before_the_build(store, tree, profile, words):
    done = run("build", tree, store, "--name", "t", "--version", "2", "--profile", profile, *words, code=1)
    assert "the profile has xxh3 digests of blocks of 131,072 bytes" in done.stderr
    assert not place(store, "2").exists()


def test_mistakes_with_profiles_are_told_before_the_build(store, tree, profile, tmp_path):
    (tmp_path / "bad").write_bytes(b"bad")
    for words, said in (
        (("--profile", tmp_path / "bad"), "no profile"),
        (("--profile", tmp_path / "none"), "No such file"),
        (("--profile", profile, "--role", "../x"), "no role"),
    ):
        assert said in run("build", tree, store, "--name", "t", *words, code=1).stderr
        assert said in run("bundle", store, "t", *words, code=1).stderr
    assert "has no release x" in run("bundle", store, "x", "--profile", profile, code=1).stderr


def test_a_signed_release_wants_to_be_signed_again(tmp_path, tree):
    store, key = tmp_path / "store", tmp_path / "key"
    build(tree, store, "1", "--digest", "blake2b")
    run("keygen", key)
    run("sign", store, "t", "--key", key)
    trace = boot(place(store, "1"), READS)
    profiles.write(of_boot(Path("t"), trace), tmp_path / "profile")
    assert "sign it again" in run("bundle", store, "t", "--profile", tmp_path / "profile").stderr
    run("verify", store, "--key", f"{key}.pub", code=1)
    run("sign", store, "t", "--key", key)
    run("verify", store, "--key", f"{key}.pub")


def test_rare_pages_are_left_out(store, tmp_path):
    release = place(store, "1")
    for number, reads in enumerate((READS[:1], READS[:1], READS[:3])):
        write(boot(release, reads), tmp_path / f"{number}")
    names = [str(tmp_path / f"{number}") for number in range(3)]
    assert main(["profile", "build", *names, "-o", str(tmp_path / "p"), "--role", "kiosk"]) == 0
    run("bundle", store, "t", "--profile", tmp_path / "p")
    assert list(bundled(release, "kiosk")) == ["bin"]
    run("bundle", store, "t", "--profile", tmp_path / "p", "--share", "30")
    assert list(bundled(release, "kiosk")) == ["bin", "lib", "d/conf"]
    assert Bundle(release / "bundles/kiosk.bundle").boots == 3


def test_a_release_that_changed_a_little_keeps_most_of_its_profile(tmp_path):
    """5% of the files changed, as rebuilt programs do: the same layout, other bytes here and there."""
    rng = random.Random(3)
    tree, store = tmp_path / "tree", tmp_path / "store"
    tree.mkdir()
    for number in range(100):
        (tree / f"{number}").write_bytes(rng.randbytes(rng.randrange(1, 2 * BLOCK)))
    build(tree, store, "1")
    reads = [(ms, f"{ms}", 0, rng.randrange(1, BLOCK)) for ms in range(100)]
    profiles.write(of_boot(Path("t"), boot(place(store, "1"), reads)), tmp_path / "profile")
    for number in range(0, 100, 20):
        (tree / f"{number}").write_bytes(rng.randbytes((tree / f"{number}").stat().st_size))
    build(tree, store, "2", "--profile", tmp_path / "profile")
    write(boot(place(store, "2"), reads), tmp_path / "2.trace")
    found = diff(load(place(store, "2") / "bundles/default.bundle"), load(tmp_path / "2.trace"))
    assert (found.recall, found.waste) == (1, 0)
    # By digest alone what changed is lost, and nothing else.
    by_digest = diff(load(tmp_path / "profile"), load(tmp_path / "2.trace"))
    assert not by_digest.same_release
    assert 0.9 < by_digest.recall < 0.99


def manifest_of(files):
    root = directory({name.encode(): file(content) for name, content in files.items()})
    return Manifest(write_manifest(root, block_size=PAGE)[0])


CONTENTS = [bytes([number]) * PAGE for number in range(1, 5)] + [bytes(PAGE)]
TREES = st.dictionaries(
    st.sampled_from("abcd"), st.lists(st.sampled_from(CONTENTS), max_size=4).map(b"".join), max_size=4
)


@given(TREES)
def test_places_are_all_places_of_a_content(files):
    manifest = manifest_of(files)
    kind = digests.XXH3_128
    expected = {}
    for name, content in files.items():
        for at in range(0, len(content), PAGE):
            block = content[at : at + PAGE]
            if any(block):
                place = manifest.lookup(0, name.encode()), at // PAGE
                expected.setdefault(digests.digest(kind, block), set()).add(place)
    wanted = {digests.digest(kind, block) for block in CONTENTS} | {bytes(16)}
    assert {digest: set(places) for digest, places in manifest.places(wanted).items()} == expected
    assert manifest.places(set()) == {}


@settings(max_examples=200)
@given(TREES, TREES)
def test_what_is_carried_has_the_content_or_the_place_that_it_had(old, new):
    before, after = manifest_of(old), manifest_of(new)
    reads = [(ms, name, at, PAGE) for ms, name in enumerate(old) for at in range(0, len(old[name]), PAGE)]
    try:
        profile = of_boot(Path("t"), trace_of(before, reads))
    except UserError:
        return  # nothing but holes
    carried = carry(profile, after)
    total = carried.same + carried.moved + carried.guessed
    assert total == sum(piece.length for piece in carried.pieces)
    assert total + carried.gone == profile.bytes
    content = {after.lookup(0, name.encode()): data for name, data in new.items()}
    have = {block for data in new.values() for block in split(data)}
    exact = 0
    for run_, piece in zip(
        [r for r in profile.runs if not is_gone(r, old, new, have)], carried.pieces, strict=True
    ):
        was = old[run_.path][run_.number * PAGE :][:PAGE]
        now = content[piece.inode][piece.offset : piece.offset + piece.length]
        exact += was == now
        if was in have:
            assert was == now
        else:
            assert piece.offset == run_.number * PAGE
    assert carried.same + carried.moved == exact * PAGE


def split(data):
    return [data[at : at + PAGE] for at in range(0, len(data), PAGE)]


def is_gone(run_, old, new, have):
    was = old[run_.path][run_.number * PAGE :][:PAGE]
    there = new.get(run_.path, b"")[run_.number * PAGE :][:PAGE]
    return was not in have and not any(there)


def trace_of(manifest, reads):
    records, files, blocks = [], {}, {}
    for ms, name, at, length in reads:
        inode = manifest.lookup(0, name.encode())
        files[inode] = TracedFile(name, manifest.inode(inode).size)
        records.append(Record(round(ms * 1e6), at, 0, length, inode, 1, READ, HIT, "", 0))
        blocks[inode, at // PAGE] = manifest.block(inode, at // PAGE).digest
    return Trace(
        records, 0, True, False, 0, "t", "1", manifest.header.digest, digests.XXH3_128, PAGE, files, blocks
    )
