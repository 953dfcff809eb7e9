"""The books of each log, and what does not balance, in words."""

from __future__ import annotations

import pytest

from fieldloop_contract.messages import LedgerTotals, Reported
from fieldloop_store.engine import Store
from fieldloop_store.ingest import Intake, store_intake
from fieldloop_store.ledger import Books, books, missing_ranges
from fieldloop_store.presence import Presence
from fieldloop_telemetry.door import admit
from support.telemetry import EPOCH, LOG, event, frames, rows

_ROOT = "fieldloop/v1/demo/subject-1/ingestion"


def put(store: Store, channel: str, payload: bytes, received_ns: int = 5) -> None:
    parcel = admit(f"{_ROOT}/{channel}", payload, received_ns)
    intake = Intake(letters=parcel.letters, received_ns=received_ns)
    intake.rows[parcel.table] = parcel.rows
    store_intake(store, intake)


def report(store: Store, produced: int, stored: int, pending: int = 0, **more: int) -> None:
    totals = LedgerTotals(
        epoch=EPOCH,
        produced=produced,
        stored=stored,
        pending=pending,
        withheld=more.get("withheld", 0),
        dropped={"bound": more["dropped"]} if "dropped" in more else {},
    )
    message = Presence(
        "demo", "subject-1", "ingestion", Reported(session="s", ledgers=[totals]), 10
    )
    store_intake(store, Intake(presence=[message], received_ns=10))


def only(store: Store) -> Books:
    (entry,) = books(store, fleet="demo")
    return entry


def test_books_balance_when_all_is_where_it_should_be(store: Store) -> None:
    put(store, "frames", frames([*range(1, 41), *range(46, 51)]))
    put(store, "events", rows([(41, event(41)), (42, {"type": 5})]))
    report(store, produced=60, stored=47, pending=10, withheld=2, dropped=1)
    entry = only(store)
    assert entry.faults == ()
    assert entry.balanced
    assert entry.held.rows == {"frames": 45, "events": 1}
    assert (entry.held.refused, entry.held.distinct) == (1, 47)
    assert (entry.held.seq_first, entry.held.seq_last) == (1, 50)
    assert missing_ranges(store, LOG) == [(43, 45)]


@pytest.mark.parametrize(
    ("report_of", "words"),
    [
        ({"produced": 20, "stored": 12, "pending": 8}, "2 rows that the device counts as stored"),
        ({"produced": 13, "stored": 10, "pending": 2}, "own books are off by 1"),
        ({"produced": 8, "stored": 8}, "2 rows more than the device had produced"),
    ],
)
def test_what_does_not_balance_is_said(store: Store, report_of: dict[str, int], words: str) -> None:
    put(store, "frames", frames(range(1, 11)))
    report(store, **report_of)
    (fault,) = only(store).faults
    assert words in fault


def test_rows_that_came_after_the_report_are_not_held_against_it(store: Store) -> None:
    put(store, "frames", frames(range(1, 11)), received_ns=5)
    report(store, produced=10, stored=10)
    put(store, "frames", frames(range(11, 21)), received_ns=11)
    assert only(store).balanced


def test_a_log_that_was_never_reported_does_not_balance(store: Store) -> None:
    put(store, "frames", frames([1]))
    assert only(store).faults == ("the device has not reported this log",)


def test_a_reported_log_of_which_nothing_came_balances_while_it_is_pending(store: Store) -> None:
    report(store, produced=5, stored=0, pending=5)
    assert only(store).balanced


def test_a_seq_in_two_tables_is_found(store: Store) -> None:
    put(store, "frames", frames([1, 2]))
    put(store, "events", rows([(2, event(2))]))
    report(store, produced=2, stored=2)
    assert only(store).faults == ("1 seqs stand in more than one table",)


def test_a_conflict_is_told_and_does_not_upset_the_sum(store: Store) -> None:
    put(store, "frames", frames([1, 2]))
    put(store, "frames", frames([2], value=0.5))
    report(store, produced=2, stored=2)
    entry = only(store)
    assert entry.balanced
    assert "two contents" in entry.notes[0]


def test_missing_ranges_are_found_from_any_seq(store: Store) -> None:
    put(store, "frames", frames([3, 4, 7, 8, 20]))
    assert missing_ranges(store, LOG) == [(5, 6), (9, 19)]
    assert missing_ranges(store, LOG, seq_first=1) == [(1, 2), (5, 6), (9, 19)]
    assert missing_ranges(store, LOG, seq_first=6) == [(6, 6), (9, 19)]
    assert missing_ranges(store, LOG, limit=1) == [(5, 6)]
