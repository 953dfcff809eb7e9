"""Rows removed on purpose: which seqs of a log are gone by policy or erasure.

Kept as exact, merged, inclusive ranges, so that the books still balance without the rows, and
nobody asks a device for them again. Only telemetry's housekeeping and its commands write them, in
the transaction that deletes the rows.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import ColumnElement, Connection, Table, and_, delete, insert, select

from fieldloop_store.rows import LogKey
from fieldloop_store.schema import retired

Range = tuple[int, int]
_LOCK = 0x72657469  # "reti": one retirement at a time on PostgreSQL


def ranges_of(seqs: Iterable[int]) -> list[Range]:
    """Inclusive ranges that cover exactly these seqs, ascending.

    >>> ranges_of([5, 1, 2, 2, 3, 9])
    [(1, 3), (5, 5), (9, 9)]
    """
    return merge((seq, seq) for seq in seqs)


def merge(ranges: Iterable[Range]) -> list[Range]:
    """The same seqs in the fewest ranges, ascending.

    >>> merge([(4, 6), (1, 3), (5, 9), (11, 12)])
    [(1, 9), (11, 12)]
    """
    merged: list[Range] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def lock_retirement(connection: Connection) -> None:
    """Wait until no other process retires rows, until the end of this transaction."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")


def of_log(table: Table, log: LogKey) -> ColumnElement[bool]:
    """The rows of one log in a table."""
    c = table.c
    return and_(
        c.fleet == log.fleet,
        c.device == log.device,
        c.service == log.service,
        c.epoch == log.epoch,
    )


def retired_ranges(
    connection: Connection, log: LogKey, first: int = 0, last: int | None = None
) -> list[Range]:
    """Retired ranges of a log that touch `[first, last]`, ascending."""
    r = retired.c
    query = select(r.seq_first, r.seq_last).where(of_log(retired, log), r.seq_last >= first)
    if last is not None:
        query = query.where(r.seq_first <= last)
    return [(int(a), int(b)) for a, b in connection.execute(query.order_by(r.seq_first))]


def add_retired(connection: Connection, log: LogKey, ranges: Iterable[Range]) -> None:
    """Record ranges as retired, merged with what is there."""
    fresh = merge(ranges)
    if not fresh:
        return
    beside = retired_ranges(connection, log, fresh[0][0] - 1, fresh[-1][1] + 1)
    if beside:
        connection.execute(
            delete(retired).where(
                of_log(retired, log), retired.c.seq_first.between(beside[0][0], beside[-1][0])
            )
        )
    connection.execute(
        insert(retired),
        [
            {
                "fleet": log.fleet,
                "device": log.device,
                "service": log.service,
                "epoch": log.epoch,
                "seq_first": first,
                "seq_last": last,
            }
            for first, last in merge([*beside, *fresh])
        ],
    )


def covers(ranges: list[Range], seq: int) -> bool:
    """Whether a seq lies in one of the ranges."""
    return any(first <= seq <= last for first, last in ranges)
