"""Each row once; what does not fit is kept with its reason."""

from __future__ import annotations

import random
import threading
from dataclasses import replace

import pytest
from sqlalchemy import select

from fieldloop_contract.batch import SequencedFrame
from fieldloop_contract.messages import LedgerTotals, Reported, Status
from fieldloop_store import letters as letters_module
from fieldloop_store.engine import Store
from fieldloop_store.ingest import Intake, Outcome, store_intake
from fieldloop_store.letters import CONFLICT, Letter
from fieldloop_store.presence import Presence
from fieldloop_store.queries import device_services, frames_between
from fieldloop_store.rows import LogKey, Row, frame_row
from fieldloop_store.schema import dead_letter_overflow, dead_letters, ledgers
from fieldloop_telemetry.door import admit
from support.telemetry import (
    BOOT,
    EPOCH,
    LOG,
    annotation,
    count,
    event,
    frame,
    frames,
    result,
    rows,
)

_ROOT = "fieldloop/v1/demo/subject-1"


def put(store: Store, *messages: tuple[str, bytes], received_ns: int = 7) -> Outcome:
    intake = Intake(received_ns=received_ns)
    for tail, payload in messages:
        parcel = admit(f"{_ROOT}/{tail}", payload, received_ns)
        if parcel.rows:
            intake.rows[parcel.table].extend(parcel.rows)
        intake.letters.extend(parcel.letters)
        if parcel.presence is not None:
            intake.presence.append(parcel.presence)
    return store_intake(store, intake)


def test_every_kind_of_row_is_stored(store: Store) -> None:
    outcome = put(
        store,
        ("ingestion/frames", frames([1, 2])),
        ("ingestion/samples", frames([3])),
        ("inference/results", rows([(1, result(1)), (2, result(2, label=None, score=0.5))])),
        ("inference/events", rows([(3, event(3))])),
        ("ingestion/annotations", rows([(4, annotation(4, extra={"kept": [1]}))])),
    )
    assert outcome.new == {"frames": 2, "samples": 1, "results": 2, "events": 1, "annotations": 1}
    assert count(store, "devices") == 1


def test_rows_that_are_there_are_left_as_they_are(store: Store) -> None:
    assert put(store, ("ingestion/frames", frames(range(1, 101)))).new == {"frames": 100}
    outcome = put(store, ("ingestion/frames", frames(range(51, 151))), received_ns=99)
    assert (outcome.new, outcome.again, outcome.conflicts) == ({"frames": 50}, 50, [])
    kept = list(frames_between(store, "demo", device="subject-1", stream="imu"))
    assert [row.seq for row in kept] == list(range(1, 151))
    assert {row.received_ns for row in kept[:100]} == {7}


def test_a_row_twice_in_one_transaction_is_stored_once(store: Store) -> None:
    outcome = put(store, ("ingestion/frames", frames([1, 2])), ("ingestion/frames", frames([2, 3])))
    assert (outcome.new, outcome.again) == ({"frames": 3}, 1)


def test_reordered_and_repeated_batches_end_in_the_same_store(store: Store) -> None:
    chooser = random.Random(5)
    batches = [frames(range(at, at + 10)) for at in range(1, 200, 10)] * 3
    chooser.shuffle(batches)
    for at in range(0, len(batches), 7):
        put(store, *(("ingestion/frames", b) for b in batches[at : at + 7]))
    kept = list(frames_between(store, "demo", device="subject-1", stream="imu", page_rows=30))
    assert [row.seq for row in kept] == list(range(1, 201))


@pytest.mark.parametrize("together", [False, True])
def test_same_key_with_other_content_raises_an_alarm_and_loses_neither(
    store: Store, together: bool
) -> None:
    first = ("ingestion/frames", frames([1, 2, 3]))
    second = ("ingestion/frames", frames([2, 3, 4], value=0.25))
    outcome = Outcome()
    for messages in [(first, second)] if together else [(first,), (second,)]:
        outcome.add(put(store, *messages))
    assert [(c.table, c.log, c.seq) for c in outcome.conflicts] == [
        ("frames", LOG, 2),
        ("frames", LOG, 3),
    ]
    assert outcome.new == {"frames": 4}
    with store.read() as connection:
        kept = connection.execute(select(dead_letters).order_by(dead_letters.c.seq)).all()
    assert [(row.seq, row.code) for row in kept] == [(2, CONFLICT), (3, CONFLICT)]
    stored = {
        row.seq: row.frame.samples
        for row in frames_between(store, "demo", device="subject-1", stream="imu")
    }
    parcel = admit(f"{_ROOT}/ingestion/frames", bytes(kept[0].payload), 1)
    at_samples = 13
    assert {stored[2], parcel.rows[0][at_samples]} == {
        admit(f"{_ROOT}/ingestion/frames", batch, 1).rows[0][at_samples]
        for batch in (frames([2]), frames([2], value=0.25))
    }


def test_a_conflict_of_json_rows_keeps_the_other_object(store: Store) -> None:
    put(store, ("inference/results", rows([(1, result(1))])))
    outcome = put(store, ("inference/results", rows([(1, result(1, label="ROW"))])))
    assert [c.table for c in outcome.conflicts] == ["results"]
    with store.read() as connection:
        payload = connection.execute(select(dead_letters.c.payload)).scalar_one()
    assert b'"label":"ROW"' in bytes(payload)


def test_order_of_keys_in_a_json_row_is_no_conflict(store: Store) -> None:
    put(store, ("inference/results", rows([(1, result(1))])))
    turned = dict(reversed(result(1).items()))
    assert put(store, ("inference/results", rows([(1, turned)]))).again == 1


def test_same_bytes_refused_again_count_up_instead_of_taking_room(store: Store) -> None:
    for _ in range(3):
        put(store, ("ingestion/frames", b"rubbish"))
    with store.read() as connection:
        letter = connection.execute(select(dead_letters)).one()
    assert (letter.times, letter.seq, letter.epoch, bytes(letter.payload)) == (3, 0, "", b"rubbish")


def test_dead_letters_are_bounded_per_device_and_counted_beyond(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letters_module, "LETTERS_PER_DEVICE_MAX", 10)
    other = LogKey("demo", "subject-2", "ingestion", EPOCH)
    wrong = [Letter(LOG, "frames", seq, "frame.time", "wrong", b"", 1) for seq in range(1, 26)]
    calm = [Letter(other, "frames", 1, "frame.time", "wrong", b"", 1)]
    outcome = store_intake(store, Intake(letters=wrong[:20] + calm, received_ns=1))
    assert (outcome.letters, outcome.overflowed) == (11, 10)
    assert store_intake(store, Intake(letters=wrong[20:], received_ns=1)).overflowed == 5
    assert count(store, "dead_letters") == 11
    with store.read() as connection:
        assert connection.execute(select(dead_letter_overflow.c.letters)).scalar_one() == 15


def test_large_dead_letters_are_cut(store: Store) -> None:
    put(store, ("ingestion/frames", b"x" * 100_000))
    with store.read() as connection:
        payload = connection.execute(select(dead_letters.c.payload)).scalar_one()
    assert len(payload) == letters_module.LETTER_BYTES_MAX


def test_a_reason_with_nul_and_half_a_surrogate_can_be_kept(store: Store) -> None:
    letter = Letter(LOG, "events", 1, "door.unexpected", "a\0b\ud800", b"\0", 1)
    assert store_intake(store, Intake(letters=[letter], received_ns=1)).letters == 1


def _poisoned(intake_row: Row) -> Row:
    """A row that no database takes: a seq beyond int64."""
    return (*intake_row[:6], 1 << 70, *intake_row[7:])


def test_a_row_that_the_database_refuses_does_not_keep_its_neighbours_out(store: Store) -> None:
    good = admit(f"{_ROOT}/ingestion/frames", frames(range(1, 10)), 1).rows
    intake = Intake(received_ns=1)
    intake.rows["frames"] = [*good[:4], _poisoned(good[4]), *good[5:]]
    outcome = store_intake(store, intake)
    assert outcome.new == {"frames": 8}
    with store.read() as connection:
        letter = connection.execute(select(dead_letters)).one()
    assert (letter.seq, letter.code) == (5, "row.unstorable")


def status(state: str, session: str, **more: str) -> tuple[str, bytes]:
    return ("ingestion/status", Status(state=state, session=session, versions=more).encode())


def standing(store: Store) -> tuple[str, str, dict[str, str]]:
    (row,) = device_services(store, "demo")
    return row.state, row.session, row.status.get("versions", {})


def test_will_of_an_older_session_is_ignored(store: Store) -> None:
    put(store, status("online", "s1", app="1"))
    put(store, status("online", "s2", app="2"))
    assert put(store, status("offline", "s1")).ignored_wills == 1
    assert standing(store) == ("online", "s2", {"app": "2"})
    put(store, status("offline", "s2"))
    assert standing(store) == ("offline", "s2", {"app": "2"})
    assert put(store, status("offline", "s1")).ignored_wills == 1


def test_statuses_of_one_group_are_taken_in_their_order(store: Store) -> None:
    put(store, status("online", "s1"), status("offline", "s1"), status("online", "s2", app="2"))
    assert standing(store) == ("online", "s2", {"app": "2"})


def test_a_report_before_any_status_is_kept(store: Store) -> None:
    totals = LedgerTotals(
        epoch=EPOCH, produced=9, stored=4, pending=3, withheld=1, dropped={"bound": 1}
    )
    reported = Reported(session="s1", ledgers=[totals], counters={"samples": 5})
    put(store, ("ingestion/reported", reported.encode()))
    put(store, ("ingestion/reported", reported.encode()), received_ns=8)
    (row,) = device_services(store, "demo")
    assert row.state == "unknown"
    assert row.reported is not None
    assert row.reported["counters"] == {"samples": 5}
    with store.read() as connection:
        kept = connection.execute(select(ledgers)).one()
    assert (kept.produced, kept.dropped, kept.reported_ns) == (9, {"bound": 1}, 8)
    put(store, status("online", "s1"))
    (row,) = device_services(store, "demo")
    assert (row.state, row.reported is not None) == ("online", True)


def test_writers_of_the_same_rows_at_the_same_time_store_each_once(
    store_url: str, store: Store
) -> None:
    outcomes: list[Outcome] = []
    failures: list[Exception] = []

    def write(seed: int) -> None:
        own = Store.open(store_url)
        chooser = random.Random(seed)
        batches = [frames(range(at, at + 20)) for at in range(1, 400, 20)]
        chooser.shuffle(batches)
        try:
            for at in range(0, len(batches), 4):
                messages = [("ingestion/frames", b) for b in batches[at : at + 4]]
                outcomes.append(put(own, *messages, status("online", f"s{seed}", boot=BOOT)))
        except Exception as error:  # noqa: BLE001 - shown by the assertion below
            failures.append(error)
        finally:
            own.close()

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert count(store, "frames") == 400
    assert sum(outcome.new["frames"] for outcome in outcomes) == 400
    assert sum(outcome.again for outcome in outcomes) == 800


def test_presence_is_the_last_word_of_each_service(store: Store) -> None:
    messages = [
        Presence("demo", device, "ingestion", Status(state="online", session="s"), at)
        for at, device in enumerate(["subject-2", "subject-1", "subject-2"], start=1)
    ]
    store_intake(store, Intake(presence=messages, received_ns=3))
    found = [(row.device, row.status_ns) for row in device_services(store, "demo")]
    assert found == [("subject-1", 2), ("subject-2", 3)]


def test_a_planned_pause_is_kept_and_another_one_is_another_content(store: Store) -> None:
    plain, paused = frame(1), replace(frame(1), planned_pause=True)
    rows = [frame_row(LOG, SequencedFrame(seq, item), 5) for seq, item in ((1, paused), (2, plain))]
    store_intake(store, Intake(rows={"frames": rows}, received_ns=5))
    found = list(frames_between(store, "demo", device="subject-1", stream="imu"))
    assert [row.frame.planned_pause for row in found] == [True, False]
    clash = frame_row(LOG, SequencedFrame(1, plain), 6)
    outcome = store_intake(store, Intake(rows={"frames": [clash]}, received_ns=6))
    assert [conflict.seq for conflict in outcome.conflicts] == [1]
