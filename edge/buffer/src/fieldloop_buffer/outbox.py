"""What is left to send, read from the log: keys first, then rows, in bounded bites.

For the uplink's thread. Withheld rows are never pending, so they are never here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from dataclasses import dataclass

from fieldloop_buffer.entry import CHANNEL_OF, CODE_OF, KIND_OF, Kind, row_id, split_id
from fieldloop_buffer.following import Followed, View, read_view
from fieldloop_buffer.payload import checksum
from fieldloop_buffer.ranges import Range

_PENDING = """
    FROM pending CROSS JOIN rows ON rows.id BETWEEN pending.first AND pending.last
    WHERE pending.first >= coalesce(
            (SELECT max(first) FROM pending WHERE first <= :after), :after)
      AND pending.first <= :upto AND pending.last > :after
      AND rows.id > :after AND rows.id <= :upto{}
    ORDER BY pending.first, rows.id LIMIT :limit
"""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A pending row, without its payload."""

    key: int
    channel: str
    payload_bytes: int


@dataclass(frozen=True, slots=True)
class Letter:
    """A pending row to send; `sound` is False where its checksum is wrong."""

    epoch_no: int
    seq: int
    channel: str
    payload: bytes
    sound: bool


class Outbox:
    """Reads pending rows. Raises sqlite3.Error as SQLite says; the caller closes and goes on."""

    def __init__(self, path: str) -> None:
        self.file = Followed(path)

    def view(self) -> View | None:
        """Epochs and watermark, or None where there is no log."""
        db = self.file.connection()
        return None if db is None else read_view(db)

    def waiting(
        self,
        after: int,
        upto: int,
        rows_max: int,
        bytes_max: int,
        kinds: Collection[Kind] = tuple(Kind),
    ) -> list[Waiting]:
        """The first pending rows after a key: at least one if there is any, else within bounds."""
        found: list[Waiting] = []
        total = 0
        arguments = {"after": after, "upto": upto, "limit": rows_max}
        wanted = ""
        if len(kinds) < len(Kind):
            wanted = f" AND rows.kind IN ({', '.join(str(CODE_OF[kind]) for kind in kinds)})"
        sql = "SELECT rows.id, rows.kind, length(rows.payload)" + _PENDING.format(wanted)
        for key, kind, size in self._db().execute(sql, arguments).fetchall():
            total += size
            if found and total > bytes_max:
                break
            found.append(Waiting(key, CHANNEL_OF[KIND_OF[kind]], size))
        return found

    def fetch(self, spans: list[Range]) -> list[Letter]:
        """The rows of these ranges of keys that are still pending."""
        letters: list[Letter] = []
        sql = (
            "SELECT rows.id, rows.kind, rows.t_ns, rows.withheld, rows.crc, rows.payload"
            + _PENDING.format("")
        )
        for low, high in spans:
            arguments = {"after": low - 1, "upto": high, "limit": high - low + 1}
            for key, kind, t_ns, withheld, crc, payload in self._db().execute(sql, arguments):
                no, seq = split_id(key)
                sound = checksum(key, kind, t_ns, bool(withheld), payload) == crc
                letters.append(Letter(no, seq, CHANNEL_OF[KIND_OF[kind]], payload, sound))
        return letters

    def pending_rows(self) -> int:
        """How many rows the cloud has not acknowledged."""
        return int(self._db().execute("SELECT total(pending) FROM epochs").fetchone()[0])

    def _db(self) -> sqlite3.Connection:
        db = self.file.connection()
        if db is None:
            raise sqlite3.OperationalError(f"no log at {self.file.path}")
        return db


def spans_of(epoch_no: int, seqs: list[Range]) -> list[Range]:
    """Ranges of seq as ranges of keys."""
    return [(row_id(epoch_no, first), row_id(epoch_no, last)) for first, last in seqs]
