"""Readings that were refused: a bounded table with the reason of each, and counts by code.

Owner thread only; written by the log's commits.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

DEAD_LETTERS_MAX = 1_000
WAITING_MAX = 200
EXCERPT_BYTES_MAX = 512
REASON_CHARS_MAX = 300


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One refused reading: where it came from, why it was refused, and how it began."""

    t_ns: int
    source: str
    stream: str
    code: str
    reason: str
    excerpt: bytes = b""


class DeadLetters:
    """Table `dead_letters` with the newest `DEAD_LETTERS_MAX`; table `rejects` counts all."""

    def __init__(self) -> None:
        self._waiting: list[DeadLetter] = []
        self._counts: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self._counts)

    def add(self, letter: DeadLetter) -> None:
        """Count one, and keep it if not too many came since the last commit."""
        self._counts[letter.code] = self._counts.get(letter.code, 0) + 1
        if len(self._waiting) < WAITING_MAX:
            self._waiting.append(letter)

    def write(self, connection: sqlite3.Connection) -> None:
        """Write what waits, in the caller's transaction; `written` follows its commit."""
        connection.executemany(
            "INSERT INTO rejects (code, n) VALUES (?, ?)"
            " ON CONFLICT (code) DO UPDATE SET n = n + excluded.n",
            list(self._counts.items()),
        )
        connection.executemany(
            "INSERT INTO dead_letters (t_ns, source, stream, code, reason, excerpt)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            [
                (
                    letter.t_ns,
                    letter.source,
                    letter.stream,
                    letter.code,
                    letter.reason[:REASON_CHARS_MAX],
                    letter.excerpt[:EXCERPT_BYTES_MAX],
                )
                for letter in self._waiting
            ],
        )
        connection.execute(
            "DELETE FROM dead_letters WHERE id <= (SELECT max(id) FROM dead_letters) - ?",
            (DEAD_LETTERS_MAX,),
        )

    def written(self) -> None:
        """Forget what the commit took."""
        self._waiting.clear()
        self._counts.clear()


def reject_counts(connection: sqlite3.Connection) -> dict[str, int]:
    """All refused readings so far, by code."""
    return dict(connection.execute("SELECT code, n FROM rejects ORDER BY code").fetchall())
