"""From annotations to recordings."""

from __future__ import annotations

from typing import Any

from fieldloop_store.queries import AnnotationRow
from fieldloop_store.rows import LogKey
from fieldloop_training.labels import resolve


def note(seq: int, t0: int, t1: int, label: str, **changes: Any) -> AnnotationRow:
    values: dict[str, Any] = {
        "device": "a", "stream": "imu", "annotator": "", "confidence": 1.0, "received_ns": seq,
    }  # fmt: skip
    values |= changes
    log = LogKey("demo", "desk", "labels", "e")
    return AnnotationRow(log=log, seq=seq, t0_ns=t0, t1_ns=t1, label=label, **values)


def test_a_correction_replaces_the_label_whichever_is_read_first():
    rows = [note(1, 0, 10, "walk"), note(2, 0, 10, "run")]
    for order in (rows, rows[::-1]):
        kept, left_out = resolve(order)
        assert [r.label for r in kept] == ["run"]
        assert left_out == {"replaced": 1}


def test_a_corrected_recording_keeps_its_key():
    assert resolve([note(1, 0, 10, "walk")])[0][0].key == resolve([note(1, 0, 10, "run")])[0][0].key


def test_unknown_and_unsure_are_no_labels():
    kept, left_out = resolve([note(1, 0, 10, "unknown"), note(2, 20, 30, "run", confidence=0.4)])
    assert kept == []
    assert left_out == {"unknown": 1, "unsure": 1}


def test_overlapping_spans_with_different_labels_are_both_left_out():
    rows = [note(1, 0, 10, "walk"), note(2, 5, 15, "run"), note(3, 15, 20, "rest")]
    kept, left_out = resolve(rows)
    assert [r.label for r in kept] == ["rest"]
    assert left_out == {"ambiguous": 2}


def test_of_overlapping_spans_with_the_same_label_the_first_stays():
    kept, _ = resolve([note(1, 0, 10, "walk"), note(2, 5, 15, "walk")])
    assert [(r.t0_ns, r.t1_ns) for r in kept] == [(0, 10)]


def test_the_same_span_on_two_devices_is_two_recordings():
    kept, left_out = resolve([note(1, 0, 10, "walk"), note(2, 0, 10, "run", device="b")])
    assert len(kept) == 2
    assert left_out == {}
