"""Frames from before a device knew the time are placed where they belong; raw stays as it was."""

from __future__ import annotations

import struct

from fieldloop_contract.batch import SequencedFrame, encode_frames
from fieldloop_contract.frames import Clock, Frame
from fieldloop_store.clocks import clock_offsets, placed_frames_between
from fieldloop_store.engine import Store
from fieldloop_store.ingest import Intake, store_intake
from fieldloop_store.queries import frames_between
from fieldloop_telemetry.door import admit

S = 1_000_000_000
UTC_NS = 1_800_000_000 * S
FIRST, SECOND, THIRD = "1" * 32, "2" * 32, "3" * 32


def frame(uptime_s: int, clock: Clock, *, boot: str = FIRST, t0_ns: int | None = None) -> Frame:
    """One second of a stream at 1 Hz. A clock that was never set begins in 1970."""
    believed = 5 * S + uptime_s * S if clock is Clock.UNKNOWN else UTC_NS + uptime_s * S
    samples = struct.pack("<f", float(uptime_s))
    time_ns = believed if t0_ns is None else t0_ns
    return Frame("imu", time_ns, uptime_s * S, boot, clock, 1.0, 1, samples)


def put(store: Store, frames: list[Frame], *, first_seq: int = 1, epoch: str = "a" * 32) -> None:
    rows = [SequencedFrame(first_seq + i, f) for i, f in enumerate(frames)]
    topic = "fieldloop/v1/demo/pump-1/ingestion/frames"
    parcel = admit(topic, encode_frames(epoch, rows), 5)
    assert parcel.letters == []
    intake = Intake(received_ns=5)
    intake.rows[parcel.table] = parcel.rows
    store_intake(store, intake)


def placed(store: Store, from_s: int, to_s: int) -> list[tuple[int, int]]:
    rows = placed_frames_between(
        store, "demo", device="pump-1", stream="imu",
        t0_ns=UTC_NS + from_s * S, t1_ns=UTC_NS + to_s * S,
    )  # fmt: skip
    return [(row.seq, (row.frame.t0_ns - UTC_NS) // S) for row in rows]


def test_frames_from_before_the_clock_was_set_are_found_where_they_belong(store: Store):
    put(store, [frame(i, Clock.UNKNOWN) for i in range(10)])
    assert placed(store, 0, 20) == []
    assert clock_offsets(store, "demo", "pump-1") == {}
    put(store, [frame(i, Clock.SYNCHRONISED) for i in range(10, 15)], first_seq=11)
    assert clock_offsets(store, "demo", "pump-1") == {FIRST: UTC_NS}
    assert placed(store, 0, 20) == [(i + 1, i) for i in range(15)]
    assert placed(store, 3, 5) == [(4, 3), (5, 4)]


def test_what_is_stored_is_not_rewritten(store: Store):
    given = [frame(0, Clock.UNKNOWN), frame(1, Clock.SYNCHRONISED)]
    put(store, given)
    list(placed_frames_between(store, "demo", device="pump-1", stream="imu", t0_ns=0, t1_ns=2**62))
    kept = [r.frame for r in frames_between(store, "demo", device="pump-1", stream="imu")]
    assert kept == given


def test_a_boot_that_never_got_a_clock_stays_in_1970(store: Store):
    put(store, [frame(0, Clock.UNKNOWN, boot=SECOND), frame(1, Clock.HELD)])
    assert placed(store, 0, 20) == [(2, 1)]


def test_each_boot_has_its_own_difference_and_the_order_is_that_of_seq(store: Store):
    put(store, [frame(0, Clock.UNKNOWN), frame(1, Clock.HELD)])
    later = [
        frame(0, Clock.UNKNOWN, boot=THIRD),
        frame(1, Clock.SYNCHRONISED, boot=THIRD, t0_ns=UTC_NS + 101 * S),
    ]
    put(store, later, first_seq=3)
    assert placed(store, 0, 200) == [(1, 0), (2, 1), (3, 100), (4, 101)]


def test_a_synchronised_clock_is_believed_before_one_that_is_held(store: Store):
    put(
        store,
        [
            frame(0, Clock.UNKNOWN),
            frame(1, Clock.HELD, t0_ns=UTC_NS + 4 * S),
            frame(2, Clock.SYNCHRONISED),
        ],
    )
    assert placed(store, 0, 1) == [(1, 0)]
