"""The books of a log: one account for each epoch, kept in the same transactions as the rows.

    produced = stored + pending + withheld + dropped (by cause)

`stored` counts rows that the cloud acknowledged, `withheld` those that are never sent by policy;
deleting either at a bound changes nothing here. Owner thread only.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field

from fieldloop_buffer.entry import SEQ_MAX, row_id
from fieldloop_contract.messages import LedgerTotals

EPOCHS_KEPT = 32
"""Closed epochs whose totals are kept after their last row is gone."""


@dataclass(slots=True)
class Account:
    """One epoch. `produced` is `next_seq - 1`: a seq is given out once, whatever becomes of it."""

    no: int
    epoch: str
    next_seq: int = 1
    durable_seq: int = 0
    stored: int = 0
    pending: int = 0
    withheld: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    drops_changed: bool = False

    def copy(self) -> Account:
        """Another one of the same figures."""
        return Account(
            self.no,
            self.epoch,
            self.next_seq,
            self.durable_seq,
            self.stored,
            self.pending,
            self.withheld,
            dict(self.dropped),
            self.drops_changed,
        )

    def drop(self, cause: str, n: int) -> None:
        """Count `n` rows as dropped."""
        if n:
            self.dropped[cause] = self.dropped.get(cause, 0) + n
            self.drops_changed = True

    def totals(self) -> LedgerTotals:
        """As it is reported."""
        return LedgerTotals(
            epoch=self.epoch,
            produced=self.next_seq - 1,
            stored=self.stored,
            pending=self.pending,
            withheld=self.withheld,
            dropped=dict(sorted(self.dropped.items())),
        )


class Books:
    """All accounts of one file, by epoch number and by epoch."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self.accounts: dict[int, Account] = {}
        self.load()

    def load(self) -> None:
        """Read them from the file.

        Raises:
            sqlite3.Error: they cannot be read; what was in memory stays.
        """
        accounts = {
            row[0]: Account(*row)
            for row in self._db.execute(
                "SELECT no, epoch, next_seq, durable_seq, stored, pending, withheld"
                " FROM epochs ORDER BY no"
            )
        }
        for no, cause, n in self._db.execute("SELECT no, cause, n FROM drops"):
            if no in accounts:
                accounts[no].dropped[cause] = n
        self.accounts = accounts

    def snapshot(self) -> dict[int, Account]:
        """A copy, to go back to when a transaction is rolled back."""
        return {no: account.copy() for no, account in self.accounts.items()}

    def by_epoch(self, epoch: str) -> Account | None:
        """The account of an epoch, None for one that is not known here."""
        return next((a for a in self.accounts.values() if a.epoch == epoch), None)

    def newest(self) -> Account | None:
        """The account of the newest epoch."""
        return self.accounts[max(self.accounts)] if self.accounts else None

    def open(self, epoch: str, created_ns: int) -> Account:
        """Begin an epoch."""
        newest = self.newest()
        account = Account(newest.no + 1 if newest else 1, epoch)
        self._db.execute(
            "INSERT INTO epochs (no, epoch, next_seq, durable_seq, stored, pending, withheld,"
            " created_ns) VALUES (?, ?, 1, 0, 0, 0, 0, ?)",
            (account.no, epoch, created_ns),
        )
        self.accounts[account.no] = account
        return account

    def save(self, account: Account) -> None:
        """Write one account."""
        self._db.execute(
            "UPDATE epochs SET next_seq = ?, durable_seq = ?, stored = ?, pending = ?,"
            " withheld = ? WHERE no = ?",
            (
                account.next_seq,
                account.durable_seq,
                account.stored,
                account.pending,
                account.withheld,
                account.no,
            ),
        )
        if account.drops_changed:
            account.drops_changed = False
            self._db.executemany(
                "INSERT INTO drops (no, cause, n) VALUES (?, ?, ?)"
                " ON CONFLICT (no, cause) DO UPDATE SET n = excluded.n",
                [(account.no, cause, n) for cause, n in account.dropped.items()],
            )

    def forget_closed(self) -> None:
        """Delete accounts that nothing can change any more, beyond the newest `EPOCHS_KEPT`."""
        closed = [
            no
            for no, account in sorted(self.accounts.items())[:-1]
            if account.pending == 0 and not self._holds_rows(no)
        ]
        for no in closed[:-EPOCHS_KEPT]:
            self._db.execute("DELETE FROM epochs WHERE no = ?", (no,))
            self._db.execute("DELETE FROM drops WHERE no = ?", (no,))
            del self.accounts[no]

    def _holds_rows(self, no: int) -> bool:
        span = (row_id(no, 0), row_id(no, SEQ_MAX))
        found = self._db.execute("SELECT 1 FROM rows WHERE id BETWEEN ? AND ? LIMIT 1", span)
        return found.fetchone() is not None
