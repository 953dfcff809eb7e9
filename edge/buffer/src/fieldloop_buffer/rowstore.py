"""Table `rows` and the sets around it: inserting, choosing what is oldest, deleting with accounts.

Runs inside the caller's transactions. Owner thread only.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from fieldloop_buffer.entry import BULK, CODE_OF, split_id
from fieldloop_buffer.ledger import Account, Books
from fieldloop_buffer.pending import PendingSet
from fieldloop_buffer.ranges import Range, count, runs
from fieldloop_buffer.retention import ROW_OVERHEAD_BYTES, every_second
from fieldloop_contract.errors import LimitExceeded

STREAMS_MAX = 1_000
DELETE_ROWS_MAX = 2_000
_INSERT = (
    "INSERT INTO rows (id, kind, stream, t_ns, at_s, withheld, crc, payload)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
RowTuple = tuple[int, int, int, int, int, int, int, bytes]


@dataclass(slots=True)
class Dropped:
    """Rows that were pending and are gone: how many of which stream, and their keys."""

    streams: Counter[str] = field(default_factory=Counter)
    keys: list[Range] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Books and stream names at the beginning of a transaction."""

    accounts: dict[int, Account]
    named: dict[str, int]


class RowStore:
    """Rows, pending set, stream names and books of one file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self.books = Books(connection)
        self.pending = PendingSet(connection)
        rows = connection.execute("SELECT stream, no FROM streams")
        self._stream_nos: dict[str, int] = dict(rows.fetchall())
        self._named = dict(self._stream_nos)  # as the file has them; replaced, never changed

    def snapshot(self) -> Snapshot:
        """What is held in memory, to go back to when a transaction is rolled back."""
        return Snapshot(self.books.snapshot(), self._named)

    def restore(self, snapshot: Snapshot) -> None:
        """Go back; nothing is read, so that a damaged file does not matter."""
        self.books.accounts = snapshot.accounts
        self._named = snapshot.named

    def stream_no(self, stream: str) -> int:
        """The number of a stream; a new one is written with the next rows.

        Raises:
            LimitExceeded: more streams than a log may hold.
        """
        no = self._stream_nos.get(stream)
        if no is None:
            if len(self._stream_nos) >= STREAMS_MAX:
                raise LimitExceeded(f"more than {STREAMS_MAX} streams in a log", code="log.streams")
            no = max(self._stream_nos.values(), default=0) + 1
            self._stream_nos[stream] = no
        return no

    def streams(self) -> list[str]:
        """All stream ids that the log has seen."""
        return list(self._stream_nos)

    def names(self) -> dict[int, str]:
        """Streams by the number that `stream_no` gave."""
        return {no: stream for stream, no in self._stream_nos.items()}

    def insert(self, rows: Sequence[RowTuple]) -> None:
        """Insert rows in ascending order of their keys and enter them in the books."""
        if not rows:
            return
        if len(self._named) != len(self._stream_nos):
            new = [(no, s) for s, no in self._stream_nos.items() if s not in self._named]
            self._db.executemany("INSERT INTO streams (no, stream) VALUES (?, ?)", new)
            self._named = dict(self._stream_nos)
        self._db.executemany(_INSERT, rows)
        first, last = rows[0][0], rows[-1][0]
        withheld = sum([row[5] for row in rows])
        if last - first == len(rows) - 1 and not withheld:  # the usual case, without a look at each
            self.pending.extend(first, last)
            self._enter(last, len(rows), 0)
            return
        self.pending.add(runs(row[0] for row in rows if not row[5]))
        for _, group in groupby(rows, key=lambda row: split_id(row[0])[0]):
            of_epoch = list(group)
            kept = sum(row[5] for row in of_epoch)
            self._enter(of_epoch[-1][0], len(of_epoch) - kept, kept)

    def _enter(self, last_key: int, pending: int, withheld: int) -> None:
        no, seq = split_id(last_key)
        account = self.books.accounts[no]
        account.next_seq = max(account.next_seq, seq + 1)
        account.pending += pending
        account.withheld += withheld

    def oldest_settled(self, rows_max: int = DELETE_ROWS_MAX) -> list[tuple[int, int]]:
        """Oldest rows that the cloud does not wait for, as (key, payload bytes)."""
        found: list[tuple[int, int]] = []
        at = 0
        for _ in range(rows_max):
            first = self._db.execute(
                "SELECT id FROM rows WHERE id > ? ORDER BY id LIMIT 1", (at,)
            ).fetchone()
            if first is None or len(found) >= rows_max:
                break
            low = int(first[0])
            blocked = self.pending.overlapping(low, (1 << 63) - 1, 1)
            if blocked and blocked[0][0] <= low:
                at = blocked[0][1]
                continue
            high = blocked[0][0] - 1 if blocked else (1 << 63) - 1
            found += self._db.execute(
                "SELECT id, length(payload) FROM rows WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?",
                (low, high, rows_max - len(found)),
            ).fetchall()
            at = high
        return found

    def oldest_pending(
        self, *, bulk_only: bool, spared: Collection[str], rows_max: int = DELETE_ROWS_MAX
    ) -> list[tuple[int, int]]:
        """Oldest rows that wait for the cloud, of streams not in `spared`: (key, payload bytes)."""
        kinds = [CODE_OF[kind] for kind in BULK] if bulk_only else list(CODE_OF.values())
        not_streams = [self._stream_nos[s] for s in spared if s in self._stream_nos]
        return self._db.execute(
            "SELECT rows.id, length(rows.payload) FROM pending CROSS JOIN rows"
            " ON rows.id BETWEEN pending.first AND pending.last"
            f" WHERE rows.kind IN ({_marks(kinds)}) AND rows.stream NOT IN ({_marks(not_streams)})"
            " ORDER BY pending.first, rows.id LIMIT ?",
            (*kinds, *not_streams, rows_max),
        ).fetchall()

    def thinnable(
        self, after: int, streams: Collection[str], rows_max: int = DELETE_ROWS_MAX
    ) -> list[tuple[int, int]]:
        """Every second raw row of each of `streams` that waits for the cloud, from a key on."""
        numbers = [self._stream_nos[s] for s in streams if s in self._stream_nos]
        kinds = [CODE_OF[kind] for kind in BULK]
        rows = self._db.execute(
            "SELECT rows.id, length(rows.payload), rows.stream FROM pending CROSS JOIN rows"
            " ON rows.id BETWEEN max(pending.first, ?) AND pending.last"
            f" WHERE pending.last > ? AND rows.kind IN ({_marks(kinds)})"
            f" AND rows.stream IN ({_marks(numbers)})"
            " ORDER BY pending.first, rows.id LIMIT ?",
            (after + 1, after, *kinds, *numbers, 2 * rows_max),
        )
        return every_second(rows)

    def older_than(self, at_s: int, rows_max: int = DELETE_ROWS_MAX) -> list[int]:
        """Keys of the oldest rows taken before `at_s` of the log's clock."""
        oldest = self._db.execute("SELECT at_s FROM rows ORDER BY id LIMIT 1").fetchone()
        if oldest is None or oldest[0] >= at_s:
            return []
        rows = self._db.execute("SELECT id, at_s FROM rows ORDER BY id LIMIT ?", (rows_max,))
        return [key for key, taken_s in rows.fetchall() if taken_s < at_s]

    def delete(self, keys: Iterable[int], cause: str) -> Dropped:
        """Delete rows; those among them that were pending are dropped, with `cause`."""
        dropped = Dropped()
        spans = runs(sorted(keys))
        for low, high in spans:
            taken = self.pending.remove([(low, high)])
            for first, last in taken:
                dropped.streams.update(self._stream_counts(first, last))
                account = self.books.accounts[split_id(first)[0]]
                n = count([(first, last)])
                account.pending -= n
                account.drop(cause, n)
            dropped.keys += taken
        self._db.executemany("DELETE FROM rows WHERE id BETWEEN ? AND ?", spans)
        for no in {split_id(low)[0] for low, _ in spans}:
            self.books.save(self.books.accounts[no])
        return dropped

    def _stream_counts(self, low: int, high: int) -> dict[str, int]:
        rows = self._db.execute(
            "SELECT s.stream, count(*) FROM rows JOIN streams s ON s.no = rows.stream"
            " WHERE rows.id BETWEEN ? AND ? GROUP BY 1",
            (low, high),
        )
        return dict(rows.fetchall())

    def mean_bytes(self, rows_max: int = 200) -> float | None:
        """What one of the newest rows takes, about; None in an empty log."""
        found: float | None = self._db.execute(
            "SELECT avg(n) FROM"
            " (SELECT length(payload) + ? AS n FROM rows ORDER BY id DESC LIMIT ?)",
            (ROW_OVERHEAD_BYTES, rows_max),
        ).fetchone()[0]
        return found

    def content(self, key: int) -> tuple[str, int, bytes] | None:
        """Stream, time and payload of a row."""
        found: tuple[str, int, bytes] | None = self._db.execute(
            "SELECT s.stream, t_ns, payload FROM rows JOIN streams s ON s.no = rows.stream"
            " WHERE id = ?",
            (key,),
        ).fetchone()
        return found

    def newest_at_s(self) -> int:
        """The log's clock at the newest row; 0 in an empty log."""
        row = self._db.execute("SELECT at_s FROM rows ORDER BY id DESC LIMIT 1").fetchone()
        return int(row[0]) if row else 0

    def sendable(self, low: int, high: int, rows_max: int) -> list[int]:
        """Keys of held rows from `low` to `high` that may be sent at all."""
        rows = self._db.execute(
            "SELECT id FROM rows WHERE id BETWEEN ? AND ? AND withheld = 0 ORDER BY id LIMIT ?",
            (low, high, rows_max),
        )
        return [row[0] for row in rows.fetchall()]


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
