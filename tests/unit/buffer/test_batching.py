"""Rows become wire batches that the contract's decoders accept."""

from __future__ import annotations

import json
import os
from array import array

from fieldloop_buffer.batching import encode
from fieldloop_buffer.outbox import Letter
from fieldloop_buffer.payload import pack_frame
from fieldloop_contract.batch import BATCH_BYTES_MAX, decode_frames, decode_rows
from fieldloop_contract.frames import Clock, Frame

EPOCHS = {1: "a" * 32, 2: "b" * 32}


def frame_letter(seq: int, n: int = 10, no: int = 1) -> Letter:
    values = array("f", [seq + i / 7 for i in range(n * 2)])
    frame = Frame("imu", seq * 10**9, seq, "c" * 32, Clock.HELD, 50.0, 2, values.tobytes())
    return Letter(no, seq, "frames", pack_frame(frame), True)


def test_rows_are_grouped_by_epoch_and_channel_and_decode_to_themselves() -> None:
    letters = [frame_letter(1), frame_letter(2), frame_letter(9, no=2)]
    letters.append(Letter(1, 3, "events", json.dumps({"type": "x"}).encode(), True))
    encoding = encode(letters, EPOCHS, historical=True)
    assert encoding.damaged == {}
    found = {(b.epoch_no, b.channel): b for b in encoding.batches}
    frames = decode_frames(found[1, "frames"].payload)
    assert frames.epoch == EPOCHS[1]
    assert frames.historical
    assert [row.seq for row in frames.rows] == [1, 2]
    assert found[1, "frames"].seqs == [(1, 2)]
    assert decode_frames(found[2, "frames"].payload).epoch == EPOCHS[2]
    assert decode_rows(found[1, "events"].payload).rows[0].row == {"type": "x"}


def test_a_damaged_row_is_named_and_its_neighbours_go() -> None:
    letters = [
        frame_letter(1),
        Letter(1, 2, "frames", b"\1junk", True),
        Letter(1, 3, "frames", frame_letter(3).payload, False),
        Letter(1, 4, "events", b"[1]", True),
        Letter(1, 5, "events", b"{", True),
        frame_letter(6),
    ]
    encoding = encode(letters, EPOCHS, historical=False)
    assert sorted(encoding.damaged[1]) == [2, 3, 4, 5]
    assert [b.seqs for b in encoding.batches] == [[(1, 1), (6, 6)]]


def test_what_does_not_fit_into_one_batch_goes_in_several() -> None:
    rows = [Letter(1, seq, "results", json.dumps({"x": "y" * 90_000}).encode(), True)
            for seq in range(1, 8)]  # fmt: skip
    encoding = encode(rows, EPOCHS, historical=False)
    assert all(len(b.payload) <= BATCH_BYTES_MAX for b in encoding.batches)
    assert sorted(s for b in encoding.batches for first, last in b.seqs
                  for s in range(first, last + 1)) == list(range(1, 8))  # fmt: skip


def test_the_largest_frame_fits_into_a_batch() -> None:
    samples = os.urandom(192 * 1024 // 4 * 4)
    clean = array("f", [float(b) for b in samples[: 192 * 1024 // 4]])
    frame = Frame("vib", 1, 1, "c" * 32, Clock.HELD, 3200.0, 1, clean.tobytes())
    encoding = encode([Letter(1, 1, "frames", pack_frame(frame), True)], EPOCHS, historical=False)
    assert decode_frames(encoding.batches[0].payload).rows[0].frame == frame
