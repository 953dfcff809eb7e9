"""Commissionings in the store, on both back ends: begun, judged, armed by a person, gone stale."""

from __future__ import annotations

import pytest

from fieldloop_contract.calibration import Calibration
from fieldloop_contract.errors import RejectedInput
from fieldloop_contract.messages import ModelRef
from fieldloop_store import commissionings as c
from fieldloop_store.auditing import audit_trail
from fieldloop_store.engine import Store

T = 1_700_000_000_000_000_000
PLAN = {"running_hours": 24.0, "budget_per_week": 0.5}
PEAKS = {"count": 12.0, "high": 2.0, "excess": 0.5, "per_week": 300.0}


def record(threshold: float = 3.0) -> Calibration:
    return Calibration(
        fleet="acme", device="dev-1", slot="main", stream="vibration", machine="pump-1",
        model=ModelRef(name="pump", version=2, digest="b" * 64), epoch="c" * 32, seq_first=1,
        epoch_last="c" * 32, seq_last=900, t0_ns=T, t1_ns=T + 10**12, windows=500, centre=1.0,
        scale=0.3, threshold=threshold,
    )  # fmt: skip


def begin(store: Store) -> str:
    row = c.begin(
        store, "acme", machine="pump-1", device="dev-1", slot="main", plan=PLAN, actor="ann",
        now_ns=T,
    )  # fmt: skip
    return row.id


def ready(store: Store, threshold: float = 3.0) -> str:
    name = begin(store)
    found = {"words": "ready", "peaks": PEAKS}
    assert c.judged(
        store, name, state="ready", assessment=found, record=record(threshold), now_ns=T
    )
    return name


def test_only_what_is_ready_is_armed_and_by_a_person(store: Store) -> None:
    name = begin(store)
    waiting = {"words": "3.0 of 24.0 running hours"}
    c.judged(store, name, state="waiting", assessment=waiting, record=None, now_ns=T)
    with pytest.raises(RejectedInput, match=r"3\.0 of 24\.0 running hours"):
        c.arm(store, "acme", name, actor="ann", now_ns=T)
    assert c.in_force(store, "acme") == []
    row = c.arm(store, "acme", ready(store), actor="ann", now_ns=T)
    assert c.in_force(store, "acme", device="dev-1") == [row]
    assert (row.armed_by, row.record, row.peaks) == ("ann", record(), PEAKS)
    assert c.find_calibration(store, "acme", record().digest()) == row
    actions = [a.action for a in audit_trail(store, "acme", device="dev-1")]
    assert actions == ["calibration armed", "commissioning begun", "commissioning begun"]


def test_one_commissioning_of_a_slot_is_under_way(store: Store) -> None:
    first, second = begin(store), begin(store)
    assert [r.id for r in c.list_commissionings(store, "acme", under_way=True)] == [second]
    assert not c.judged(store, first, state="ready", assessment={}, record=record(), now_ns=T)
    assert c.judged(store, second, state="refused", assessment={}, record=None, now_ns=T)
    c.end(store, "acme", second, actor="ann", now_ns=T)
    with pytest.raises(RejectedInput, match="it is ended"):
        c.end(store, "acme", second, actor="ann", now_ns=T)
    with pytest.raises(RejectedInput, match="no commissioning"):
        c.arm(store, "other", second, actor="ann", now_ns=T)


def test_another_record_takes_the_place_of_the_one_in_force(store: Store) -> None:
    c.arm(store, "acme", ready(store), actor="ann", now_ns=T)
    second = c.arm(store, "acme", ready(store, 4.0), actor="bo", now_ns=T + 1)
    assert c.in_force(store, "acme") == [second]
    first = c.find_calibration(store, "acme", record().digest())
    assert first is not None
    assert first.stale_because == "another record took its place"


def test_a_repair_makes_it_stale_and_the_same_record_may_be_trusted_again(store: Store) -> None:
    c.arm(store, "acme", ready(store), actor="ann", now_ns=T)
    because = "bearing was replaced"
    told = {"because": because, "actor": "ann", "now_ns": T + 5}
    assert c.go_stale(store, "acme", "dev-1", "main", **told) == 1
    assert c.go_stale(store, "acme", "dev-1", "main", **told) == 0
    assert c.in_force(store, "acme") == []
    again = c.arm(store, "acme", ready(store), actor="bo", now_ns=T + 9)
    assert [r.armed_by for r in c.in_force(store, "acme")] == ["bo"]
    assert again.digest == record().digest()
