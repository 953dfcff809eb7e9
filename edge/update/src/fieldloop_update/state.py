"""What a device has come to trust, in SQLite: version floors, the order, where metadata is.

One transaction takes up a verification as a whole, so that after a power cut either all of it or
none of it is known. One thread.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fieldloop_contract.errors import FixConfiguration

_SCHEMA = """
CREATE TABLE IF NOT EXISTS floors (
    role TEXT PRIMARY KEY, version INTEGER NOT NULL, keys TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
"""


@dataclass(frozen=True, slots=True)
class Floor:
    """The lowest version of a role still accepted, while `keys` (joined key ids) are its keys.

    A change of keys, which only a newer root or targets can order, lifts the floor: that is how a
    fleet recovers from versions that a thief of the old keys has run up (TUF 5.3.11).
    """

    version: int
    keys: str


class TrustState:
    """The state database of one device's updates."""

    def __init__(self, path: Path) -> None:
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=10)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise FixConfiguration(
                f"{path}: {error}",
                code="update.state",
                hint="a damaged state file must be removed by a person, for it holds the floors",
            ) from error

    def floors(self) -> dict[str, Floor]:
        """All floors by role."""
        rows = self._db.execute("SELECT role, version, keys FROM floors").fetchall()
        return {role: Floor(version, keys) for role, version, keys in rows}

    def fact(self, key: str) -> Any:
        """A stored JSON value, or None."""
        row = self._db.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def commit(self, facts: Mapping[str, Any], floors: Mapping[str, Floor]) -> None:
        """Store facts and floors in one durable transaction."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany(
                "INSERT INTO floors VALUES (?, ?, ?) ON CONFLICT (role) DO UPDATE"
                " SET version = excluded.version, keys = excluded.keys",
                [(role, floor.version, floor.keys) for role, floor in floors.items()],
            )
            self._db.executemany(
                "INSERT INTO facts VALUES (?, ?) ON CONFLICT (key) DO UPDATE"
                " SET value = excluded.value",
                [(key, json.dumps(value)) for key, value in facts.items()],
            )
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def close(self) -> None:
        """Close the database."""
        self._db.close()
