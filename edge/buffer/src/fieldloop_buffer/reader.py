"""Reading a log while it is being written: read-only, bounded, never past the durable watermark.

A reader never holds a transaction between two calls, so that it does not pin the write-ahead log.
Any thread may have one of its own; one is not shared between threads. A file that is not there yet,
or was replaced (quarantine), is opened when it appears.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from dataclasses import dataclass, field

from fieldloop_buffer.connection import FAILURES, translate
from fieldloop_buffer.entry import CODE_OF, KIND_OF, SEQ_MAX, Cursor, Kind, Row, row_id, split_id
from fieldloop_buffer.following import Followed, View, holes, read_view
from fieldloop_buffer.payload import checksum
from fieldloop_buffer.ranges import Range, normalise, runs

SCAN_ROWS_MAX = 5_000
BYTES_MAX = 8 << 20
STREAM_STATE = "stream."
"""Key of the state `stream.{id}`: what a stream is, a `StreamState`, for readers of its frames."""
_COLUMNS = "id, kind, stream, t_ns, withheld, crc, payload"


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one call of `Reader.read` found.

    Attributes:
        cursor: where to go on; None only where the log has never held a row.
        gaps: ranges of seq that this reader will never see, because they were deleted before it
            came, or are damaged. A cursor of an epoch that the log does not know gives one gap to
            the end of all seq.
    """

    rows: list[Row]
    cursor: Cursor | None
    gaps: list[Range] = field(default_factory=list)


class Reader:
    """Reads one log file."""

    def __init__(self, path: str) -> None:
        self._file = Followed(path)

    def close(self) -> None:
        """Let go of the file; the next call opens it again."""
        self._file.close()

    def latest(self) -> Cursor | None:
        """A cursor at the durable end, to read only what comes; None in an empty log."""
        try:
            db = self._file.connection()
            return None if db is None else _end(read_view(db))
        except FAILURES as error:
            self.close()
            raise translate(error, self._file.path) from error

    def state(self, key: str) -> str | None:
        """A value that the writer gave to `Log.set_state`, as committed; None without one.

        Raises:
            Isolate: the file is damaged; its writer will replace it.
            RetryLater: it cannot be read at this moment.
        """
        try:
            db = self._file.connection()
            found = None
            if db is not None:
                query = "SELECT value FROM state WHERE key = ?"
                found = db.execute(query, (key,)).fetchone()
        except FAILURES as error:
            self.close()
            raise translate(error, self._file.path) from error
        return None if found is None else str(found[0])

    def read(
        self,
        cursor: Cursor | None,
        *,
        kinds: Collection[Kind],
        streams: Collection[str] | None = None,
        limit: int = 500,
    ) -> Chunk:
        """Rows after `cursor`, oldest first.

        Args:
            cursor: the last row seen; None begins at the oldest row held.
            kinds: which kinds are wanted.
            streams: which streams are wanted; None for all.
            limit: most rows; a call looks at no more than `SCAN_ROWS_MAX` rows, so that an empty
                chunk with a new cursor means "go on".

        Raises:
            Isolate: the file is damaged; its writer will replace it.
            RetryLater: it cannot be read at this moment.
        """
        try:
            db = self._file.connection()
            if db is None:
                return Chunk([], cursor)
            return self._read(db, cursor, kinds, streams, limit)
        except FAILURES as error:
            self.close()
            raise translate(error, self._file.path) from error

    def _read(
        self,
        db: sqlite3.Connection,
        cursor: Cursor | None,
        kinds: Collection[Kind],
        streams: Collection[str] | None,
        limit: int,
    ) -> Chunk:
        view = read_view(db)
        no = view.number(cursor.epoch) if cursor else None
        gaps: list[Range] = []
        if cursor is not None and no is None:
            gaps.append((cursor.seq + 1, SEQ_MAX))
        after = row_id(no, cursor.seq) if cursor is not None and no is not None else 0
        # Keys first, without payloads: they show the holes, and bound what is looked at.
        keys = [
            row[0]
            for row in db.execute(
                "SELECT id FROM rows WHERE id > ? AND id <= ? ORDER BY id LIMIT ?",
                (after, view.durable, SCAN_ROWS_MAX),
            )
        ]
        if not keys:
            known = cursor is not None and no is not None
            return Chunk([], cursor if known else _end(view), gaps)
        found = self._matching(db, after, keys[-1], kinds, streams, limit)
        end = found[-1][0] if len(found) == limit and found else keys[-1]
        start = after if after else keys[0] - 1
        gaps += holes(start, end, runs(k for k in keys if k <= end), view)
        rows = []
        for key, kind, stream, t_ns, withheld, crc, payload in found:
            epoch_no, seq = split_id(key)
            if checksum(key, kind, t_ns, bool(withheld), payload) != crc:
                gaps = normalise([*gaps, (seq, seq)])
                continue
            name = self._file.stream(stream)
            rows.append(Row(view.epochs[epoch_no], seq, KIND_OF[kind], name, t_ns, payload))
        end_no, end_seq = split_id(end)
        return Chunk(rows, Cursor(view.epochs[end_no], end_seq), gaps)

    def _matching(
        self,
        db: sqlite3.Connection,
        after: int,
        last: int,
        kinds: Collection[Kind],
        streams: Collection[str] | None,
        limit: int,
    ) -> list[tuple[int, int, int, int, int, int, bytes]]:
        codes = [CODE_OF[kind] for kind in kinds]
        sql = f"SELECT {_COLUMNS} FROM rows WHERE id > ? AND id <= ? AND kind IN ({_marks(codes)})"
        arguments: list[object] = [after, last, *codes]
        if streams is not None:
            sql += f" AND stream IN (SELECT no FROM streams WHERE stream IN ({_marks(streams)}))"
            arguments += streams
        sql += " ORDER BY id LIMIT ?"
        return db.execute(sql, (*arguments, limit)).fetchall()


def _end(view: View) -> Cursor | None:
    no, seq = split_id(view.durable)
    return Cursor(view.epochs[no], seq) if no in view.epochs else None


def _marks(values: Collection[object]) -> str:
    return ", ".join("?" * len(values))
