"""The books: what each log reports against what the store holds of it.

For a log (device, service, epoch) the device reports produced = stored + pending + withheld +
dropped, where `stored` counts acknowledged rows. The store holds a row as itself or, refused, as a
dead letter. The books balance when the device's own sum is right, the store holds at least what the
device counts as stored, and at most what it had produced when it reported. What was removed on
purpose (`retired`) counts as held. Read-only; any thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    CompoundSelect,
    Connection,
    Select,
    Table,
    distinct,
    exists,
    func,
    literal,
    select,
    union,
)

from fieldloop_store.engine import Store
from fieldloop_store.letters import CONFLICT
from fieldloop_store.retirement import retired_ranges
from fieldloop_store.rows import LOG_TABLES, LogKey
from fieldloop_store.schema import dead_letter_overflow, dead_letters, ledgers, retired

LOGS_MAX = 100_000
RANGES_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Report:
    """A log's books as the device last reported them, at `reported_ns` of the cloud's clock."""

    produced: int
    stored: int
    pending: int
    withheld: int
    dropped: dict[str, int]
    reported_ns: int

    @property
    def off_by(self) -> int:
        """What the device's own sum lacks (or has too much, below zero)."""
        accounted = self.stored + self.pending + self.withheld + sum(self.dropped.values())
        return self.produced - accounted


@dataclass(frozen=True, slots=True)
class Held:
    """What the store has of a log.

    Attributes:
        rows: by table.
        refused: seqs that are dead letters.
        overflowed: refusals counted beyond the bound of dead letters; one sent twice counts twice.
        conflicts: keys that came with two contents.
        doubled: seqs that stand in more than one table, which no device may produce.
        retired: seqs that were held and removed on purpose, by policy or erasure.
        distinct: seqs held in any form, or retired.
        distinct_reported: those of them that were there when the last report came.
        seq_first, seq_last: 0 where none.
    """

    rows: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    overflowed: int = 0
    conflicts: int = 0
    doubled: int = 0
    retired: int = 0
    distinct: int = 0
    distinct_reported: int = 0
    seq_first: int = 0
    seq_last: int = 0


@dataclass(frozen=True, slots=True)
class Books:
    """One log's two sides, and what does not balance, in words."""

    log: LogKey
    report: Report | None
    held: Held
    faults: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def balanced(self) -> bool:
        """Whether there is nothing to explain."""
        return not self.faults

    @property
    def lacking(self) -> int:
        """Rows that the device counts as stored and the store does not have."""
        if self.report is None:
            return 0
        lacking = self.report.stored - self.held.distinct
        return lacking if lacking > self.held.overflowed else 0


def audit(report: Report | None, held: Held) -> tuple[list[str], list[str]]:
    """What does not balance, and what is worth knowing though it does. Pure."""
    faults: list[str] = []
    notes: list[str] = []
    if held.doubled:
        faults.append(f"{held.doubled} seqs stand in more than one table")
    if held.refused - held.conflicts > 0:
        notes.append(f"{held.refused - held.conflicts} rows were refused; see the dead letters")
    if held.retired:
        notes.append(f"{held.retired} rows were removed by policy or erasure")
    if held.overflowed:
        notes.append(f"{held.overflowed} refusals beyond the bound were counted, not kept")
    if held.conflicts:
        notes.append(
            f"{held.conflicts} keys came with two contents: is the log's file in two devices?"
        )
    if report is None:
        faults.append("the device has not reported this log")
        return faults, notes
    if report.off_by:
        faults.append(f"the device's own books are off by {report.off_by} rows")
    lacking = report.stored - held.distinct
    if lacking > held.overflowed:
        faults.append(f"{lacking} rows that the device counts as stored are not in the store")
    excess = held.distinct_reported - report.produced
    if excess > 0:
        faults.append(f"the store holds {excess} rows more than the device had produced")
    return faults, notes


def books(
    store: Store,
    *,
    fleet: str | None = None,
    device: str | None = None,
    service: str | None = None,
) -> Iterator[Books]:
    """The books of every log that was reported or of which anything is held.

    Raises:
        RetryLater: the database is away.
    """
    with store.read() as connection:
        logs = logs_of(connection, fleet=fleet, device=device, service=service)
    for log in logs:
        yield audit_log(store, log)


def audit_log(store: Store, log: LogKey) -> Books:
    """The books of one log. Raises RetryLater where the database is away."""
    with store.read() as connection:
        report = _report(connection, log)
        held = _held(connection, log, report)
    faults, notes = audit(report, held)
    return Books(log, report, held, tuple(faults), tuple(notes))


def missing_ranges(
    store: Store,
    log: LogKey,
    *,
    seq_first: int | None = None,
    seq_last: int | None = None,
    limit: int = RANGES_MAX,
) -> list[tuple[int, int]]:
    """Inclusive seq ranges, between the first and the last held, that the store lacks.

    Not all of them were ever sent: withheld and dropped rows leave gaps too. What was retired on
    purpose is not lacking.

    Args:
        seq_first, seq_last: look between these instead.
    """
    parts: list[Select[Any]] = [
        select(table.c.seq.label("first"), table.c.seq.label("last")).where(
            *_of(table, log), table.c.seq > 0
        )
        for table in (*LOG_TABLES.values(), dead_letters)
    ]
    gone = select(retired.c.seq_first.label("first"), retired.c.seq_last.label("last"))
    parts.append(gone.where(*_of(retired, log)))
    # Fences: as if the row before the first and the one after the last were held.
    if seq_first is not None:
        parts.append(_fence(seq_first - 1))
    if seq_last is not None:
        parts.append(_fence(seq_last + 1))
    spans = union(*parts).subquery()
    wanted = select(spans)
    if seq_first is not None:
        wanted = wanted.where(spans.c.last >= seq_first - 1)
    if seq_last is not None:
        wanted = wanted.where(spans.c.first <= seq_last + 1)
    inside = wanted.subquery()
    pairs = select(
        func.max(inside.c.last)
        .over(order_by=[inside.c.first, inside.c.last], rows=(None, 0))
        .label("until"),
        func.lead(inside.c.first).over(order_by=[inside.c.first, inside.c.last]).label("following"),
    ).subquery()
    query = (
        select(pairs.c.until + 1, pairs.c.following - 1)
        .where(pairs.c.following > pairs.c.until + 1)
        .order_by(pairs.c.until)
        .limit(limit)
    )
    with store.read() as connection:
        return [(int(first), int(last)) for first, last in connection.execute(query)]


def _fence(seq: int) -> Any:
    at = literal(seq, BigInteger)
    return select(at.label("first"), at.label("last"))


def logs_of(connection: Connection, **wanted: str | None) -> list[LogKey]:
    """Logs that were reported or of which anything is held, by `fleet`, `device`, `service`."""
    tables = [*LOG_TABLES.values(), dead_letters, dead_letter_overflow, ledgers, retired]

    def keys(table: Table) -> list[tuple[str, str, str, str]]:
        c = table.c
        query = select(c.fleet, c.device, c.service, c.epoch).distinct().where(c.epoch != "")
        for name, value in wanted.items():
            if value is not None:
                query = query.where(c[name] == value)
        rows = connection.execute(query.limit(LOGS_MAX)).all()
        return [(r[0], r[1], r[2], r[3]) for r in rows]

    found = {key for table in tables for key in keys(table)}
    return [LogKey(*key) for key in sorted(found)]


def _report(connection: Connection, log: LogKey) -> Report | None:
    c = ledgers.c
    query = select(
        c.produced, c.stored, c.pending, c.withheld, c.dropped, c.reported_ns
    ).where(*_of(ledgers, log))  # fmt: skip
    row = connection.execute(query).one_or_none()
    return None if row is None else Report(*row)


def _held(connection: Connection, log: LogKey, report: Report | None) -> Held:
    rows: dict[str, int] = {}
    for name, table in LOG_TABLES.items():
        counted = select(func.count()).select_from(table).where(*_of(table, log))
        count = int(connection.execute(counted).scalar_one())
        if count:
            rows[name] = count
    d = dead_letters.c
    own = _of(dead_letters, log)
    refused = select(func.count(distinct(d.seq))).where(*own, d.seq > 0)
    clashing = select(func.count(distinct(d.seq))).where(*own, d.code == CONFLICT)
    over = select(func.coalesce(func.sum(dead_letter_overflow.c.letters), 0)).where(
        *_of(dead_letter_overflow, log)
    )
    doubled = 0
    if len(rows) > 1:
        alone = _seqs(log, tables=[LOG_TABLES[name] for name in rows]).subquery()
        counted = select(func.count()).select_from(alone)
        doubled = sum(rows.values()) - int(connection.execute(counted).scalar_one())
    seqs = _seqs(log).subquery()
    total, first, last = connection.execute(
        select(func.count(), func.min(seqs.c.seq), func.max(seqs.c.seq)).select_from(seqs)
    ).one()
    before = total
    if report is not None:
        then = _seqs(log, report.reported_ns).subquery()
        before = connection.execute(select(func.count()).select_from(then)).scalar_one()
    gone = retired_ranges(connection, log)
    removed = again = 0
    if gone:
        # A row that came again after it was retired is held, and no longer gone.
        r = retired.c
        inside = exists().where(
            *_of(retired, log), r.seq_first <= seqs.c.seq, r.seq_last >= seqs.c.seq
        )
        again = connection.execute(
            select(func.count()).select_from(seqs).where(inside)
        ).scalar_one()
        removed = sum(b - a + 1 for a, b in gone) - int(again)
        produced = gone[-1][1] if report is None else report.produced
        before = min(
            int(total) + removed,
            int(before) + sum(max(0, min(b, produced) - a + 1) for a, b in gone) - int(again),
        )
    return Held(
        rows=rows,
        refused=int(connection.execute(refused).scalar_one()),
        overflowed=int(connection.execute(over).scalar_one()),
        conflicts=int(connection.execute(clashing).scalar_one()),
        doubled=doubled,
        retired=removed,
        distinct=int(total) + removed,
        distinct_reported=int(before),
        seq_first=min(int(first or gone[0][0]), gone[0][0]) if gone else int(first or 0),
        seq_last=max(int(last or 0), gone[-1][1]) if gone else int(last or 0),
    )


def _seqs(
    log: LogKey, until_ns: int | None = None, tables: Sequence[Table] = ()
) -> CompoundSelect[tuple[int]]:
    """The distinct seqs of a log in these tables (all), by `until_ns` where given."""
    parts = []
    for table in tables or (*LOG_TABLES.values(), dead_letters):
        part = select(table.c.seq.label("seq")).where(*_of(table, log), table.c.seq > 0)
        if until_ns is not None:
            part = part.where(table.c.received_ns <= until_ns)
        parts.append(part)
    return union(*parts)


def _of(table: Table, log: LogKey) -> tuple[ColumnElement[bool], ...]:
    c = table.c
    return (
        c.fleet == log.fleet,
        c.device == log.device,
        c.service == log.service,
        c.epoch == log.epoch,
    )
