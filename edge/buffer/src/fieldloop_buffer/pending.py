"""The set of rows that the cloud has not acknowledged, as disjoint ranges of keys in the file.

An acknowledgement changes a range or two here and rewrites no row, which spares flash, and what it
counts is arithmetic, not a scan. Owner thread only; runs inside the caller's transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from fieldloop_buffer.ranges import Range, count, intersect, normalise, subtract

_SLICE = 500
_OVERLAPPING = """
    SELECT first, last FROM pending
    WHERE first >= coalesce((SELECT max(first) FROM pending WHERE first <= :low), :low)
      AND first <= :high AND last >= :low
    ORDER BY first LIMIT :limit
"""
_EXTEND = """
    UPDATE pending SET last = ? WHERE first = (SELECT max(first) FROM pending) AND last = ?
"""


class PendingSet:
    """The ranges in table `pending`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def overlapping(self, low: int, high: int, limit: int = _SLICE) -> list[Range]:
        """The first ranges that touch `low` to `high`, uncut."""
        arguments = {"low": low, "high": high, "limit": limit}
        return self._db.execute(_OVERLAPPING, arguments).fetchall()

    def within(self, low: int, high: int, limit: int = _SLICE) -> list[Range]:
        """The first ranges that touch `low` to `high`, cut to it."""
        return intersect(self.overlapping(low, high, limit), [(low, high)])

    def extend(self, low: int, high: int) -> None:
        """Put keys into the set that are greater than all in it: in the usual case one write."""
        longer = self._db.execute(_EXTEND, (high, low - 1))
        if longer.rowcount != 1:
            self.add([(low, high)])

    def add(self, ranges: Iterable[Range]) -> None:
        """Put keys into the set; they may be in it already."""
        for low, high in normalise(ranges):
            at = low - 1
            merged = [(low, high)]
            while found := self.overlapping(at, high + 1):
                merged = normalise([*merged, *found])
                self._delete(found)
                at = found[-1][1] + 1
                if at > high + 1:
                    break
            self._insert(merged)

    def remove(self, ranges: Iterable[Range]) -> list[Range]:
        """Take keys out of the set; returns those that were in it."""
        taken: list[Range] = []
        for low, high in normalise(ranges):
            while found := self.overlapping(low, high):
                self._delete(found)
                self._insert(subtract(found, [(low, high)]))
                taken.extend(intersect(found, [(low, high)]))
        return taken

    def size(self) -> int:
        """How many keys are in the set. Scans the ranges: for checks and salvage."""
        return count(self._db.execute("SELECT first, last FROM pending"))

    def _delete(self, ranges: list[Range]) -> None:
        self._db.executemany("DELETE FROM pending WHERE first = ?", [(r[0],) for r in ranges])

    def _insert(self, ranges: list[Range]) -> None:
        self._db.executemany("INSERT INTO pending (first, last) VALUES (?, ?)", ranges)
