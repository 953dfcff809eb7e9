"""Strangers' bytes come in at one door, and nothing they hold gets through unchecked."""

from __future__ import annotations

import json
import random
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldloop_contract.batch import BATCH_BYTES_MAX, SequencedFrame, encode_frames
from fieldloop_contract.messages import Reported, Status
from fieldloop_telemetry.door import Parcel, admit
from support.telemetry import EPOCH, LOG, annotation, event, frame, frames, result, rows

_ROOT = "fieldloop/v1/demo/subject-1"
_INGESTION = f"{_ROOT}/ingestion"


def codes(parcel: Parcel) -> list[tuple[int, str]]:
    return [(letter.seq, letter.code) for letter in parcel.letters]


def spoil(payload: bytes, **changes: Any) -> bytes:
    return cbor2.dumps({**cbor2.loads(payload), **changes})


def test_a_good_batch_passes_and_may_be_acknowledged() -> None:
    parcel = admit(f"{_INGESTION}/frames", frames([4, 5, 9]), 7)
    assert (parcel.log, parcel.table, parcel.seqs, parcel.letters) == (LOG, "frames", [4, 5, 9], [])
    assert [row[4] for row in parcel.rows] == [4, 5, 9]
    assert {row[-1] for row in parcel.rows} == {7}


def test_identity_is_of_the_topic_whatever_the_payload_says() -> None:
    batch = rows([(1, result(1, device="somebody", fleet="other", source="x"))])
    parcel = admit(f"{_ROOT}/inference/results", batch, 1)
    assert parcel.rows[0][:4] == ("demo", "subject-1", "inference", EPOCH)


def test_a_frame_that_is_not_finite_is_refused_and_its_neighbours_pass() -> None:
    good, bad = frame(1), frame(2, value=float("nan"))
    items = [SequencedFrame(1, good), SequencedFrame(2, bad), SequencedFrame(3, frame(3))]
    parcel = admit(f"{_INGESTION}/frames", encode_frames(EPOCH, items), 1)
    assert [row[4] for row in parcel.rows] == [1, 3]
    assert codes(parcel) == [(2, "frame.not-finite")]
    assert sorted(parcel.seqs) == [1, 2, 3]


def test_a_frame_that_ends_beyond_time_is_refused() -> None:
    payload = frames([1, 2])
    document = cbor2.loads(payload)
    document["rows"][0][2] = (1 << 63) - 1
    parcel = admit(f"{_INGESTION}/frames", cbor2.dumps(document), 1)
    assert codes(parcel) == [(1, "frame.time")]
    tiny = [["imu", 2, 1e-320, *document["streams"][0][3:]]]
    assert codes(admit(f"{_INGESTION}/frames", spoil(payload, streams=tiny), 1)) == [
        (1, "frame.time"),
        (2, "frame.time"),
    ]


@pytest.mark.parametrize(
    "payload",
    [
        b"\xff\xff",
        b"{",
        b"x" * (BATCH_BYTES_MAX + 1),
        b"\x81" * 100_000,
        cbor2.dumps([1, 2]),
        spoil(frames([1]), v=2),
        spoil(frames([1]), epoch="../../etc/passwd"),
        spoil(frames([1]), epoch=EPOCH + "\n"),
        spoil(frames([1]), rows=7),
    ],
)
def test_what_is_no_batch_is_refused_whole_and_acknowledges_nothing(payload: bytes) -> None:
    parcel = admit(f"{_INGESTION}/frames", payload, 1)
    assert (parcel.rows, parcel.seqs, parcel.presence) == ([], [], None)
    assert len(parcel.letters) == 1
    assert parcel.letters[0].log.epoch == ""
    assert parcel.letters[0].code != "door.unexpected"


def test_deeply_nested_json_is_refused_whole() -> None:
    payload = b'{"v":1,"epoch":"' + EPOCH.encode() + b'","rows":' + b"[" * 50_000
    assert codes(admit(f"{_ROOT}/inference/events", payload, 1)) == [(0, "json.syntax")]
    nested: Any = 1
    for _ in range(40):
        nested = [nested]
    batch = rows([(1, event(1, data={"n": nested}))])
    assert codes(admit(f"{_ROOT}/inference/events", batch, 1)) == [(0, "json.depth")]


@pytest.mark.parametrize(
    ("channel", "bad"),
    [
        ("results", {"stream": "imu"}),
        ("results", result(1, model={"name": "a/b", "version": 1, "digest": "ef" * 32})),
        ("results", result(1, label="nul\0")),
        ("results", result(1, score="nan")),
        ("results", result(1, score=10**400)),
        ("results", result(1, t0_ns=1 << 64)),
        ("events", event(1, type="Not An Event")),
        ("events", event(1, data={"a": {"b\0": 1}})),
        ("annotations", annotation(1, t1_ns=0)),
        ("annotations", annotation(1, confidence=2)),
    ],
)
def test_a_row_that_is_wrong_is_refused_and_its_neighbours_pass(
    channel: str, bad: dict[str, Any]
) -> None:
    make = {"results": result, "events": event, "annotations": annotation}[channel]
    batch = rows([(1, make(1)), (2, bad), (3, make(3))])
    parcel = admit(f"{_ROOT}/inference/{channel}", batch, 1)
    assert [row[4] for row in parcel.rows] == [1, 3]
    assert [letter.seq for letter in parcel.letters] == [2]
    assert sorted(parcel.seqs) == [1, 2, 3]


def test_half_a_surrogate_pair_is_refused_and_its_neighbours_pass() -> None:
    good = json.dumps({"seq": 1, **event(1)})
    wrong = json.dumps({"seq": 2, **event(2, data={"n": "\ud800"})})
    payload = f'{{"v":1,"epoch":"{EPOCH}","rows":[{good},{wrong}]}}'.encode()
    parcel = admit(f"{_ROOT}/inference/events", payload, 1)
    assert ([row[4] for row in parcel.rows], codes(parcel)) == ([1], [(2, "json.value")])


def test_a_row_without_a_seq_is_kept_but_cannot_be_acknowledged() -> None:
    payload = json.dumps({"v": 1, "epoch": EPOCH, "rows": [event(1), {"seq": 2, **event(2)}]})
    parcel = admit(f"{_ROOT}/inference/events", payload.encode(), 1)
    assert (parcel.seqs, codes(parcel)) == ([2], [(0, "batch.row")])


def test_a_device_may_label_itself_and_nobody_else() -> None:
    batch = rows([(1, annotation(1)), (2, annotation(2, device="subject-2"))])
    parcel = admit(f"{_INGESTION}/annotations", batch, 1)
    assert ([row[4] for row in parcel.rows], codes(parcel)) == ([1], [(2, "annotation.stranger")])


def test_a_desk_may_label_any_device_of_its_fleet() -> None:
    batch = rows([(1, annotation(1)), (2, annotation(2, device="subject-2"))])
    parcel = admit("fieldloop/v1/demo/desk/labels/annotations", batch, 1)
    assert [(row[0], row[1], row[5]) for row in parcel.rows] == [
        ("demo", "desk", "subject-1"),
        ("demo", "desk", "subject-2"),
    ]


def test_status_and_report_become_presence() -> None:
    status = admit(f"{_INGESTION}/status", Status(state="online", session="s").encode(), 5)
    assert status.presence is not None
    assert status.presence.who == ("demo", "subject-1", "ingestion")
    report = admit(f"{_INGESTION}/reported", Reported(session="s").encode(), 5)
    assert report.presence is not None
    assert (status.seqs, report.seqs) == ([], [])


@pytest.mark.parametrize(
    ("channel", "document"),
    [
        ("status", {"v": 1, "state": "asleep", "session": "s"}),
        ("status", {"v": 1, "state": "online", "session": "s\0"}),
        ("reported", {"v": 1, "session": "s", "ledgers": [{"epoch": EPOCH}]}),
        (
            "reported",
            {
                "v": 1,
                "session": "s",
                "ledgers": [
                    {"epoch": EPOCH, "produced": 1 << 70, "stored": 0, "pending": 0, "withheld": 0}
                ],
            },
        ),
    ],
)
def test_presence_that_is_wrong_is_refused(channel: str, document: dict[str, Any]) -> None:
    parcel = admit(f"{_INGESTION}/{channel}", json.dumps(document).encode(), 1)
    assert parcel.presence is None
    assert len(parcel.letters) == 1


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "fieldloop/v1/demo/_tuf/meta/root.json",
        "fieldloop/v1/Demo/subject-1/ingestion/frames",
        "fieldloop/v1/demo/subject-1/ingestion/frames/more",
        "$SYS/broker/uptime",
        "fieldloop/v1/demo/../ingestion/frames",
    ],
)
def test_a_topic_that_names_nobody_gives_nothing(topic: str) -> None:
    assert admit(topic, frames([1]), 1) == Parcel(size=len(frames([1])))


def test_a_downward_channel_is_refused() -> None:
    assert codes(admit(f"{_INGESTION}/ack", b"{}", 1)) == [(0, "door.channel")]


def test_mutated_messages_never_raise_and_never_reach_the_last_resort() -> None:
    chooser = random.Random(20260522)
    originals = [
        ("ingestion/frames", frames(range(1, 9))),
        ("inference/results", rows([(s, result(s)) for s in range(1, 4)])),
        ("inference/events", rows([(s, event(s)) for s in range(1, 4)])),
        ("ingestion/annotations", rows([(s, annotation(s)) for s in range(1, 4)])),
        ("ingestion/status", Status(state="online", session="s", versions={"a": "1"}).encode()),
    ]
    unexpected: list[str] = []
    for _ in range(4_000):
        tail, payload = chooser.choice(originals)
        data = bytearray(payload)
        for _ in range(chooser.randint(1, 4)):
            action, at = chooser.randrange(3), chooser.randrange(len(data))
            if action == 0:
                data[at] = chooser.randrange(256)
            elif action == 1:
                del data[at : at + chooser.randint(1, 20)]
            else:
                data[at:at] = chooser.randbytes(chooser.randint(1, 6))
            data = data or bytearray(b"\0")
        parcel = admit(f"{_ROOT}/{tail}", bytes(data), 1)
        unexpected += [x.reason for x in parcel.letters if x.code == "door.unexpected"]
        assert set(parcel.seqs) == {row[4] for row in parcel.rows} | {
            letter.seq for letter in parcel.letters if letter.seq
        }
    assert unexpected == []


@settings(max_examples=200, deadline=None)
@given(
    st.binary(min_size=1, max_size=300),
    st.sampled_from(["frames", "results", "status", "reported"]),
)
def test_any_bytes_become_at_most_one_letter_or_a_presence(payload: bytes, channel: str) -> None:
    parcel = admit(f"{_INGESTION}/{channel}", payload, 1)
    assert len(parcel.letters) + (parcel.presence is not None) == 1


def test_an_empty_message_tests_a_channel_and_leaves_nothing_behind() -> None:
    for channel in ("frames", "events", "status"):
        parcel = admit(f"{_INGESTION}/{channel}", b"", 1)
        assert (parcel.letters, parcel.rows, parcel.seqs, parcel.presence) == ([], [], [], None)
