"""One replica keeps house, and what was erased is not asked for again."""

from __future__ import annotations

from pathlib import Path

from fieldloop_contract.batch import SequencedFrame
from fieldloop_contract.messages import LedgerTotals, Reported, Status, Want, decode
from fieldloop_runtime.health import Health
from fieldloop_runtime.journal import Journal
from fieldloop_store.devices import erase_device
from fieldloop_store.engine import Store
from fieldloop_store.ingest import Intake, store_intake
from fieldloop_store.presence import Presence
from fieldloop_store.rows import frame_row
from fieldloop_telemetry.housekeeping import Housekeeping, Leadership
from fieldloop_telemetry.settings import CareSettings
from support.postgres import shared_postgres
from support.telemetry import EPOCH, LOG, frame


def put(store: Store, seqs: range) -> None:
    rows = [frame_row(LOG, SequencedFrame(s, frame(s)), 1) for s in seqs]
    store_intake(store, Intake(rows={"frames": rows}, received_ns=1))


def report(store: Store, stored: int) -> None:
    totals = LedgerTotals(epoch=EPOCH, produced=100, stored=stored, pending=0, withheld=0)
    totals = totals.model_copy(update={"pending": 100 - stored})
    for message in (Status(state="online", session="s"), Reported(session="s", ledgers=[totals])):
        item = Presence(LOG.fleet, LOG.device, LOG.service, message, 9)
        store_intake(store, Intake(presence=[item], received_ns=9))


def test_one_replica_keeps_house_and_another_follows_when_it_is_gone() -> None:
    url = shared_postgres().new_database()
    stores = [Store.open(url), Store.open(url)]
    first, second = (Leadership(store) for store in stores)
    assert (first.held(), second.held()) == (True, False)
    assert (first.held(), second.held()) == (True, False)
    first.close()
    assert second.held()
    second.close()
    for store in stores:
        store.close()


def test_what_is_lacking_is_asked_for_and_what_was_erased_is_not(tmp_path: Path) -> None:
    store = Store.open(f"sqlite:///{tmp_path / 'store.sqlite'}")
    published: list[tuple[str, bytes]] = []
    keeping = Housekeeping(
        CareSettings(audit_interval_s=1, recover_interval_s=1),
        store=store,
        publish=lambda topic, payload: published.append((topic, payload)),
        health=Health(),
        journal=Journal("test"),
    )

    def keep(begin_s: float) -> list[tuple[str, bytes]]:
        published.clear()
        for turn in range(20):
            keeping.turn(begin_s + turn)
        return list(published)

    put(store, range(1, 61))
    report(store, 60)
    assert keep(0) == []
    report(store, 90)
    asked = keep(100)
    assert {topic for topic, _ in asked} == {"fieldloop/v1/demo/subject-1/ingestion/want"}
    assert decode(Want, asked[0][1]).ranges == [(61, 100)]
    assert len(asked) < 6
    put(store, range(61, 91))
    assert keep(300) == []
    erase_device(store, "demo", "subject-1", actor="anna", now_ns=5)
    report(store, 90)
    assert keep(500) == []
    store.close()
