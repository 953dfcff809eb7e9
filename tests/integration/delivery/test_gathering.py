"""Evidence and rows in a real SQLite store."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert

from fieldloop_contract.messages import ModelRef
from fieldloop_delivery.evidence import Evidence, model_target
from fieldloop_delivery.gathering import gather
from fieldloop_delivery.rollout import Member, Rollout
from fieldloop_store.queries import device_services
from fieldloop_store.rollouts import (
    AssignmentRow,
    DocumentRow,
    list_assignments,
    list_documents,
    save_look,
)
from fieldloop_store.schema import annotations
from support.delivering import DeliveryProcess
from support.signed import FLEET, bundle

OLD, NEW = bundle(1)[0].ref(), bundle(2)[0].ref()
ROLLOUT = Rollout(
    id="r" * 32,
    lane="main",
    target=model_target(NEW),
    members={"pump-1": Member(0, 0.0, model_target(OLD))},
    controls={"pump-3": ""},
)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[DeliveryProcess]:
    made = DeliveryProcess(tmp_path, 1)
    yield made
    made.close()


def seen(fleet: DeliveryProcess, device: str = "pump-1", since_ns: int = 0) -> Evidence:
    services = {row.device: row for row in device_services(fleet.store, FLEET)}
    return gather(fleet.store, FLEET, ROLLOUT, services, since_ns, time.time_ns())[device]


def test_installed_means_active_with_that_very_digest(fleet):
    fleet.online("pump-1", active=OLD, state="ACTIVE")
    assert not seen(fleet).installed
    fleet.online("pump-1", active=NEW, state="PROBATION")
    assert not seen(fleet).installed
    fleet.online(
        "pump-1", active=ModelRef(name="activity", version=2, digest="f" * 64), state="ACTIVE"
    )
    assert not seen(fleet).installed
    fleet.online("pump-1", active=NEW, state="ACTIVE")
    assert seen(fleet).installed


def test_windows_count_by_the_digest_in_the_result(fleet):
    fleet.online("pump-1")
    fleet.windows("pump-1", OLD, 7)
    fleet.windows("pump-1", NEW, 3)
    fleet.windows("pump-1", NEW, 2, valid=False)
    evidence = seen(fleet)
    assert (evidence.new.windows, evidence.new.invalid) == (5, 2)
    assert evidence.old.windows == 7
    assert evidence.new.latency_us == 100.0


def test_windows_of_a_stopped_machine_are_evidence_for_nothing(fleet):
    fleet.online("pump-1")
    fleet.windows("pump-1", NEW, 3, running=True)
    fleet.windows("pump-1", NEW, 9, running=False)
    assert seen(fleet).new.windows == 3


def test_windows_before_the_rollout_do_not_count(fleet):
    fleet.online("pump-1")
    fleet.windows("pump-1", NEW, 3)
    assert seen(fleet, since_ns=time.time_ns()).new.windows == 0


def test_labels_give_the_accuracy_of_both_versions(fleet):
    fleet.online("pump-1")
    fleet.windows("pump-1", OLD, 10)
    fleet.windows("pump-1", NEW, 10)
    rows = [
        {
            "fleet": FLEET,
            "device": "desk",
            "service": "labels",
            "epoch": "cd" * 16,
            "seq": i,
            "about_device": "pump-1",
            "stream": "imu",
            "t0_ns": t0_ns,
            "t1_ns": t1_ns,
            "label": label,
            "annotator": "",
            "confidence": 1.0,
            "digest": b"12345678",
            "received_ns": 1,
        }
        for i, (t0_ns, t1_ns, label) in enumerate(
            [(1, 6, "rest"), (6, 11, "walk"), (11, 21, "rest")]
        )
    ]
    with fleet.store.begin() as connection:
        connection.execute(insert(annotations), rows)
    evidence = seen(fleet)
    assert (evidence.old.labelled, evidence.old.correct) == (10, 5)
    assert (evidence.new.labelled, evidence.new.correct) == (10, 10)


def test_failure_is_known_by_its_event_and_by_its_digest(fleet):
    fleet.online("pump-1")
    fleet.event("pump-1", "model.rejected", model=OLD.model_dump(), reason="golden")
    assert seen(fleet).failed == ""
    fleet.event("pump-1", "model.rejected", model=NEW.model_dump(), reason="golden")
    assert seen(fleet).failed == "model.rejected: golden"


def test_devices_that_were_not_touched_show_nothing_of_the_version(fleet):
    fleet.online("pump-2", active=NEW, state="ACTIVE")
    fleet.windows("pump-2", NEW, 50)
    assert seen(fleet, "pump-2").new.windows == 0


def test_look_is_stored_as_a_whole_and_orders_never_go_back(fleet):
    def save(version: int, model: str | None) -> None:
        save_look(
            fleet.store,
            FLEET,
            changed=[],
            assigned=[AssignmentRow("pump-1", "main", model, version, None)],
            signed=[DocumentRow("pump-1", version, b"%d" % version)],
            now_ns=1,
        )

    save(1, "activity")
    save(3, "activity")
    save(2, None)
    assert list_documents(fleet.store, FLEET) == [DocumentRow("pump-1", 3, b"3")]
    assert list_assignments(fleet.store, FLEET) == [AssignmentRow("pump-1", "main", None, 2, None)]
