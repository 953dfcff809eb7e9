"""The books of each log as last audited: what a page shows, since an audit counts a log's rows.

Owns `log_books`, which only the console writes: `audit_some` looks at a few logs whose device has
reported since they were audited last. Any thread; time comes in.

All raise RetryLater where the database is away.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import and_, func, or_, select, tuple_

from fieldloop_store.engine import Store, insert_into
from fieldloop_store.ledger import audit_log
from fieldloop_store.rows import LogKey
from fieldloop_store.schema import ledgers, log_books

_KEY = ("fleet", "device", "service", "epoch")
PAGE_MAX = 1_000


@dataclass(frozen=True, slots=True)
class BookRow:
    """A log's two sides; `audited_ns` None where it was not audited yet."""

    log: LogKey
    produced: int
    stored: int
    pending: int
    withheld: int
    dropped: dict[str, int]
    reported_ns: int
    held: int | None
    balanced: bool | None
    faults: list[str]
    notes: list[str]
    audited_ns: int | None


@dataclass(frozen=True, slots=True)
class BooksFigures:
    """How a fleet's books stand: logs in all, audited, and those with faults among them."""

    logs: int
    audited: int
    faulty: int
    produced: int
    stored: int
    pending: int


def audit_some(store: Store, *, limit: int, now_ns: int) -> int:
    """Audit up to `limit` logs whose last report is newer than their last audit; returns how many.

    The longest unaudited come first, so that none waits for ever behind busy ones.
    """
    led, book = ledgers.c, log_books.c
    stale = or_(book.reported_ns.is_(None), book.reported_ns < led.reported_ns)
    query = (
        select(*(led[name] for name in _KEY))
        .outerjoin(log_books, and_(*(book[name] == led[name] for name in _KEY)))
        .where(stale)
        .order_by(func.coalesce(book.audited_ns, 0))
        .limit(limit)
    )
    with store.read() as connection:
        waiting = [LogKey(*row) for row in connection.execute(query)]
    for log in waiting:
        found = audit_log(store, log)
        values = {
            "held": found.held.distinct,
            "balanced": found.balanced,
            "faults": list(found.faults),
            "notes": list(found.notes),
            "reported_ns": found.report.reported_ns if found.report else 0,
            "audited_ns": now_ns,
        }
        key = {name: getattr(log, name) for name in _KEY}
        with store.begin() as connection:
            statement = insert_into(connection, log_books).values(**key, **values)
            connection.execute(
                statement.on_conflict_do_update(index_elements=list(_KEY), set_=values)
            )
    return len(waiting)


def books_figures(store: Store, fleet: str) -> BooksFigures:
    """A fleet's books in figures."""
    led, book = ledgers.c, log_books.c
    totals = select(
        func.count(),
        *(func.coalesce(func.sum(led[n]), 0) for n in ("produced", "stored", "pending")),
    ).where(led.fleet == fleet)
    audited = select(func.count()).where(book.fleet == fleet)
    faulty = select(func.count()).where(book.fleet == fleet, book.balanced.is_(False))
    with store.read() as connection:
        logs, produced, stored, pending = connection.execute(totals).one()
        return BooksFigures(
            logs=int(logs),
            audited=int(connection.execute(audited).scalar_one()),
            faulty=int(connection.execute(faulty).scalar_one()),
            produced=int(produced),
            stored=int(stored),
            pending=int(pending),
        )


def books_page(
    store: Store,
    fleet: str,
    *,
    device: str | None = None,
    faulty: bool = False,
    after: LogKey | None = None,
    limit: int = 100,
) -> list[BookRow]:
    """Logs by device, service and epoch, with their books; `faulty`: only those out of balance."""
    led, book = ledgers.c, log_books.c
    query = (
        select(
            *(led[name] for name in _KEY), led.produced, led.stored, led.pending, led.withheld,
            led.dropped, led.reported_ns, book.held, book.balanced, book.faults, book.notes,
            book.audited_ns,
        )
        .outerjoin(log_books, and_(*(book[name] == led[name] for name in _KEY)))
        .where(led.fleet == fleet)
    )  # fmt: skip
    if device is not None:
        query = query.where(led.device == device)
    if faulty:
        query = query.where(book.balanced.is_(False))
    if after is not None:
        at = (after.device, after.service, after.epoch)
        query = query.where(tuple_(led.device, led.service, led.epoch) > at)
    query = query.order_by(led.device, led.service, led.epoch).limit(min(limit, PAGE_MAX))
    with store.read() as connection:
        return [
            BookRow(
                LogKey(*row[:4]),
                *row[4:10],
                row[10],
                row[11],
                row[12] or [],
                row[13] or [],
                row[14],
            )
            for row in connection.execute(query)
        ]
