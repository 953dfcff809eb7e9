"""Devices are named, retired, replaced and erased; streams stand on machines from-to."""

from __future__ import annotations

import pytest

from fieldloop_contract.batch import SequencedFrame
from fieldloop_contract.errors import RejectedInput
from fieldloop_contract.messages import Annotation, LedgerTotals, Reported
from fieldloop_store.auditing import audit_trail
from fieldloop_store.devices import (
    erase_device,
    list_devices,
    reinstate_device,
    rename_device,
    replace_device,
    retire_device,
)
from fieldloop_store.engine import Store
from fieldloop_store.ingest import Intake, store_intake
from fieldloop_store.ledger import books
from fieldloop_store.machines import assign_stream, assignments_of, list_machines, put_machine
from fieldloop_store.presence import Presence
from fieldloop_store.rows import LogKey, annotation_row, frame_row
from fieldloop_store.schema import metadata
from support.telemetry import EPOCH, LOG, annotation, frame

WHO = {"actor": "anna", "now_ns": 1_000}


@pytest.fixture
def heard(store: Store) -> Store:
    """A store that has heard subject-1, and a desk that labels it and another device."""
    rows = [frame_row(LOG, SequencedFrame(s, frame(s)), 5) for s in range(1, 3001)]
    desk = LogKey("demo", "desk", "labels", EPOCH)
    notes = []
    for seq, about in ((1, "subject-1"), (2, "subject-2"), (3, "subject-1")):
        document = annotation(seq, device=about)
        note = Annotation.model_validate(document)
        notes.append(annotation_row(desk, seq, note, document, 5))
    totals = {"epoch": EPOCH, "pending": 0, "withheld": 0}
    presence = [
        Presence("demo", device, service, Reported(session="s", ledgers=[ledger]), 9)
        for device, service, ledger in (
            ("subject-1", "ingestion", LedgerTotals(produced=3000, stored=3000, **totals)),
            ("desk", "labels", LedgerTotals(produced=3, stored=3, **totals)),
        )
    ]
    store_intake(
        store, Intake(rows={"frames": rows, "annotations": notes}, presence=presence, received_ns=5)
    )
    put_machine(store, "demo", "press-1", site="hall 3", nameplate={"kw": 11}, now_ns=1)
    put_machine(store, "demo", "press-2", now_ns=1)
    return store


def test_a_device_is_renamed_retired_and_reinstated_and_the_audit_knows(heard: Store) -> None:
    rename_device(heard, "demo", "subject-1", "Left wrist", **WHO)
    retire_device(heard, "demo", "subject-1", **WHO)
    assert [(d.name, d.state) for d in list_devices(heard, "demo")] == [
        ("desk", "active"), ("Left wrist", "retired"),
    ]  # fmt: skip
    reinstate_device(heard, "demo", "subject-1", **WHO)
    trail = audit_trail(heard, "demo", device="subject-1")
    assert [row.action for row in trail] == ["reinstated", "retired", "renamed"]
    assert {row.actor for row in trail} == {"anna"}


def test_a_replacement_takes_over_name_and_machines(heard: Store) -> None:
    rename_device(heard, "demo", "subject-1", "Left wrist", **WHO)
    assign_stream(
        heard, "demo", "subject-1", "imu", "press-1", from_ns=10, mounting="lid", **WHO
    )  # fmt: skip
    replace_device(heard, "demo", "subject-1", "subject-9", actor="anna", now_ns=500)
    by_id = {d.device: d for d in list_devices(heard, "demo")}
    assert (by_id["subject-1"].state, by_id["subject-1"].successor) == ("replaced", "subject-9")
    assert by_id["subject-9"].name == "Left wrist"
    spans = [(a.device, a.from_ns, a.to_ns, a.mounting) for a in assignments_of(heard, "demo")]
    assert spans == [("subject-1", 10, 500, "lid"), ("subject-9", 500, None, "lid")]


def test_a_stream_stands_on_one_machine_at_a_time(heard: Store) -> None:
    assign_stream(heard, "demo", "subject-1", "imu", "press-1", from_ns=10, **WHO)
    assign_stream(heard, "demo", "subject-1", "imu", "press-2", from_ns=20, **WHO)
    spans = [(a.machine, a.from_ns, a.to_ns) for a in assignments_of(heard, "demo")]
    assert spans == [("press-1", 10, 20), ("press-2", 20, None)]
    for span in ((12, 15), (5, None), (20, 30)):
        with pytest.raises(RejectedInput, match="already"):
            assign_stream(
                heard, "demo", "subject-1", "imu", "press-1", from_ns=span[0], to_ns=span[1], **WHO
            )
    assign_stream(heard, "demo", "subject-1", "imu", "press-2", from_ns=5, to_ns=10, **WHO)
    assert list_machines(heard, "demo")[0] == ("press-1", "hall 3", {"kw": 11})


@pytest.mark.parametrize("change", [rename_device, retire_device, replace_device])
def test_a_device_that_was_never_heard_cannot_be_changed(heard: Store, change: object) -> None:
    more = () if change is retire_device else ("other",)
    with pytest.raises(RejectedInput, match="no device"):
        change(heard, "demo", "nobody", *more, **WHO)  # type: ignore[operator]
    assert audit_trail(heard, "demo") == []


def test_an_erased_device_is_in_no_table_and_the_books_say_why(heard: Store) -> None:
    done = erase_device(heard, "demo", "subject-1", **WHO)
    assert done.rows["frames"] == 3000
    assert done.rows["annotations"] == 2
    kept = {"device_audit", "retired"}
    with heard.read() as connection:
        for table in metadata.sorted_tables:
            if table.name in kept:
                continue
            for name in ("device", "about_device"):
                if name in table.c:
                    own = table.c[name] == "subject-1"
                    assert connection.execute(table.select().where(own)).all() == [], table.name
    entries = {entry.log.device: entry for entry in books(heard)}
    assert entries["desk"].balanced
    assert entries["desk"].held.retired == 2
    assert entries["subject-1"].held.retired == 3000
    assert audit_trail(heard, "demo")[0].detail["rows"]["frames"] == 3000
    assert erase_device(heard, "demo", "subject-1", **WHO).rows == {}
