"""Trace files: what is written is read again, and whatever else is read is told."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orioncache.errors import UserError
from orioncache.trace import format
from orioncache.trace.format import AHEAD, Fetch, Part, decode, encode
from tests.unit.traces import BLOCK, record, sample, traces

HEADER = 256
RECORDS = 6
NAMES = HEADER + 64 * RECORDS


def changed(at, value):
    """The sample's bytes with others at one place."""
    data = bytearray(encode(sample()))
    data[at : at + len(value)] = value
    return bytes(data)


def u32(value):
    return struct.pack("<I", value)


@given(traces())
def test_what_is_written_is_read_again(trace):
    assert decode(encode(trace), "x") == trace


@given(traces(), st.data())
def test_broken_bytes_are_told_or_harmless(trace, data):
    raw = bytearray(encode(trace))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw
    try:
        found = decode(bytes(raw), "x")
    except UserError as error:
        assert error.mend
        assert "\n" not in error.message
        return
    for each in found.reads:
        assert sum(part.length for part in found.parts(each)) == each.length


def test_version_1_had_no_fetches():
    plain, fetch = sample(), Fetch(5, 0, 10, 4096, 7, 0, good=True, reason=AHEAD, blocks=1)
    data = bytearray(encode(plain))
    data[8:12] = u32(1)
    assert decode(bytes(data), "x") == plain
    data = bytearray(encode(sample(fetches=(fetch,))))
    assert decode(bytes(data), "x").fetches == (fetch,)
    data[8:12] = u32(1)
    with pytest.raises(UserError, match="kind 2"):
        decode(bytes(data), "x")


@given(st.binary(max_size=600))
def test_any_bytes_are_no_trace(data):
    with pytest.raises(UserError):
        decode(data, "x")


def test_every_beginning_of_a_trace_is_told():
    data = encode(sample())
    whole = [HEADER + 64 * RECORDS, len(data)]
    for length in range(len(data)):
        if length not in whole:
            with pytest.raises(UserError):
                decode(data[:length], "x")
    assert decode(data, "x").files
    assert not decode(data[: whole[0]], "x").files  # as the records alone are stored


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "is no trace"),
        (changed(0, b"ORIONMF\n"), "is no trace"),
        (changed(8, u32(3)), "version 3; this program knows 1 to 2"),
        (changed(8, u32(0)), "version 0; this program knows 1 to 2"),
        (changed(12, u32(512)), "a header of 512 bytes"),
        (changed(16, u32(63)), "records of 63"),
        (changed(20, u32(4)), "unknown flags 0x4"),
        (changed(24, b"\xff" * 8), "claims 18446744073709551615 records"),
        (changed(48, b"\x09"), "unknown kind 9"),
        (changed(216, u32(5000)), "blocks of 5000 bytes"),
        (changed(HEADER + 8, b"\xff" * 8), "bytes at 18446744073709551615"),
        (changed(HEADER + 24, u32((1 << 20) + 1)), "1048577 bytes at"),
        (changed(HEADER + 36, b"\x03"), "record 0 has kind 3"),
        (changed(HEADER + 37, b"\x04"), "outcome 4"),
        (changed(HEADER + 28, u32(9)), "a record of inode 9, which is not there"),
        (changed(HEADER + 64 + 8, struct.pack("<Q", 3 * BLOCK)), "beyond the end of inode 1"),
        (changed(NAMES, b"X"), "nothing known"),
        (changed(NAMES + 8, u32(1 << 31)), "claims 2147483648 files"),
        (changed(NAMES + 16, b"\xff\xff"), "the middle of a path"),
        (changed(NAMES + 24, b"\xff" * 8), "inode 1 has 18446744073709551615 bytes"),
        (encode(sample()) + b"x", "1 bytes too many"),
        (encode(sample(digest_kind=1, digests={(1, 0): b"d" * 32})), "a digest of another kind"),
    ],
)
def test_what_is_wrong_is_said(data, text):
    with pytest.raises(UserError) as told:
        decode(data, "boot.trace")
    assert text in told.value.message
    assert "boot.trace" in told.value.message
    assert told.value.mend


def test_the_same_twice_is_told():
    data = encode(sample(files={1: sample().files[1]}, digests={}, records=[]))
    files = data[:HEADER] + format.NAMES_MAGIC + u32(2) + 2 * data[HEADER + 12 : -4] + u32(0)
    with pytest.raises(UserError, match="inode 1 is there twice"):
        decode(files, "x")
    block = u32(1) + u32(0) + b"d" * 16 + bytes(16)
    with pytest.raises(UserError, match="block 0 of inode 1 is there twice"):
        decode(data[:-4] + u32(2) + 2 * block, "x")


def test_records_are_sorted_and_names_cut():
    trace = sample(records=[record(9, 1, comm="x" * 40), record(3, 1)], release="r" * 200)
    found = decode(encode(trace), "x")
    assert [each.t_ns for each in found.records] == sorted(each.t_ns for each in trace.records)
    assert found.records[1].comm == "x" * 15
    assert found.release == "r" * 63


def test_what_does_not_fit_is_not_written():
    with pytest.raises(ValueError, match="does not fit"):
        encode(sample(lost=-1))
    with pytest.raises(ValueError, match="no kind of digest"):
        encode(sample(digest_kind=7))


def test_files_are_written_and_read(tmp_path):
    format.write(sample(), tmp_path / "a")
    assert format.read(tmp_path / "a") == sample()


def test_parts_and_paths():
    trace = sample()
    assert list(trace.parts(record(0, 1, 4000, 4300))) == [
        Part(0, 4000, 96),
        Part(1, 0, 4096),
        Part(2, 0, 108),
    ]
    assert list(trace.parts(record(0, 1, 4000, 0))) == []
    assert (trace.path(1), trace.path(77)) == ("bin/sh", "<inode 77>")
    assert (trace.block_length(1, 0), trace.block_length(1, 2), trace.block_length(1, 3)) == (BLOCK, 100, 0)
    assert trace.seconds(trace.records[2]) == pytest.approx(0.012)
