"""A device that invents services and epochs is bounded, and what was known goes on."""

from __future__ import annotations

import pytest

from fieldloop_contract.messages import LedgerTotals, Reported, Status
from fieldloop_store import presence
from fieldloop_store.engine import Store
from fieldloop_store.ingest import Intake, store_intake
from fieldloop_store.presence import SERVICES_PER_DEVICE_MAX, Presence
from fieldloop_store.queries import device_services
from support.telemetry import count


def say(store: Store, service: str, message: Status | Reported) -> int:
    item = Presence("demo", "evil", service, message, 1)
    return store_intake(store, Intake(presence=[item], received_ns=1)).ignored_wills


def test_services_of_a_device_are_bounded(store: Store) -> None:
    online = Status(state="online", session="s")
    ignored = [say(store, f"s{n}", online) for n in range(SERVICES_PER_DEVICE_MAX + 3)]
    assert sum(ignored) == 3
    assert len(list(device_services(store, "demo"))) == SERVICES_PER_DEVICE_MAX
    assert say(store, "s0", Status(state="offline", session="s")) == 0
    assert next(device_services(store, "demo", service="s0")).state == "offline"


def test_services_of_a_large_fleet_are_all_read(store: Store) -> None:
    online = Status(state="online", session="s")
    items = [Presence("demo", f"d{n:03d}", "inference", online, 1) for n in range(25)]
    store_intake(store, Intake(presence=items, received_ns=1))
    found = [row.device for row in device_services(store, "demo", page_rows=10)]
    assert found == [f"d{n:03d}" for n in range(25)]


def test_epochs_of_a_service_are_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "EPOCHS_PER_SERVICE_MAX", 5)

    def report(first: int, produced: int) -> None:
        totals = [
            LedgerTotals(epoch=f"{n:032x}", produced=produced, stored=0, pending=0, withheld=0)
            for n in range(first, first + 3)
        ]
        say(store, "ingestion", Reported(session="s", ledgers=totals))

    for first in range(0, 30, 3):
        report(first, 1)
    assert count(store, "ledgers") == 5
    report(0, 2)
    with store.read() as connection:
        query = "SELECT count(*) FROM ledgers WHERE produced = 2"
        assert connection.exec_driver_sql(query).scalar_one() == 3
