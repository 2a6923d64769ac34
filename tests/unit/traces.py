"""Traces to test with: one that is known, and any that there can be."""

from hypothesis import strategies as st

from orioncache.trace.format import (
    DIGEST_SIZES,
    ERROR,
    HIT,
    LATE,
    LENGTH_MAX,
    LOOKUP,
    MISS,
    READ,
    REASONS,
    SIZE_MAX,
    Fetch,
    Record,
    Trace,
    TracedFile,
)

BLOCK = 4096
START = 5_000_000_000
MS = 1_000_000


def record(at_ms, inode, offset=0, length=BLOCK, *, outcome=HIT, wait_ms=0.0, comm="sh", kind=READ, missed=0):
    """A record, some milliseconds after the start."""
    return Record(
        START + int(at_ms * MS), offset, int(wait_ms * MS), length, inode, 7, kind, outcome, comm, missed
    )


def sample(**changes):
    """Two programs that read two files: /bin/sh of three blocks, /data whose second block is a hole."""
    fields = {
        "records": [
            record(0, 1, length=0, kind=LOOKUP),
            record(1, 1, outcome=MISS, wait_ms=10, missed=1),
            record(12, 1, BLOCK, BLOCK + 100, outcome=LATE, wait_ms=2, missed=1),
            record(15, 2, 0, 2 * BLOCK, comm="cat", wait_ms=0.01),
            record(16, 2, 100, 200, comm="cat", wait_ms=0.01),
            record(20, 1, outcome=ERROR, wait_ms=5, comm="", missed=1),
        ],
        "started_ns": START,
        "first_touches": False,
        "degraded": False,
        "lost": 0,
        "release": "debian",
        "version": "1",
        "manifest_digest": bytes(range(16)),
        "digest_kind": 1,
        "block_size": BLOCK,
        "files": {1: TracedFile("bin/sh", 2 * BLOCK + 100), 2: TracedFile("data", 2 * BLOCK)},
        "digests": {
            (1, 0): b"a" * 16,
            (1, 1): b"b" * 16,
            (1, 2): b"c" * 16,
            (2, 0): b"a" * 16,
            (2, 1): None,
        },
    }
    return Trace(**{**fields, **changes})


def texts(most):
    """Names as bytes can be, without NUL, in at most so many bytes."""
    return st.binary(max_size=most).map(lambda raw: raw.replace(b"\0", b"").decode(errors="surrogateescape"))


def integers(bits):
    return st.integers(0, (1 << bits) - 1)


@st.composite
def traces(draw):
    """Any trace that the format can hold."""
    kind = draw(st.sampled_from(sorted(DIGEST_SIZES)))
    digest = st.binary(min_size=DIGEST_SIZES[kind], max_size=DIGEST_SIZES[kind])
    sizes = st.one_of(st.integers(0, SIZE_MAX), st.integers(0, 100_000))
    files = draw(st.dictionaries(integers(32), st.builds(TracedFile, texts(300), sizes), max_size=4))
    records = []
    for _ in range(draw(st.integers(0, 6)) if files else 0):
        inode = draw(st.sampled_from(sorted(files)))
        offset = draw(st.integers(0, files[inode].size))
        length = draw(st.integers(0, min(LENGTH_MAX, files[inode].size - offset)))
        numbers = [draw(integers(64)), offset, draw(integers(64)), length, inode, draw(integers(32))]
        records.append(
            Record(*numbers, draw(integers(1)), draw(integers(2)), draw(texts(15)), draw(integers(32)))
        )
    fetches = st.builds(
        Fetch,
        integers(64),
        st.integers(0, SIZE_MAX - LENGTH_MAX),
        integers(64),
        st.integers(0, LENGTH_MAX),
        integers(32),
        integers(32),
        st.booleans(),
        st.integers(0, len(REASONS) - 1),
        integers(32),
    )
    blocks = st.just({})
    if files:
        keys = st.tuples(st.sampled_from(sorted(files)), integers(32))
        blocks = st.dictionaries(keys, st.one_of(st.none(), digest.filter(any)), max_size=5)
    return Trace(
        records=sorted(records, key=lambda each: each.t_ns),
        started_ns=draw(integers(64)),
        first_touches=draw(st.booleans()),
        degraded=draw(st.booleans()),
        lost=draw(integers(64)),
        release=draw(texts(63)),
        version=draw(texts(63)),
        manifest_digest=draw(digest),
        digest_kind=kind,
        block_size=1 << draw(st.integers(12, 20)),
        files=files,
        digests=draw(blocks),
        fetches=tuple(sorted(draw(st.lists(fetches, max_size=3)), key=lambda each: each.t_ns)),
    )
