"""Two readers of manifests, C's and Python's, against each other and the tree that was described."""

import contextlib
import errno
import hashlib
import os
import random
import stat
import time

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from orioncache.native import digests
from orioncache.native.manifest import NativeManifest
from orioncache.release import format as layout
from orioncache.release.format import HOLE, ManifestError, Section
from orioncache.release.manifest import Inode as PythonInode
from orioncache.release.manifest import Manifest
from tests.release_writer import Node, assemble, directory, file, seal, symlink, write_manifest

names = st.binary(min_size=1, max_size=12).filter(lambda n: n not in (b".", b"..") and not set(n) & {0, 47})
contents = st.one_of(
    st.binary(max_size=30),
    st.lists(st.sampled_from([bytes(4096), b"a" * 4096, b"b" * 4096, b"c" * 4096]), max_size=6).map(b"".join),
    st.tuples(st.sampled_from([4096, 8192, 12288]), st.binary(max_size=9)).map(lambda p: b"x" * p[0] + p[1]),
)
xattrs = st.dictionaries(
    st.sampled_from([b"user.a", b"user.b", b"system.posix_acl_access"]), st.binary(max_size=9), max_size=3
)
leaves = st.one_of(
    st.builds(file, contents, st.integers(0, 0o7777), xattrs=xattrs, mtime_ns=st.integers(-(2**62), 2**62)),
    st.builds(symlink, st.binary(min_size=1, max_size=40).filter(lambda t: 0 not in t)),
    st.builds(Node, st.just(stat.S_IFCHR | 0o600), rdev=st.integers(0, 2**32 - 1)),
    st.builds(Node, st.sampled_from([stat.S_IFIFO, stat.S_IFSOCK]), owner=st.just((1000, 2**32 - 2))),
)
nodes = st.recursive(
    leaves, lambda inner: st.builds(directory, st.dictionaries(names, inner, max_size=5)), max_leaves=20
)
trees = st.builds(directory, st.dictionaries(names, nodes, max_size=6), xattrs=xattrs)
kinds = st.sampled_from(sorted(digests.KINDS.values()))


def answer(call, *arguments):
    """What a call gives, or the error that it raises."""
    try:
        found = call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return tuple(found) if isinstance(found, tuple) else found


def everything(manifest: Manifest | NativeManifest, asked: random.Random) -> list:
    """Answers about all inodes there are, and one that is not."""
    said: list = []
    for number in range(min(manifest.inodes, 300) + 1):
        inode = answer(lambda number=number: plain(manifest.inode(number)))
        said.append((number, inode))
        for position in range(min(inode[0] if isinstance(inode, tuple) else 1, 20) + 1):
            entry = answer(manifest.entry, number, position)
            said.append(entry)
            if isinstance(entry, tuple):
                said.append(answer(manifest.lookup, number, entry[0]))
                said.append(answer(manifest.lookup, number, entry[0] + b"!"))
        for name in (b".", b"..", b"", b"a", b"x" * 255, b"x" * 256):
            said.append(answer(manifest.lookup, number, name))
        said.append(answer(manifest.target, number))
        said.append(answer(manifest.xattrs, number))
        for name in (b"user.a", b"user.b", b"user.c", b"system.posix_acl_access"):
            said.append(answer(manifest.xattr, number, name))
        for at in (0, 1, 2, 3, 7, (1 << 32) - 1, (1 << 43) + asked.randrange(9), (1 << 51) - 1):
            said.append(answer(manifest.block, number, at))
        said.append(answer(manifest.allocated, number))
        said.append(answer(manifest.file_digest, number))
    return said


def plain(inode) -> tuple:
    records = inode.records if isinstance(inode, PythonInode) else inode.count
    same = [
        "size",
        "mtime",
        "mtime_nsec",
        "mode",
        "uid",
        "gid",
        "nlink",
        "rdev",
        "first",
        "parent",
        "xattr_count",
    ]
    return (records, *(getattr(inode, field) for field in same))


def agree(data: bytes) -> bool:
    """Both readers open it and say the same, or both refuse it; whether they opened it."""
    try:
        python = Manifest(data)
    except ManifestError:
        with pytest.raises(OSError) as refused:
            NativeManifest(data)
        assert refused.value.errno in (errno.EINVAL, errno.EPROTONOSUPPORT, errno.EBADMSG)
        return False
    native = NativeManifest(data)
    assert native.verify() == python.verify()
    seed = random.random()
    assert everything(native, random.Random(seed)) == everything(python, random.Random(seed))
    return True


@settings(deadline=None)
@given(trees, kinds)
def test_both_readers_give_the_tree_back(tree, kind):
    data, pack = write_manifest(tree, kind=kind)
    manifest, native = Manifest(data), NativeManifest(data)

    assert native.check() is None
    assert native.verify()
    assert agree(data)
    todo: list[tuple[int, Node, bytes]] = [(0, tree, b"")]
    while todo:
        number, node, path = todo.pop()
        inode = manifest.inode(number)
        assert (inode.mode, (inode.uid, inode.gid), inode.rdev) == (node.mode, node.owner, node.rdev)
        assert inode.mtime * 10**9 + inode.mtime_nsec == node.mtime_ns
        assert {name: manifest.xattr(number, name) for name in manifest.xattrs(number)} == node.xattrs
        assert manifest.path(number) == native.path(number) == path
        if stat.S_ISDIR(node.mode):
            listed = [manifest.entry(number, at).name for at in range(inode.records)]
            assert listed == sorted(node.children)
            for name, child in node.children.items():
                todo.append((manifest.lookup(number, name), child, path + b"/" * bool(path) + name))
        elif stat.S_ISLNK(node.mode):
            assert manifest.target(number) == node.content
        elif stat.S_ISREG(node.mode):
            assert inode.size == len(node.content)
            assert content(manifest, number, pack) == node.content
            assert manifest.file_is_good(number)
            assert native.file_is_good(number)


def content(manifest: Manifest, number: int, pack: bytes) -> bytes:
    parts = []
    for at in range(-(-manifest.inode(number).size // manifest.header.block_size)):
        block = manifest.block(number, at)
        part = bytes(block.length) if block.number == HOLE else pack[block.offset :][: block.length]
        assert block.digest in (None, digests.digest(manifest.header.digest_kind, part))
        parts.append(part)
    return b"".join(parts)


SAMPLE, _ = write_manifest(
    directory(
        {
            b"bin": directory({b"sh": file(b"s" * 9000, xattrs={b"user.a": b"1", b"user.b": b""})}),
            b"etc": directory({b"empty": directory(), b"motd": file(b"hello")}),
            b"sparse": file(bytes(8192) + b"x" * 4096 + bytes(5000)),
            b"link": symlink(b"bin/sh"),
            b"null": Node(stat.S_IFCHR | 0o666, rdev=0x103),
        }
    )
)


def test_cut_short_anywhere():
    for length in range(0, len(SAMPLE), 7):
        assert not agree(SAMPLE[:length])
        if length >= layout.HEADER_SIZE:
            # And with a header that says so, as someone would who means harm.
            agree(seal(SAMPLE[:16] + length.to_bytes(8, "little") + SAMPLE[24:length]))


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.integers(8, len(SAMPLE) - 1), st.integers(1, 255)), min_size=1, max_size=4))
def test_bytes_that_are_not_right(changes):
    damaged = bytearray(SAMPLE)
    for at, change in changes:
        damaged[at] ^= change
    if agree(bytes(damaged)):
        agree(seal(bytes(damaged)))


@settings(deadline=None, max_examples=300)
@given(
    st.integers(56, len(SAMPLE) // 4 - 1).map(lambda word: word * 4),
    st.sampled_from([0, 1, 2, 7, 255, 1 << 16, 1 << 31, (1 << 32) - 2, (1 << 32) - 1]),
)
def test_numbers_that_are_out_of_range(at, value):
    agree(seal(SAMPLE[:at] + value.to_bytes(4, "little") + SAMPLE[at + 4 :]))


def test_a_flipped_bit_is_found_by_the_digest():
    assert xxhash.xxh3_128_digest(SAMPLE[:480] + SAMPLE[512:]) == SAMPLE[480:496]
    for bit in range(8 * 56, 8 * len(SAMPLE), 37):
        damaged = bytearray(SAMPLE)
        damaged[bit // 8] ^= 1 << bit % 8
        with contextlib.suppress(ManifestError):
            assert not Manifest(bytes(damaged)).verify()


def test_the_digests_are_what_their_names_say():
    data = os.urandom(100_000)
    assert digests.digest(digests.XXH3_128, data) == xxhash.xxh3_128_digest(data)
    assert digests.digest(digests.BLAKE2B_256, data) == hashlib.blake2b(data, digest_size=32).digest()
    assert digests.digest(digests.SHA_256, data) == hashlib.sha256(data).digest()
    with pytest.raises(ValueError, match="kind 4"):
        digests.digest(4, data)


def test_a_signature_made_elsewhere_is_good():
    """PyNaCl signs what the specification says, and liborion takes it."""
    signing = pytest.importorskip("nacl.signing")
    key = signing.SigningKey(bytes(range(32)))
    digest = os.urandom(32)
    for kind in (digests.BLAKE2B_256, digests.SHA_256):
        signature = key.sign(b"orion manifest v1\0" + kind.to_bytes(4, "little") + digest).signature
        assert digests.signature_is_good(kind, digest, signature, bytes(key.verify_key))
        assert not digests.signature_is_good(kind, digest[::-1], signature, bytes(key.verify_key))
        assert not digests.signature_is_good(kind, digest, signature[:-1], bytes(key.verify_key))
    assert not digests.signature_is_good(digests.XXH3_128, digest[:16], signature, bytes(key.verify_key))


def million() -> bytes:
    """1000 directories of 999 files, each of one block of its own; made in bulk."""
    folders, files = 1000, 999
    text = b"".join(b"d%05d" % number for number in range(folders))
    text += b"".join(b"f%05d" % number for number in range(files))
    inodes = [layout.INODE.pack(0, 0, 0, 0o40755, 0, 0, 2 + folders, 0, 0, folders, 0, 0, 0, 0)]
    dirents = [layout.DIRENT.pack(6 * n, 1 + n, 6, 4, 0) for n in range(folders)]
    for folder in range(folders):
        first = folders + folder * files
        inodes.append(layout.INODE.pack(0, 0, 0, 0o40755, 0, 0, 2, 0, first, files, 0, 0, 0, 0))
    for folder in range(folders):
        first = 1 + folders + folder * files
        dirents += [layout.DIRENT.pack(6 * (folders + n), first + n, 6, 8, 0) for n in range(files)]
    count = folders * files
    inodes += [layout.INODE.pack(100, 5, 0, 0o100644, 0, 0, 1, 0, n, 1, 0, 0, 0, 0) for n in range(count)]
    return assemble(
        [
            b"".join(inodes),
            b"".join(dirents),
            b"".join([layout.EXTENT.pack(0, 1, n, 0) for n in range(count)]),
            b"".join([layout.PLACE.pack(100 * n, 0, 100) for n in range(count)]),
            b"".join([digests.digest(digests.XXH3_128, b"%d" % n) for n in range(count)]),
            b"",
            b"",
            layout.PACK.pack(bytes(16), 100 * count, 0),
            text,
        ],
        kind=digests.XXH3_128,
        block_size=131072,
        content_bytes=100 * count,
        stored_bytes=100 * count,
    )


def test_a_million_inodes():
    data = million()
    inodes = Section.INODES
    count = Manifest(data).header.sections[inodes][1]
    assert count == 1_000_001
    native = NativeManifest(data)
    started = time.perf_counter()
    assert native.check() is None
    checked = time.perf_counter() - started
    started = time.perf_counter()
    assert native.verify()
    verified = time.perf_counter() - started
    python = Manifest(data)
    started = time.perf_counter()
    for reader in (native, python):
        assert reader.lookup(reader.lookup(0, b"d00500"), b"f00007") == 1 + 1000 + 500 * 999 + 7
        for missing in (b"d", b"d01000", b"d005000", b"zzz", b"D00500"):
            assert answer(reader.lookup, 0, missing) == "ENOENT"
        assert [reader.entry(1000, at).name for at in (0, 998)] == [b"f00000", b"f00998"]
        assert reader.block(1_000_000, 0)[:3] == (998_999, 100, 99_899_900)
    answered = time.perf_counter() - started
    print(
        f"\n{count:,} inodes: {len(data):,} bytes, {len(data) / count:.0f} for each; verified in "
        f"{1000 * verified:.0f} ms, {20 / answered / 1000:.0f} thousand questions/s from Python, "
        f"every record checked in {1000 * checked:.0f} ms"
    )
    assert verified < 1.0
