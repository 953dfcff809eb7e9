"""A log file followed by a reader: opened when it appears, opened again when it was replaced."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from fieldloop_buffer.connection import FAILURES, file_key, is_damaged, open_reader
from fieldloop_buffer.entry import row_id, split_id


@dataclass(frozen=True, slots=True)
class View:
    """The epochs at one moment: names, last durable seqs, and the last durable key of all."""

    epochs: dict[int, str]
    last_seq: dict[int, int]
    durable: int

    def number(self, epoch: str) -> int | None:
        """The number of an epoch."""
        return next((no for no, name in self.epochs.items() if name == epoch), None)


def read_view(db: sqlite3.Connection) -> View:
    """Read the epochs; rows beyond `durable` are not to be looked at."""
    rows = db.execute("SELECT no, epoch, durable_seq FROM epochs ORDER BY no").fetchall()
    durable = row_id(rows[-1][0], rows[-1][2]) if rows else 0
    return View({r[0]: r[1] for r in rows}, {r[0]: r[2] for r in rows}, durable)


class Followed:
    """A read-only connection to whatever file stands at `path`. For one thread.

    Attributes:
        generation: grows each time another file was found there.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.generation = 0
        self._db: sqlite3.Connection | None = None
        self._key: tuple[int, int] | None = None
        self._streams: dict[int, str] = {}

    def close(self) -> None:
        """Let go of the file; the next call opens it again."""
        if self._db is not None:
            self._db.close()
        self._db, self._key = None, None

    def connection(self) -> sqlite3.Connection | None:
        """The connection, or None where there is no log yet.

        Raises:
            sqlite3.DatabaseError: the file is damaged.
        """
        key = file_key(self.path)
        if self._db is not None and key == self._key:
            return self._db
        self.close()
        if key is None:
            return None
        try:
            db = open_reader(self.path)
        except sqlite3.OperationalError:
            return None
        try:
            if int(db.execute("PRAGMA user_version").fetchone()[0]) < 1 or not read_view(db).epochs:
                db.close()
                return None
        except FAILURES as error:
            db.close()
            if is_damaged(error):
                raise
            return None
        self._db, self._key, self._streams = db, key, {}
        self.generation += 1
        return db

    def stream(self, no: int) -> str:
        """The id of a stream by its number."""
        if no not in self._streams and self._db is not None:
            self._streams = dict(self._db.execute("SELECT no, stream FROM streams").fetchall())
        return self._streams[no]


def holes(after: int, end: int, held: list[tuple[int, int]], view: View) -> list[tuple[int, int]]:
    """Ranges of seq between the keys `after` (exclusive) and `end` that have no row.

    Args:
        held: ranges of keys that have one, normalised.
    """
    found: list[tuple[int, int]] = []
    for no, last_seq in view.last_seq.items():
        low, high = max(after + 1, row_id(no, 1)), min(end, row_id(no, last_seq))
        at = low
        for first, last in held:
            if last < low or first > high:
                continue
            if first > at:
                found.append((split_id(at)[1], split_id(first - 1)[1]))
            at = last + 1
        if at <= high:
            found.append((split_id(at)[1], split_id(high)[1]))
    return found
