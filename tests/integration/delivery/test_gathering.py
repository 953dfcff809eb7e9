"""Evidence and rows in a real SQLite store."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert

from fieldloop_contract.messages import ModelRef
from fieldloop_delivery.challenging import pairings, report
from fieldloop_delivery.evidence import Beside, Evidence, model_target
from fieldloop_delivery.gathering import Known, gather
from fieldloop_delivery.rollout import Member, Rollout
from fieldloop_store.queries import device_services
from fieldloop_store.rollouts import (
    AssignmentRow,
    DocumentRow,
    list_assignments,
    list_documents,
    save_look,
)
from fieldloop_store.schema import annotations, results
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


def beside(fleet, ref, role: str, t0_ns: int, **values) -> None:
    fleet._seq += 1
    row = {
        **fleet._row("pump-1"), "stream": "imu", "slot": "main", "role": role, "t0_ns": t0_ns,
        "t1_ns": t0_ns + 1, "model": ref.name, "version": ref.version, "model_digest": ref.digest,
        "label": None, "score": None, "latency_us": 100.0, "valid": True, "document": {}, **values,
    }  # fmt: skip
    with fleet.store.begin() as connection:
        connection.execute(insert(results), [row])


def test_windows_scored_by_both_tell_of_labels_and_of_tails(fleet):
    fleet.online("pump-1")
    for t0_ns, old, new in [(100, "rest", "rest"), (200, "rest", "walk")]:
        beside(fleet, OLD, "active", t0_ns, label=old)
        beside(fleet, NEW, "shadow", t0_ns, label=new)
    for t0_ns, old, new in [(300, 0.1, 0.9), (400, 0.9, 0.9), (500, 0.9, 0.1), (600, 0.1, 0.8)]:
        beside(fleet, OLD, "active", t0_ns, score=old)
        beside(fleet, NEW, "shadow", t0_ns, score=new)
    beside(fleet, OLD, "active", 700, score=0.1)
    beside(fleet, NEW, "shadow", 700, score=0.9, document={"running": False})
    known = Known({OLD.digest: 0.5, NEW.digest: 0.5}, {OLD.digest: (0.2, 500)})
    services = {row.device: row for row in device_services(fleet.store, FLEET)}
    found = gather(fleet.store, FLEET, ROLLOUT, services, 0, time.time_ns(), known)["pump-1"]
    assert found.beside == Beside(windows=6, agreed=2, tailed=4, only_new=2, only_old=1)
    assert found.expected_disagreement == (0.2, 500)


def test_alarms_count_for_the_version_that_raised_them(fleet):
    fleet.online("pump-1")
    for ref, times in ((OLD, 2), (NEW, 3)):
        for _ in range(times):
            fleet.event("pump-1", "alarm.raised", slot="main", model=ref.model_dump())
    fleet.event("pump-1", "alarm.raised", slot="other", model=NEW.model_dump())
    fleet.event("pump-1", "alarm.cleared", slot="main", model=NEW.model_dump())
    evidence = seen(fleet)
    assert (evidence.new.alarms, evidence.old.alarms) == (3, 2)


def test_control_is_counted_before_and_since_the_beginning(fleet):
    fleet.online("pump-3")
    fleet.windows("pump-3", OLD, 4)
    begun_ns = time.time_ns()
    fleet.windows("pump-3", OLD, 9)
    evidence = seen(fleet, "pump-3", begun_ns)
    assert (evidence.old.windows, evidence.new.windows) == (4, 9)


def test_idle_windows_of_the_new_version_are_counted_apart(fleet):
    fleet.online("pump-1")
    fleet.windows("pump-1", NEW, 3, running=True)
    fleet.windows("pump-1", NEW, 9, running=False)
    fleet.windows("pump-1", OLD, 50, running=False)
    assert seen(fleet).idle == 9


def test_challenger_and_champion_are_compared_on_the_same_windows(fleet):
    for t0_ns, old, new in [(100, "rest", "rest"), (200, "rest", "walk"), (300, "run", "run")]:
        beside(fleet, OLD, "active", t0_ns, label=old)
        beside(fleet, NEW, "active", t0_ns, label=new, slot="main-challenger", latency_us=300.0)
    beside(fleet, NEW, "active", 999, label="run", slot="main-challenger")
    (pair,) = pairings(fleet.store, FLEET, "main", 0)
    assert (pair.windows, pair.agreed, pair.champion, pair.challenger) == (3, 2, 1, 2)
    text = report([pair])[-1]
    assert "all 1 devices: version 2 beside 1: 3 windows, agreed on 66.7%" in text
    assert "300 us against 100 us" in text
    assert report([]) == ["no window was scored by both"]
