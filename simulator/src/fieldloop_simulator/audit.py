"""The end of a run: do the books of every virtual device balance, and does the store agree."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from fieldloop_contract.messages import LedgerTotals
from fieldloop_store.engine import Store
from fieldloop_store.ledger import audit_log
from fieldloop_store.rows import LogKey

FAULTS_TOLD_MAX = 20


@dataclass(frozen=True, slots=True)
class Audit:
    """What was found.

    Attributes:
        totals: produced, stored, pending, withheld, and `dropped.` by cause, of all logs.
        logs: logs and epochs looked at.
        compared: of them, those that were compared with the store.
        lost: rows that the cloud acknowledged and its store does not have.
        doubled: seqs that the store has in more than one table, or with two contents.
        faults: in words, at most `FAULTS_TOLD_MAX`.
    """

    totals: dict[str, int]
    logs: int
    compared: int
    lost: int
    doubled: int
    faults: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether there is nothing to explain."""
        return not self.faults


def audit(
    books: list[dict[str, Any]], *, expected: int, store_url: str, fleet: str, died: int
) -> Audit:
    """Add up and compare.

    Args:
        books: ledgers as documents, with `device` and `service`.
        expected: devices that have to have some.
        store_url: the cloud's store; "" compares nothing with it.
        died: processes that did not end well.
    """
    totals: Counter[str] = Counter()
    faults: list[str] = []
    if died:
        faults.append(f"{died} processes did not end well")
    devices = {entry["device"] for entry in books}
    if len(devices) != expected:
        faults.append(f"{expected - len(devices)} devices have no books")
    for entry in books:
        one = LedgerTotals.model_validate(entry)
        totals.update(
            produced=one.produced, stored=one.stored, pending=one.pending, withheld=one.withheld
        )
        totals.update({f"dropped.{cause}": n for cause, n in one.dropped.items()})
        if not one.balanced:
            faults.append(f"{entry['device']}/{entry['service']}: the books do not balance")
    compared = lost = doubled = 0
    if store_url:
        compared, lost, doubled, more = _compare(books, store_url, fleet)
        faults += more
    return Audit(dict(totals), len(books), compared, lost, doubled, faults[:FAULTS_TOLD_MAX])


def _compare(
    books: list[dict[str, Any]], store_url: str, fleet: str
) -> tuple[int, int, int, list[str]]:
    """Each log against what the store holds of it."""
    lost = doubled = 0
    faults: list[str] = []
    store = Store.open(store_url)
    try:
        for entry in books:
            key = LogKey(fleet, entry["device"], entry["service"], entry["epoch"])
            held = audit_log(store, key).held
            lacking = entry["stored"] - held.distinct
            twice = held.doubled + held.conflicts
            where = f"{key.device}/{key.service}/{key.epoch[:8]}"
            if lacking > 0:
                lost += lacking
                faults.append(f"{where}: {lacking} acknowledged rows are not in the store")
            if twice:
                doubled += twice
                faults.append(f"{where}: {twice} seqs stand twice")
            if held.distinct > entry["produced"]:
                faults.append(f"{where}: the store has rows that were never produced")
    finally:
        store.close()
    return len(books), lost, doubled, faults
