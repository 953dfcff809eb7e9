"""Batches: what goes in comes out, and no bytes do harm."""

from __future__ import annotations

import struct

import cbor2
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldloop_contract.batch import (
    BATCH_BLOCK_BYTES_MAX,
    BATCH_BYTES_MAX,
    SequencedFrame,
    SequencedRow,
    decode_frames,
    decode_rows,
    dump_json,
    encode_frames,
    encode_rows,
    load_json,
    shuffle,
    unshuffle,
)
from fieldloop_contract.errors import FieldloopError, LimitExceeded, MalformedMessage
from fieldloop_contract.frames import Clock, Frame, check_frame

EPOCH = "a" * 32
finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


@st.composite
def sequenced_frames(draw):
    channels = draw(st.integers(1, 4))
    n = draw(st.integers(1, 8))
    values = draw(st.lists(finite, min_size=n * channels, max_size=n * channels))
    frame = Frame(
        stream=draw(st.sampled_from(["imu", "flow", "t-1"])),
        t0_ns=draw(st.integers(0, 2**63 - 1)),
        mono_ns=draw(st.integers(0, 2**63 - 1)),
        boot=draw(st.sampled_from(["0" * 32, "1" * 32])),
        clock=draw(st.sampled_from(list(Clock))),
        rate_hz=draw(st.sampled_from([1.0, 50.0, 3200.0])),
        channels=channels,
        samples=struct.pack(f"<{len(values)}f", *values),
        planned_pause=draw(st.booleans()),
    )
    return SequencedFrame(draw(st.integers(1, 2**63 - 1)), frame)


@given(st.lists(sequenced_frames(), min_size=1, max_size=12), st.booleans())
def test_frames_survive_a_round_trip(rows, historical):
    batch = decode_frames(encode_frames(EPOCH, rows, historical=historical))
    assert batch.rows == rows
    assert batch.refused == []
    assert (batch.epoch, batch.historical) == (EPOCH, historical)


@given(st.binary(max_size=400))
def test_no_bytes_make_the_frame_decoder_do_anything_but_refuse(payload):
    with pytest.raises(FieldloopError):
        decode_frames(payload)


@settings(max_examples=300)
@given(st.data(), st.lists(sequenced_frames(), min_size=1, max_size=5))
def test_a_mutated_batch_is_refused_or_read_never_worse(data, rows):
    payload = bytearray(encode_frames(EPOCH, rows))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        batch = decode_frames(bytes(payload))
    except FieldloopError:
        return
    for item in batch.rows:
        check_frame(item.frame)


@given(st.binary(max_size=200).map(lambda b: b[: len(b) // 4 * 4]))
def test_shuffle_is_undone(data):
    assert unshuffle(shuffle(data)) == data


def simple(seq: int, stream: str = "imu") -> SequencedFrame:
    frame = Frame(stream, 1, 1, "0" * 32, Clock.HELD, 1.0, 1, struct.pack("<f", seq))
    return SequencedFrame(seq, frame)


def edited(rows, edit) -> bytes:
    document = cbor2.loads(encode_frames(EPOCH, rows))
    edit(document)
    return cbor2.dumps(document)


def test_a_stream_whose_lengths_do_not_add_up_is_refused_and_the_others_pass():
    rows = [simple(1, "a"), simple(2, "b"), simple(3, "a")]
    payload = edited(rows, lambda d: d["rows"][2].__setitem__(6, 2))
    batch = decode_frames(payload)
    assert [r.seq for r in batch.rows] == [2]
    assert {r.seq for r in batch.refused} == {1, 3}


def test_a_stream_with_a_bad_name_is_refused_and_the_others_pass():
    rows = [simple(1, "a"), simple(2, "b")]
    batch = decode_frames(edited(rows, lambda d: d["streams"][0].__setitem__(0, "../etc")))
    assert [r.seq for r in batch.rows] == [2]
    assert batch.refused[0].code == "id.invalid"


@pytest.mark.parametrize("seq", [0, -1, 2**63, 2**70])
def test_a_seq_outside_its_range_is_refused(seq):
    rows = [simple(1), simple(2)]
    batch = decode_frames(edited(rows, lambda d: d["rows"][0].__setitem__(0, seq)))
    assert [r.seq for r in batch.rows] == [2]


def test_an_epoch_with_a_newline_behind_it_is_refused():
    payload = edited([simple(1)], lambda d: d.__setitem__("epoch", EPOCH + "\n"))
    with pytest.raises(MalformedMessage):
        decode_frames(payload)


def test_a_batch_over_its_size_is_refused_before_it_is_parsed():
    with pytest.raises(LimitExceeded):
        decode_frames(b"\x00" * (BATCH_BYTES_MAX + 1))


def test_a_decompression_bomb_is_refused_by_its_declared_size():
    bomb = zstandard.ZstdCompressor().compress(b"\x00" * (BATCH_BLOCK_BYTES_MAX + 4))
    assert len(bomb) < 2000
    payload = edited([simple(1)], lambda d: d["streams"][0].__setitem__(slice(3, 5), [1, bomb]))
    batch = decode_frames(payload)
    assert batch.rows == []
    assert batch.refused[0].code == "batch.block-bytes"


def test_a_bomb_that_hides_its_size_is_refused_too():
    hidden = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    bomb = hidden.compress(b"\x00" * (BATCH_BLOCK_BYTES_MAX * 4)) + hidden.flush()
    payload = edited([simple(1)], lambda d: d["streams"][0].__setitem__(slice(3, 5), [1, bomb]))
    assert decode_frames(payload).rows == []


def test_rows_survive_a_round_trip():
    rows = [SequencedRow(3, {"a": [1, {"b": "ü"}]}), SequencedRow(9, {})]
    assert decode_rows(encode_rows(EPOCH, rows)).rows == rows


def test_a_row_without_seq_is_refused_and_its_neighbours_pass():
    payload = dump_json({"v": 1, "epoch": EPOCH, "rows": [{"seq": 1}, {}, 7, {"seq": True}]})
    batch = decode_rows(payload)
    assert [r.seq for r in batch.rows] == [1]
    assert len(batch.refused) == 3


@pytest.mark.parametrize(
    "payload",
    [b"\xff\xfe", b'"\xed\xa0\x80"', b"[1e999]", b"{}x", b"", b"[" * 100_000, b"Infinity"],
)
def test_what_is_not_json_is_refused(payload):
    with pytest.raises(FieldloopError):
        load_json(payload)


def test_the_largest_number_is_read():
    assert load_json(b"[1.5e308]") == [1.5e308]


def test_nan_is_never_written():
    with pytest.raises(MalformedMessage):
        dump_json({"a": float("nan")})
