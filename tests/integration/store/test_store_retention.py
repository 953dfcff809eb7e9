"""Retention: old rows go or are reduced, and the books still balance. On both back ends."""

from __future__ import annotations

from typing import Any

import pytest

from fieldloop_contract.batch import SequencedFrame
from fieldloop_contract.messages import Event, LedgerTotals, Reported
from fieldloop_store.engine import Store
from fieldloop_store.ingest import Intake, store_intake
from fieldloop_store.ledger import Books, books, missing_ranges
from fieldloop_store.presence import Presence
from fieldloop_store.retention import Policy, retire
from fieldloop_store.rows import event_row, frame_row
from support.telemetry import LOG, T0_NS, count, event, frame

DAY_NS = 86_400 * 10**9


def put(store: Store, seqs: range, received_ns: int, stream: str = "imu") -> None:
    rows = [frame_row(LOG, SequencedFrame(s, frame(s, stream=stream)), received_ns) for s in seqs]
    store_intake(store, Intake(rows={"frames": rows}, received_ns=received_ns))


def put_event(store: Store, seq: int, received_ns: int) -> None:
    row = event_row(LOG, seq, Event.model_validate(event(seq)), event(seq), received_ns)
    store_intake(store, Intake(rows={"events": [row]}, received_ns=received_ns))


def report(store: Store, produced: int) -> None:
    totals = LedgerTotals(
        epoch=LOG.epoch, produced=produced, stored=produced, pending=0, withheld=0
    )
    message = Reported(session="s", ledgers=[totals])
    now_ns = 100 * DAY_NS
    presence = Presence(LOG.fleet, LOG.device, LOG.service, message, now_ns)
    store_intake(store, Intake(presence=[presence], received_ns=now_ns))


def policy(*rules: dict[str, Any]) -> Policy:
    return Policy.model_validate({"rules": list(rules)})


def apply(store: Store, rules: Policy) -> int:
    return sum(step.deleted for step in retire(store, rules, 100 * DAY_NS))


def only(store: Store) -> Books:
    (entry,) = books(store)
    return entry


OLD = {"table": "frames", "older_than_days": 30}


def test_old_rows_go_new_ones_stay_and_the_books_balance(store: Store) -> None:
    put(store, range(1, 1201), 10 * DAY_NS)
    put_event(store, 1201, 10 * DAY_NS)
    put(store, range(1202, 1301), 90 * DAY_NS)
    report(store, 1300)
    assert apply(store, policy(OLD)) == 1200
    assert (count(store, "frames"), count(store, "events")) == (99, 1)
    entry = only(store)
    assert entry.faults == ()
    assert (entry.held.retired, entry.held.distinct) == (1200, 1300)
    assert missing_ranges(store, LOG, seq_first=1, seq_last=1300) == []
    assert apply(store, policy(OLD)) == 0


def test_a_row_that_comes_again_after_it_was_retired_is_counted_once(store: Store) -> None:
    reduced = policy(OLD | {"reduce_to_s": 60})
    put(store, range(1, 11), 10 * DAY_NS)
    report(store, 10)
    assert apply(store, reduced) == 10
    with store.read() as connection:
        first = connection.exec_driver_sql("SELECT * FROM frame_summaries").all()
    put(store, range(4, 7), 20 * DAY_NS)
    assert only(store).held.distinct == 10
    assert only(store).balanced
    assert apply(store, reduced) == 3
    with store.read() as connection:
        assert connection.exec_driver_sql("SELECT * FROM frame_summaries").all() == first
    assert only(store).balanced


def test_reduced_frames_leave_min_mean_and_max_of_each_interval(store: Store) -> None:
    put(store, range(1, 1001), 10 * DAY_NS)  # 2 samples of value `seq` each 40 ms
    apply(store, policy(OLD | {"reduce_to_s": 10}))
    with store.read() as connection:
        rows = connection.exec_driver_sql(
            "SELECT t0_ns, samples, minimum, mean, maximum FROM frame_summaries"
            " WHERE channel = 0 ORDER BY t0_ns"
        ).all()
    assert sum(row.samples for row in rows) == 2000
    for row in rows:
        assert row.t0_ns % (10 * 10**9) == 0
        first = max(1, -(-(row.t0_ns - T0_NS) // 40_000_000))
        seqs = range(first, min(1001, first + row.samples // 2))
        assert (row.minimum, row.maximum) == (seqs[0], seqs[-1])
        assert row.mean == pytest.approx(sum(seqs) / len(seqs))


def test_the_first_rule_that_fits_decides(store: Store) -> None:
    put(store, range(1, 6), 10 * DAY_NS, "imu")
    put(store, range(6, 11), 10 * DAY_NS, "audio")
    keep_imu = {"table": "frames", "stream": "imu", "older_than_days": 365}
    assert apply(store, policy(keep_imu, OLD)) == 5
    with store.read() as connection:
        left = connection.exec_driver_sql("SELECT DISTINCT stream FROM frames").scalars().all()
    assert left == ["imu"]
    assert apply(store, policy({"table": "frames", "device": "other", "older_than_days": 1})) == 0


def test_missing_ranges_between_fences(store: Store) -> None:
    put(store, range(10, 21), 1)
    put(store, range(31, 41), 1)
    assert missing_ranges(store, LOG, seq_first=1, seq_last=50) == [(1, 9), (21, 30), (41, 50)]
    assert missing_ranges(store, LOG, seq_first=15, seq_last=35) == [(21, 30)]
    assert missing_ranges(store, LOG, seq_first=22, seq_last=25) == [(22, 25)]
    assert missing_ranges(store, LOG, seq_first=12, seq_last=14) == []
    big = 2**40
    assert missing_ranges(store, LOG, seq_first=41, seq_last=big) == [(41, big)]
