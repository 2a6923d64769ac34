"""The index from files to digests."""

from hypothesis import given
from hypothesis import strategies as st

from orioncache.store import LiveIndex, file_version

stamps = st.integers(-(1 << 63), (1 << 64) - 1)
versions = st.tuples(st.binary(max_size=80), st.integers(0, (1 << 63) - 1), stamps, stamps)


@given(versions, versions)
def test_versions_tell_files_apart(one, other):
    assert (file_version(*one) == file_version(*other)) == (one == other)
    assert len(file_version(*one)) == 16


def test_each_field_counts():
    file = (b"inode 7", 4096, 10**18, 10**18)
    names = {file_version(*file)} | {
        file_version(*(*file[:at], changed, *file[at + 1 :]))
        for at, changed in enumerate((b"inode 8", 4097, 10**18 + 1, 10**18 + 1))
    }
    assert len(names) == 5


entries = st.tuples(
    st.sampled_from((b"a" * 16, b"b" * 16)), st.integers(0, 6), st.binary(min_size=16, max_size=16)
)


@given(st.lists(entries), st.integers(0, 5))
def test_what_it_knows_is_the_last_that_was_put(history, capacity):
    index = LiveIndex(capacity)
    last: dict[tuple[bytes, int], bytes] = {}
    for version, block, digest in history:
        index.put(version, block, digest)
        last[version, block] = digest
        assert index.get(version, block) == (digest if capacity else None)
        assert len(index) <= capacity == index.capacity

    for (version, block), digest in last.items():
        assert index.get(version, block) in (digest, None)
    assert len(index) == min(capacity, len(last))


def test_dropped_entries_are_unknown():
    index = LiveIndex()
    index.put(b"v" * 16, 1 << 40, b"d" * 16)
    index.drop(b"v" * 16, 1 << 40)
    index.drop(b"v" * 16, 1)

    assert index.get(b"v" * 16, 1 << 40) is None
    assert len(index) == 0
