"""A frame survives its way into the log and out again."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldloop_buffer.entry import SEQ_MAX, Cursor, row_id, split_id
from fieldloop_buffer.payload import checksum, pack_frame, unpack_frame
from fieldloop_contract.errors import MalformedMessage
from fieldloop_contract.frames import Clock, Frame


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    channels = draw(st.integers(1, 6))
    n = draw(st.integers(1, 9))
    values = draw(st.lists(st.floats(width=32, allow_nan=False), min_size=n * channels,
                           max_size=n * channels))  # fmt: skip
    return Frame(
        stream=draw(st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)),
        t0_ns=draw(st.integers(0, (1 << 63) - 1)),
        mono_ns=draw(st.integers(0, (1 << 63) - 1)),
        boot=draw(st.binary(min_size=16, max_size=16)).hex(),
        clock=draw(st.sampled_from(list(Clock))),
        rate_hz=draw(st.floats(1e-3, 1e6)),
        channels=channels,
        samples=array("f", values).tobytes(),
        planned_pause=draw(st.booleans()),
    )


@given(frames())
def test_unpack_gives_back_what_was_packed(frame: Frame) -> None:
    assert unpack_frame(pack_frame(frame)) == frame


@given(frames(), st.data())
def test_a_truncated_or_garbled_payload_is_refused_or_is_a_frame(
    frame: Frame, data: st.DataObject
) -> None:
    payload = bytearray(pack_frame(frame))
    payload[data.draw(st.integers(0, 50))] ^= data.draw(st.integers(1, 255))
    try:
        found = unpack_frame(bytes(payload[: data.draw(st.integers(0, len(payload)))]))
    except MalformedMessage:
        return
    assert isinstance(found, Frame)


@given(st.binary(max_size=50), st.integers(0, 399))
def test_the_checksum_notices_a_flipped_bit_and_a_moved_row(payload: bytes, bit: int) -> None:
    right = checksum(row_id(1, 7), 1, 5, False, payload)
    assert checksum(row_id(1, 8), 1, 5, False, payload) != right
    assert checksum(row_id(1, 7), 1, 5, True, payload) != right
    if bit < len(payload) * 8:
        flipped = bytearray(payload)
        flipped[bit // 8] ^= 1 << bit % 8
        assert checksum(row_id(1, 7), 1, 5, False, bytes(flipped)) != right


@given(st.integers(1, 1 << 18), st.integers(0, SEQ_MAX))
def test_keys_order_rows_by_epoch_and_then_by_seq(no: int, seq: int) -> None:
    assert split_id(row_id(no, seq)) == (no, seq)
    assert row_id(no, SEQ_MAX) < row_id(no + 1, 0)


@pytest.mark.parametrize("text", ["", "x/1", "0" * 32, "0" * 32 + "/-1", "0" * 32 + "/1 "])
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(MalformedMessage):
        Cursor.parse(text)
