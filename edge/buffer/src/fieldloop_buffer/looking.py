"""A log file in words: for people, live or at rest. Read-only; any thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from fieldloop_buffer.connection import FAILURES, open_reader, size_of, translate
from fieldloop_buffer.entry import KIND_OF, SEQ_MAX, row_id
from fieldloop_buffer.ledger import Books
from fieldloop_contract.errors import FixConfiguration

DEAD_LETTERS_SHOWN = 20
GAPS_SHOWN = 20
_GAPS = """
    SELECT a, b FROM (
        SELECT id + 1 AS a, lead(id) OVER (ORDER BY id) - 1 AS b FROM rows WHERE id BETWEEN ? AND ?
    ) WHERE b >= a LIMIT ?
"""


def describe(path: str) -> Iterator[str]:
    """Books, streams, gaps and dead letters.

    Raises:
        FixConfiguration: there is no log at `path`.
        Isolate, RetryLater: it cannot be read.
    """
    try:
        db = open_reader(path)
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'epochs'").fetchone():
            raise FixConfiguration(f"{path} is not a log")
    except sqlite3.OperationalError as error:
        raise FixConfiguration(f"no log at {path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise translate(error, path) from error
    try:
        yield f"{path}: {size_of(path)} bytes, write-ahead log {size_of(path + '-wal')} bytes"
        yield from _books(db)
        yield from _streams(db)
        yield from _dead_letters(db)
    except FAILURES as error:
        raise translate(error, path) from error
    finally:
        db.close()


def _books(db: sqlite3.Connection) -> Iterator[str]:
    for no, account in sorted(Books(db).accounts.items()):
        totals = account.totals()
        yield (
            f"epoch {totals.epoch}: produced {totals.produced} = stored {totals.stored}"
            f" + pending {totals.pending} + withheld {totals.withheld}"
            f" + dropped {totals.dropped or 0}"
            f" ({'balanced' if totals.balanced else 'NOT BALANCED'}),"
            f" durable to {account.durable_seq}"
        )
        span = (row_id(no, 1), row_id(no, SEQ_MAX))
        held = db.execute("SELECT count(*) FROM rows WHERE id BETWEEN ? AND ?", span).fetchone()
        yield f"  rows held {held[0]}"
        for low, high in db.execute(_GAPS, (*span, GAPS_SHOWN)):
            yield f"  not held: seq {low & SEQ_MAX} to {high & SEQ_MAX}"


def _streams(db: sqlite3.Connection) -> Iterator[str]:
    rows = db.execute(
        "SELECT s.stream, r.kind, count(*), min(r.t_ns), max(r.t_ns), total(length(r.payload))"
        " FROM rows r JOIN streams s ON s.no = r.stream GROUP BY 1, 2 ORDER BY 1, 2"
    )
    for stream, kind, n, first, last, size in rows:
        yield (
            f"stream {stream}: {n} {KIND_OF[kind].value} rows, {int(size)} bytes,"
            f" from {first} to {last} ns"
        )


def _dead_letters(db: sqlite3.Connection) -> Iterator[str]:
    for code, n in db.execute("SELECT code, n FROM rejects ORDER BY code"):
        yield f"refused {n} x {code}"
    rows = db.execute(
        "SELECT t_ns, source, stream, code, reason FROM dead_letters ORDER BY id DESC LIMIT ?",
        (DEAD_LETTERS_SHOWN,),
    )
    for t_ns, source, stream, code, reason in rows:
        yield f"dead letter {t_ns} {source} {stream}: {code}: {reason}"
