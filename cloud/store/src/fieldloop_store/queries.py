"""Reading what telemetry stored. Every service may; nothing here writes.

Each function returns a bounded list or an iterator that fetches bounded pages, each in a short
transaction of its own, so that no reader pins the database. Rows of one log come in the order of
`seq`, never of the clock. Times are int64 ns of UTC; a span is `[t0_ns, t1_ns)`.

All raise RetryLater where the database is away.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, func, select, tuple_

from fieldloop_contract.frames import Frame
from fieldloop_store.engine import Store
from fieldloop_store.rows import FRAME_COLUMNS, LogKey, frame_of
from fieldloop_store.schema import annotations as annotations_table
from fieldloop_store.schema import events, frames, results, samples, services

PAGE_ROWS = 500
ROWS_MAX = 10_000
_Where = list[ColumnElement[bool]]


@dataclass(frozen=True, slots=True)
class ServiceRow:
    """One service of one device. `status` is its last online document, `reported` its last one."""

    device: str
    service: str
    state: str
    session: str
    status: dict[str, Any]
    status_ns: int
    reported: dict[str, Any] | None
    reported_ns: int | None


@dataclass(frozen=True, slots=True)
class FrameRow:
    """A frame with its place."""

    log: LogKey
    seq: int
    frame: Frame
    received_ns: int


@dataclass(frozen=True, slots=True)
class StreamRow:
    """What is there of one stream in one log."""

    log: LogKey
    stream: str
    channels: int
    rate_hz: float
    frames: int
    seq_first: int
    seq_last: int
    t0_ns: int
    t1_ns: int


@dataclass(frozen=True, slots=True)
class AnnotationRow:
    """A label of `device`, given by the service whose log it came from."""

    log: LogKey
    seq: int
    device: str
    stream: str
    t0_ns: int
    t1_ns: int
    label: str
    annotator: str
    confidence: float
    received_ns: int


@dataclass(frozen=True, slots=True)
class ResultRow:
    """What a model said of one window; `document` is the whole message."""

    log: LogKey
    seq: int
    stream: str
    slot: str
    role: str
    t0_ns: int
    t1_ns: int
    model: str
    version: int
    model_digest: str
    label: str | None
    score: float | None
    latency_us: float
    valid: bool
    document: dict[str, Any]
    received_ns: int


@dataclass(frozen=True, slots=True)
class ResultCount:
    """Results of one device by slot, role and model version. `t0_ns`, `t1_ns` span them."""

    device: str
    slot: str
    role: str
    model: str
    version: int
    model_digest: str
    results: int
    valid: int
    latency_us_mean: float
    t0_ns: int
    t1_ns: int


@dataclass(frozen=True, slots=True)
class EventCursor:
    """The place after one event in the order of arrival."""

    received_ns: int
    device: str
    service: str
    epoch: str
    seq: int


@dataclass(frozen=True, slots=True)
class EventRow:
    """What happened, as the device told it; `document` is the whole CloudEvent."""

    log: LogKey
    seq: int
    type: str
    time: str
    document: dict[str, Any]
    received_ns: int

    @property
    def data(self) -> dict[str, Any]:
        """The event's own data."""
        data = self.document.get("data")
        return data if isinstance(data, dict) else {}

    @property
    def cursor(self) -> EventCursor:
        """Where to go on after this event."""
        log = self.log
        return EventCursor(self.received_ns, log.device, log.service, log.epoch, self.seq)


def device_services(
    store: Store,
    fleet: str,
    *,
    device: str | None = None,
    service: str | None = None,
    page_rows: int = PAGE_ROWS,
) -> Iterator[ServiceRow]:
    """All services of a fleet, by device and service; read page by page."""
    s = services.c
    query = select(
        s.device, s.service, s.state, s.session, s.status, s.status_ns, s.reported, s.reported_ns
    ).where(*_equal(services, fleet=fleet, device=device, service=service))
    for row in pages(store, query, (s.device, s.service), slice(0, 2), page_rows):
        yield ServiceRow(*row)


def fleets(store: Store) -> list[str]:
    """Fleets of which any service was ever heard."""
    query = select(services.c.fleet).distinct().order_by(services.c.fleet)
    with store.read() as connection:
        return list(connection.execute(query).scalars())


def streams(store: Store, fleet: str, *, device: str | None = None) -> list[StreamRow]:
    """What frames there are, by log and stream."""
    c = frames.c
    log = (c.fleet, c.device, c.service, c.epoch)
    query = (
        select(
            *log,
            c.stream,
            c.channels,
            c.rate_hz,
            func.count(),
            func.min(c.seq),
            func.max(c.seq),
            func.min(c.t0_ns),
            func.max(c.t1_ns),
        )
        .where(*_equal(frames, fleet=fleet, device=device))
        .group_by(*log, c.stream, c.channels, c.rate_hz)
        .order_by(c.device, c.service, func.min(c.received_ns), c.epoch, c.stream)
    )
    with store.read() as connection:
        return [StreamRow(LogKey(*r[:4]), *r[4:]) for r in connection.execute(query)]


def frames_between(
    store: Store,
    fleet: str,
    *,
    device: str,
    stream: str,
    t0_ns: int | None = None,
    t1_ns: int | None = None,
    chosen: bool = False,
    page_rows: int = PAGE_ROWS,
) -> Iterator[FrameRow]:
    """Frames of one stream that touch the span, by service and epoch, then by seq.

    Args:
        chosen: read `samples` (raw data sent by policy `selected`) instead of `frames`.
    """
    table = samples if chosen else frames
    c = table.c
    key = (c.service, c.epoch, c.seq)
    where = _equal(table, fleet=fleet, device=device, stream=stream) + _span(table, t0_ns, t1_ns)
    query = select(
        c.fleet, c.device, *key, *(c[name] for name in FRAME_COLUMNS), c.received_ns,
    ).where(*where)  # fmt: skip
    for row in pages(store, query, key, slice(2, 5), page_rows):
        yield FrameRow(LogKey(*row[:4]), row[4], frame_of(row[5:-1]), row[-1])


def annotations(
    store: Store,
    fleet: str,
    *,
    device: str | None = None,
    stream: str | None = None,
    t0_ns: int | None = None,
    t1_ns: int | None = None,
    received_after_ns: int | None = None,
    page_rows: int = PAGE_ROWS,
) -> Iterator[AnnotationRow]:
    """Labels of a device's stream that touch the span, by the log they came from, then by seq.

    Args:
        device: whom they speak of, not who sent them.
    """
    c = annotations_table.c
    key = (c.device, c.service, c.epoch, c.seq)
    where = _equal(annotations_table, fleet=fleet, about_device=device, stream=stream)
    where += _span(annotations_table, t0_ns, t1_ns)
    if received_after_ns is not None:
        where.append(c.received_ns > received_after_ns)
    query = select(
        c.fleet, *key, c.about_device, c.stream, c.t0_ns, c.t1_ns, c.label, c.annotator,
        c.confidence, c.received_ns,
    ).where(*where)  # fmt: skip
    for row in pages(store, query, key, slice(1, 5), page_rows):
        yield AnnotationRow(LogKey(*row[:4]), *row[4:])


def annotation_count(store: Store, fleet: str) -> int:
    """How many labels a fleet has: what a label-count trigger watches."""
    query = select(func.count()).where(annotations_table.c.fleet == fleet)
    with store.read() as connection:
        return int(connection.execute(query).scalar_one())


def results_between(
    store: Store,
    fleet: str,
    *,
    device: str,
    slot: str | None = None,
    role: str | None = None,
    model: str | None = None,
    version: int | None = None,
    t0_ns: int | None = None,
    t1_ns: int | None = None,
    received_after_ns: int | None = None,
    page_rows: int = PAGE_ROWS,
) -> Iterator[ResultRow]:
    """Results of one device whose windows touch the span, by service and epoch, then by seq."""
    c = results.c
    key = (c.service, c.epoch, c.seq)
    where = _equal(
        results, fleet=fleet, device=device, slot=slot, role=role, model=model, version=version
    ) + _span(results, t0_ns, t1_ns)
    if received_after_ns is not None:
        where.append(c.received_ns > received_after_ns)
    query = select(
        c.fleet, c.device, *key, c.stream, c.slot, c.role, c.t0_ns, c.t1_ns, c.model, c.version,
        c.model_digest, c.label, c.score, c.latency_us, c.valid, c.document, c.received_ns,
    ).where(*where)  # fmt: skip
    for row in pages(store, query, key, slice(2, 5), page_rows):
        yield ResultRow(LogKey(*row[:4]), *row[4:])


def result_counts(
    store: Store, fleet: str, *, device: str | None = None, received_after_ns: int | None = None
) -> list[ResultCount]:
    """Counts of results by device, slot, role and model version."""
    c = results.c
    group = (c.device, c.slot, c.role, c.model, c.version, c.model_digest)
    where = _equal(results, fleet=fleet, device=device)
    if received_after_ns is not None:
        where.append(c.received_ns > received_after_ns)
    valid = func.count().filter(c.valid.is_(True))
    query = (
        select(
            *group,
            func.count(),
            valid,
            func.avg(c.latency_us),
            func.min(c.t0_ns),
            func.max(c.t1_ns),
        )
        .where(*where)
        .group_by(*group)
        .order_by(*group)
    )
    with store.read() as connection:
        return [ResultCount(*row) for row in connection.execute(query)]


def events_since(
    store: Store,
    fleet: str,
    cursor: EventCursor | None = None,
    *,
    types: Collection[str] | None = None,
    before_ns: int | None = None,
    limit: int = PAGE_ROWS,
) -> list[EventRow]:
    """Events after the cursor in the order of arrival, oldest first.

    Args:
        before_ns: leave out what arrived at or after it. With several telemetry replicas a row may
            become visible after one that arrived later; a caller that must see each passes the
            time some seconds ago.
    """
    c = events.c
    key = (c.received_ns, c.device, c.service, c.epoch, c.seq)
    where = _equal(events, fleet=fleet)
    if types is not None:
        where.append(c.type.in_(types))
    if before_ns is not None:
        where.append(c.received_ns < before_ns)
    if cursor is not None:
        at = (cursor.received_ns, cursor.device, cursor.service, cursor.epoch, cursor.seq)
        where.append(tuple_(*key) > tuple_(*at))
    query = (
        select(
            c.fleet, c.device, c.service, c.epoch, c.seq, c.type, c.time, c.document, c.received_ns
        )
        .where(*where)
        .order_by(*key)
        .limit(min(limit, ROWS_MAX))
    )
    with store.read() as connection:
        return [EventRow(LogKey(*row[:4]), *row[4:]) for row in connection.execute(query)]


def _equal(table: Table, **values: Any) -> _Where:
    return [table.c[name] == value for name, value in values.items() if value is not None]


def _span(table: Table, t0_ns: int | None, t1_ns: int | None) -> _Where:
    """What touches `[t0_ns, t1_ns)`."""
    where: _Where = []
    if t0_ns is not None:
        where.append(table.c.t1_ns > t0_ns)
    if t1_ns is not None:
        where.append(table.c.t0_ns < t1_ns)
    return where


def pages(
    store: Store,
    query: Select[Any],
    key: tuple[ColumnElement[Any], ...],
    key_at: slice,
    page_rows: int,
) -> Iterator[tuple[Any, ...]]:
    """All rows in the order of `key`, in pages that begin after the last row seen."""
    page_rows = max(1, min(page_rows, ROWS_MAX))
    after: tuple[Any, ...] | None = None
    while True:
        page = query if after is None else query.where(tuple_(*key) > tuple_(*after))
        with store.read() as connection:
            rows = connection.execute(page.order_by(*key).limit(page_rows)).all()
        yield from (tuple(row) for row in rows)
        if len(rows) < page_rows:
            return
        after = tuple(rows[-1][key_at])
