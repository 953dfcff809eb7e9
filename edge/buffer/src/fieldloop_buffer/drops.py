"""Drops that are counted and not yet told: each becomes an event in the log.

They are noted in the transaction that drops, and told by the next commit, so that a crash between
the two loses no telling. Owner thread only.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from fieldloop_buffer.entry import split_id
from fieldloop_buffer.ledger import Books
from fieldloop_buffer.rowstore import Dropped

STATE_KEY = "log.untold"
RANGES_MAX = 50
STREAMS_TOLD_MAX = 100


class DropNotes:
    """Notes by cause, kept under `STATE_KEY` in the log's state."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        row = connection.execute("SELECT value FROM state WHERE key = ?", (STATE_KEY,)).fetchone()
        self._notes: dict[str, dict[str, Any]] = json.loads(row[0]) if row else {}

    def __bool__(self) -> bool:
        return bool(self._notes)

    def snapshot(self) -> str:
        """A copy, to go back to when a transaction is rolled back."""
        return json.dumps(self._notes) if self._notes else "{}"

    def restore(self, snapshot: str) -> None:
        """Go back."""
        self._notes = json.loads(snapshot)

    def add(self, cause: str, dropped: Dropped, books: Books) -> None:
        """Note rows that were dropped; call in the transaction that did it."""
        rows = sum(dropped.streams.values())
        if not rows:
            return
        note = self._notes.setdefault(
            cause, {"cause": cause, "rows": 0, "streams": {}, "ranges": [], "complete": True}
        )
        note["rows"] += rows
        for stream, n in dropped.streams.items():
            if stream in note["streams"] or len(note["streams"]) < STREAMS_TOLD_MAX:
                note["streams"][stream] = note["streams"].get(stream, 0) + n
            else:
                note["complete"] = False
        for low, high in dropped.keys:
            (no, first), last = split_id(low), split_id(high)[1]
            self._add_range(note, books.accounts[no].epoch, first, last)
        self._db.execute(
            "INSERT INTO state (key, value) VALUES (?, ?)"
            " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (STATE_KEY, json.dumps(self._notes)),
        )

    @staticmethod
    def _add_range(note: dict[str, Any], epoch: str, first: int, last: int) -> None:
        ranges = note["ranges"]
        if ranges and ranges[-1][0] == epoch and ranges[-1][2] + 1 == first:
            ranges[-1][2] = last
        elif len(ranges) < RANGES_MAX:
            ranges.append([epoch, first, last])
        else:
            note["complete"] = False

    def take(self) -> list[dict[str, Any]]:
        """The data of one event for each cause; call in the transaction that writes the events."""
        told = list(self._notes.values())
        self._notes = {}
        self._db.execute("DELETE FROM state WHERE key = ?", (STATE_KEY,))
        return told
