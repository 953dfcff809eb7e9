"""Reading back what was stored, in pages and in order."""

from __future__ import annotations

import pytest

from fieldloop_contract.errors import FixConfiguration, RetryLater
from fieldloop_store import queries
from fieldloop_store.engine import Store
from fieldloop_store.ingest import Intake, store_intake
from fieldloop_telemetry.door import admit
from support.telemetry import T0_NS, annotation, event, frame, frames, result, rows


def put(store: Store, tail: str, payload: bytes, received_ns: int = 5) -> None:
    parcel = admit(f"fieldloop/v1/demo/{tail}", payload, received_ns)
    assert parcel.letters == []
    intake = Intake(received_ns=received_ns)
    intake.rows[parcel.table] = parcel.rows
    store_intake(store, intake)


def test_frames_come_back_as_they_were_in_pages(store: Store) -> None:
    put(store, "subject-1/ingestion/frames", frames(range(1, 26)))
    put(store, "subject-2/ingestion/frames", frames([1]))
    put(store, "subject-1/ingestion/frames", frames([3], epoch="00" * 16))
    kept = list(
        queries.frames_between(store, "demo", device="subject-1", stream="imu", page_rows=4)
    )
    assert [row.seq for row in kept] == [3, *range(1, 26)]
    assert kept[5].frame == frame(5)
    assert list(queries.frames_between(store, "demo", device="subject-1", stream="other")) == []


def test_a_span_takes_what_touches_it(store: Store) -> None:
    put(store, "subject-1/ingestion/frames", frames(range(1, 11)))
    inside = queries.frames_between(
        store, "demo", device="subject-1", stream="imu",
        t0_ns=frame(3).t1_ns - 1, t1_ns=frame(6).t0_ns,
    )  # fmt: skip
    assert [row.seq for row in inside] == [3, 4, 5]


def test_chosen_samples_are_apart_from_frames(store: Store) -> None:
    put(store, "subject-1/ingestion/samples", frames([7]))
    args = {"device": "subject-1", "stream": "imu"}
    assert list(queries.frames_between(store, "demo", **args)) == []
    assert [r.seq for r in queries.frames_between(store, "demo", **args, chosen=True)] == [7]


def test_streams_say_what_there_is(store: Store) -> None:
    put(store, "subject-1/ingestion/frames", frames(range(2, 12)))
    (row,) = queries.streams(store, "demo")
    assert (row.stream, row.channels, row.rate_hz, row.frames) == ("imu", 2, 50.0, 10)
    assert (row.seq_first, row.seq_last) == (2, 11)
    assert (row.t0_ns, row.t1_ns) == (frame(2).t0_ns, frame(11).t1_ns)


def test_annotations_are_found_by_whom_they_speak_of(store: Store) -> None:
    put(store, "desk/labels/annotations", rows([(1, annotation(1)), (2, annotation(2))]))
    put(store, "subject-2/ingestion/annotations", rows([(1, annotation(1, device="subject-2"))]))
    found = list(queries.annotations(store, "demo", device="subject-1", page_rows=1))
    assert [(row.log.device, row.seq, row.label) for row in found] == [
        ("desk", 1, "PEN"),
        ("desk", 2, "PEN"),
    ]
    assert queries.annotation_count(store, "demo") == 3
    after = queries.annotations(store, "demo", received_after_ns=5)
    assert list(after) == []
    early = queries.annotations(store, "demo", device="subject-1", t1_ns=T0_NS + 2)
    assert [row.seq for row in early] == [1]


def test_results_come_back_whole_and_are_counted_by_model_version(store: Store) -> None:
    newer = {"name": "activity", "version": 2, "digest": "aa" * 32}
    batch = [(1, result(1)), (2, result(2, valid=False)), (3, result(3, model=newer, more=1))]
    put(store, "subject-1/inference/results", rows(batch))
    found = list(queries.results_between(store, "demo", device="subject-1", page_rows=2))
    assert [(row.seq, row.version, row.valid, row.label) for row in found] == [
        (1, 1, True, "PEN"),
        (2, 1, False, "PEN"),
        (3, 2, True, "PEN"),
    ]
    assert found[2].document["more"] == 1
    assert found[0].document["probabilities"] == {"PEN": 0.75, "ROW": 0.25}
    counts = queries.result_counts(store, "demo")
    assert [(c.version, c.results, c.valid, c.latency_us_mean) for c in counts] == [
        (1, 2, 1, 12.5),
        (2, 1, 1, 12.5),
    ]
    newest = queries.results_between(store, "demo", device="subject-1", version=2)
    assert [row.seq for row in newest] == [3]


def test_events_are_read_on_from_a_cursor(store: Store) -> None:
    batch = [(seq, event(seq)) for seq in range(1, 8)]
    put(store, "subject-1/inference/events", rows(batch[3:]), received_ns=20)
    put(store, "subject-1/inference/events", rows(batch[:3]), received_ns=10)
    seen: list[int] = []
    cursor = None
    while page := queries.events_since(store, "demo", cursor, limit=2):
        seen += [row.seq for row in page]
        cursor = page[-1].cursor
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    assert page == []
    drift = rows([(9, event(9, type="drift.detected"))])
    put(store, "subject-1/inference/events", drift, received_ns=30)
    (row,) = queries.events_since(store, "demo", cursor, types=["drift.detected"])
    assert (row.type, row.data) == ("drift.detected", {"n": 9})
    assert queries.events_since(store, "demo", cursor, before_ns=30) == []


def test_reading_does_not_wait_for_a_writer(store: Store) -> None:
    put(store, "subject-1/ingestion/frames", frames([1]))
    with store.begin() as writer:
        writer.exec_driver_sql("DELETE FROM frames")
        assert len(queries.streams(store, "demo")) == 1
    assert queries.streams(store, "demo") == []


def test_an_unknown_back_end_is_a_configuration_error() -> None:
    with pytest.raises(FixConfiguration, match="mysql"):
        Store.open("mysql://somewhere/db")


def test_a_server_that_does_not_answer_is_to_be_tried_again() -> None:
    with pytest.raises(RetryLater):
        Store.open("postgresql://nobody:secret@127.0.0.1:1/none")
