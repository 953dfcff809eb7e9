"""Alarms in the store, on both back ends: exactly once, whoever acts, and labels from verdicts."""

from __future__ import annotations

import threading

import pytest

from fieldloop_contract.errors import RejectedInput
from fieldloop_store import lifecycle
from fieldloop_store.alarms import (
    Said,
    act,
    find_alarm,
    history_of,
    list_alarms,
    read_state,
    take,
    write_labels,
)
from fieldloop_store.engine import Store
from fieldloop_store.lifecycle import Phase
from fieldloop_store.machines import assign_stream, put_machine
from fieldloop_store.queries import annotations

S = 1_000_000_000
T = 1_700_000_000 * S
MODEL = {"name": "pump", "version": 3, "digest": "a" * 64}


def said(raised: bool, at_s: float, device: str = "dev-1", slot: str = "main") -> Said:
    document = {"model": MODEL, "score": 3.0, "threshold": 2.0}
    return Said(device, slot, "vibration", raised, T + int(at_s * S), document)


@pytest.fixture
def alarm(store: Store) -> str:
    put_machine(store, "acme", "pump-1", site="north hall", now_ns=T)
    assign_stream(
        store, "acme", "dev-1", "vibration", "pump-1", from_ns=T - S, actor="ann", now_ns=T
    )
    told = take(store, "acme", [said(True, 0)], cursor=[1], now_ns=T)
    assert [t.what for t in told] == ["raised"]
    return told[0].row.id


def test_an_alarm_belongs_to_the_machine_that_the_stream_measured(store: Store, alarm: str) -> None:
    row = find_alarm(store, "acme", alarm)
    assert row is not None
    assert (row.machine, row.site, row.life.phase) == ("pump-1", "north hall", Phase.UNACKNOWLEDGED)
    other = take(store, "acme", [said(True, 0, "dev-2")], now_ns=T)[0].row
    assert (other.machine, other.site) == ("", "")


def test_a_life_is_written_with_its_history(store: Store, alarm: str) -> None:
    take(store, "acme", [said(False, 60), said(True, 90), said(False, 100)], cursor=[2], now_ns=T)
    act(store, "acme", alarm, lifecycle.Acknowledged(T + 200 * S, "ann"), now_ns=T + 200 * S)
    row = find_alarm(store, "acme", alarm)
    assert row is not None
    assert (row.life.phase, row.life.raises) == (Phase.CLOSED, 2)
    assert [h.event for h in history_of(store, "acme", alarm)] == [
        "raised", "cleared", "raised", "cleared", "acknowledged",
    ]  # fmt: skip
    assert read_state(store, "acme", "cursor") == [2]
    again = take(store, "acme", [said(True, 300)], now_ns=T)
    assert again[0].row.id != alarm  # the next occurrence is another alarm


def test_what_means_nothing_is_refused_in_words_and_leaves_no_trace(
    store: Store, alarm: str
) -> None:
    with pytest.raises(RejectedInput, match="cannot be unshelved"):
        act(store, "acme", alarm, lifecycle.Unshelved(T, "ann"), now_ns=T)
    with pytest.raises(RejectedInput, match="no alarm"):
        act(store, "acme", "f" * 32, lifecycle.Acknowledged(T, "ann"), now_ns=T)
    with pytest.raises(RejectedInput, match="no alarm"):
        act(store, "other", alarm, lifecycle.Acknowledged(T, "ann"), now_ns=T)
    assert len(history_of(store, "acme", alarm)) == 1
    assert take(store, "acme", [said(False, 1, "dev-9")], now_ns=T) == []


def test_a_verdict_is_a_label_at_once_and_a_changed_one_another(store: Store, alarm: str) -> None:
    take(store, "acme", [said(False, 60)], now_ns=T)
    now = T + 100 * S
    act(store, "acme", alarm, lifecycle.Judged(now, "ann", "false-alarm"), now_ns=now)
    labels = list(annotations(store, "acme", device="dev-1"))
    assert [(x.label, x.annotator, x.t0_ns, x.t1_ns) for x in labels] == [
        ("healthy", "ann", T, T + 60 * S)
    ]
    assert write_labels(store, "acme", now_ns=now) == 0
    act(store, "acme", alarm, lifecycle.Judged(now + S, "bo", "fault"), now_ns=now + S)
    assert sorted(x.label for x in annotations(store, "acme", device="dev-1")) == [
        "fault", "healthy",
    ]  # fmt: skip


def test_a_shelf_ends_by_itself_once(store: Store, alarm: str) -> None:
    until = T + 3_600 * S
    act(store, "acme", alarm, lifecycle.Shelved(T, "ann", until, "greasing"), now_ns=T)
    assert take(store, "acme", [said(False, 5), said(True, 6)], now_ns=T) == []
    assert take(store, "acme", [], now_ns=until - 1) == []
    told = take(store, "acme", [], now_ns=until)
    assert [(t.row.id, t.what) for t in told] == [(alarm, "back from the shelf")]
    assert take(store, "acme", [], now_ns=until + S) == []


def test_what_follows_is_written_with_it_or_nothing_is(store: Store, alarm: str) -> None:
    def fails(_connection: object, told: list[object]) -> None:
        assert len(told) == 1
        raise RuntimeError("killed here")

    with pytest.raises(RuntimeError):
        take(store, "acme", [said(True, 0, "dev-5")], cursor=[9], now_ns=T, also=fails)
    assert list_alarms(store, "acme", device="dev-5") == []
    assert read_state(store, "acme", "cursor") == [1]


def test_pages_are_complete_and_in_order(store: Store) -> None:
    take(store, "acme", [said(True, i // 2, f"dev-{i}") for i in range(25)], now_ns=T)
    seen: list[str] = []
    before = None
    while page := list_alarms(store, "acme", before=before, limit=10):
        seen += [row.id for row in page]
        before = (page[-1].life.raised_ns, page[-1].id)
    assert len(seen) == len(set(seen)) == 25
    assert len(list_alarms(store, "acme", open_only=True, device="dev-3")) == 1


def test_two_people_and_a_device_at_once_leave_one_true_story(store: Store, alarm: str) -> None:
    faults: list[Exception] = []

    def person(name: str) -> None:
        try:
            for _ in range(5):
                act(store, "acme", alarm, lifecycle.Judged(T, name, "fault"), now_ns=T)
        except Exception as error:  # noqa: BLE001 - shown by the assertion below
            faults.append(error)

    def device() -> None:
        for i in range(5):
            take(store, "acme", [said(bool(i % 2), 10 + i)], now_ns=T)

    threads = [threading.Thread(target=person, args=(n,)) for n in ("ann", "bo")]
    threads.append(threading.Thread(target=device))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    events = [h.event for h in history_of(store, "acme", alarm)]
    assert events.count("judged") == 10
    row = find_alarm(store, "acme", alarm)
    assert row is not None
    assert row.life.raises == events.count("raised") == 3
    assert not row.life.standing
