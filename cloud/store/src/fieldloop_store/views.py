"""Pages of the store for people: each query has a limit and an index, and none counts raw rows.

What the console's pages and its API read beside `queries`, `registry` and `rollouts`. Lists are
read page by page, each beginning after the last row of the one before. Read-only; any thread.

All raise RetryLater where the database is away.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, exists, func, or_, select, tuple_

from fieldloop_store.engine import Store
from fieldloop_store.queries import AnnotationRow, EventCursor, EventRow, ResultRow, ServiceRow
from fieldloop_store.rows import LogKey
from fieldloop_store.schema import annotations as annotations_table
from fieldloop_store.schema import devices, events, results, services

PAGE_MAX = 1_000


@dataclass(frozen=True, slots=True)
class DeviceView:
    """A device in a list. `heard_ns` is the newest word of any of its services; 0 for none."""

    device: str
    name: str
    state: str
    first_seen_ns: int
    online: bool
    heard_ns: int
    services: tuple[ServiceRow, ...]


@dataclass(frozen=True, slots=True)
class ServiceChange:
    """What a fleet's figures need of one service; `reported` None where it has reported nothing.

    `status` is empty unless it was asked for.
    """

    device: str
    service: str
    state: str
    status_ns: int
    reported_ns: int
    reported: dict[str, Any] | None
    status: dict[str, Any]


def devices_page(
    store: Store,
    fleet: str,
    *,
    text: str = "",
    state: str | None = None,
    online: bool | None = None,
    only: Collection[str] | None = None,
    after: str = "",
    limit: int = 50,
) -> tuple[list[DeviceView], int]:
    """A page of devices by id, and how many there are in all that fit.

    Args:
        text: part of the id or the name, in any case.
        state: active, retired or replaced.
        online: whether any of its services is online.
        only: devices to choose from, at most `PAGE_MAX`; None for all.
    """
    d, s = devices.c, services.c
    where: list[ColumnElement[bool]] = [d.fleet == fleet]
    if text:
        part = text.lower()
        where.append(or_(
            func.lower(d.device).contains(part, autoescape=True),
            func.lower(d.name).contains(part, autoescape=True),
        ))  # fmt: skip
    if state is not None:
        where.append(func.coalesce(d.state, "active") == state)
    if online is not None:
        is_online = exists().where(s.fleet == d.fleet, s.device == d.device, s.state == "online")
        where.append(is_online if online else ~is_online)
    if only is not None:
        where.append(d.device.in_(list(only)[:PAGE_MAX]))
    query = (
        select(d.device, d.name, d.state, d.first_seen_ns)
        .where(*where, d.device > after)
        .order_by(d.device)
        .limit(min(limit, PAGE_MAX))
    )
    with store.read() as connection:
        total = connection.execute(select(func.count()).select_from(devices).where(*where))
        count = int(total.scalar_one())
        rows = connection.execute(query).all()
        spoken = _services_of(connection, fleet, [row.device for row in rows])
    return [_device(row, spoken[row.device]) for row in rows], count


def find_device(store: Store, fleet: str, device: str) -> DeviceView | None:
    """One device with its services, or None."""
    found, _ = devices_page(store, fleet, only=[device], limit=1)
    return found[0] if found else None


def _device(row: Any, spoken: list[ServiceRow]) -> DeviceView:
    return DeviceView(
        row.device,
        row.name or row.device,
        row.state or "active",
        row.first_seen_ns,
        any(s.state == "online" for s in spoken),
        max((max(s.status_ns, s.reported_ns or 0) for s in spoken), default=0),
        tuple(spoken),
    )


def _services_of(
    connection: Connection, fleet: str, named: Sequence[str]
) -> dict[str, list[ServiceRow]]:
    s = services.c
    query = (
        select(s.device, s.service, s.state, s.session, s.status, s.status_ns, s.reported,
               s.reported_ns)
        .where(s.fleet == fleet, s.device.in_(named))
        .order_by(s.device, s.service)
    )  # fmt: skip
    found: dict[str, list[ServiceRow]] = defaultdict(list)
    for row in connection.execute(query):
        found[row.device].append(ServiceRow(*row))
    return found


def services_changed(
    store: Store, fleet: str, *, since_ns: int, with_status: bool = False
) -> list[ServiceChange]:
    """Services that said anything at or after `since_ns` of the cloud's clock."""
    s = services.c
    columns = [s.device, s.service, s.state, s.status_ns, func.coalesce(s.reported_ns, 0),
               s.reported]  # fmt: skip
    query = select(*columns, *([s.status] if with_status else [])).where(s.fleet == fleet)
    if since_ns:
        query = query.where(or_(s.status_ns >= since_ns, s.reported_ns >= since_ns))
    with store.read() as connection:
        return [
            ServiceChange(row[0], row[1], row[2], row[3], row[4], row[5], _status(row))
            for row in connection.execute(query)
        ]


def _status(row: Any) -> dict[str, Any]:
    return row[6] if len(row) > 6 and isinstance(row[6], dict) else {}


def count_services(store: Store, fleet: str) -> int:
    """How many services a fleet has."""
    with store.read() as connection:
        query = select(func.count()).select_from(services).where(services.c.fleet == fleet)
        return int(connection.execute(query).scalar_one())


def count_devices(store: Store, fleet: str) -> dict[str, int]:
    """Devices by state: active, retired, replaced."""
    state = func.coalesce(devices.c.state, "active")
    query = select(state, func.count()).where(devices.c.fleet == fleet).group_by(state)
    with store.read() as connection:
        return {str(name): int(n) for name, n in connection.execute(query)}


def events_page(
    store: Store,
    fleet: str,
    *,
    device: str | None = None,
    types: Sequence[str] = (),
    since_ns: int | None = None,
    before: EventCursor | None = None,
    limit: int = 50,
) -> list[EventRow]:
    """Events, the newest arrival first.

    Args:
        types: whole types, or beginnings that end with a dot or an asterisk (`model.*`).
        before: the place of the last one seen.
    """
    c = events.c
    key = (c.received_ns, c.device, c.service, c.epoch, c.seq)
    where: list[ColumnElement[bool]] = [c.fleet == fleet]
    if device is not None:
        where.append(c.device == device)
    if since_ns is not None:
        where.append(c.received_ns >= since_ns)
    if before is not None:
        at = (before.received_ns, before.device, before.service, before.epoch, before.seq)
        where += [c.received_ns <= before.received_ns, tuple_(*key) < tuple_(*at)]
    limit = min(limit, PAGE_MAX)
    query = (
        select(c.fleet, c.device, c.service, c.epoch, c.seq, c.type, c.time, c.document,
               c.received_ns)
        .order_by(*(column.desc() for column in key))
        .limit(limit)
    )  # fmt: skip
    whole = device is None and not any(t.removesuffix("*").endswith(".") for t in types)
    if types and whole:
        # Each type from the index of types: together they would be looked for among all events.
        queries = [query.where(*where, c.type == wanted) for wanted in dict.fromkeys(types)]
    elif types:
        # Of one device, its own events are fewer than all of a type: `|| ''` keeps the database
        # from the index of types.
        kind = c.type if device is None else c.type.concat("")
        queries = [query.where(*where, or_(*(_of_type(kind, wanted) for wanted in types)))]
    else:
        queries = [query.where(*where)]
    with store.read() as connection:
        rows = [
            EventRow(LogKey(*row[:4]), *row[4:])
            for one in queries
            for row in connection.execute(one)
        ]
    if len(queries) > 1:
        rows.sort(key=lambda r: (r.received_ns, *astuple(r.log)[1:], r.seq), reverse=True)
    return rows[:limit]


def _of_type(kind: ColumnElement[str], wanted: str) -> ColumnElement[bool]:
    beginning = wanted.removesuffix("*")
    if beginning.endswith("."):
        return and_(kind >= beginning, kind < beginning[:-1] + "/")
    return kind == beginning


def newest_results(
    store: Store,
    fleet: str,
    device: str,
    slot: str,
    *,
    t0_ns: int | None = None,
    t1_ns: int | None = None,
    limit: int = 200,
) -> list[ResultRow]:
    """Results of one slot of a device, by the device's clock, newest first."""
    c = results.c
    where: list[ColumnElement[bool]] = [c.fleet == fleet, c.device == device, c.slot == slot]
    if t0_ns is not None:
        where.append(c.t0_ns >= t0_ns)
    if t1_ns is not None:
        where.append(c.t0_ns < t1_ns)
    query = (
        select(
            c.fleet, c.device, c.service, c.epoch, c.seq, c.stream, c.slot, c.role, c.t0_ns,
            c.t1_ns, c.model, c.version, c.model_digest, c.label, c.score, c.latency_us, c.valid,
            c.document, c.received_ns,
        )
        .where(*where)
        .order_by(c.t0_ns.desc())
        .limit(min(limit, 10 * PAGE_MAX))
    )  # fmt: skip
    with store.read() as connection:
        return [ResultRow(LogKey(*row[:4]), *tuple(row)[4:]) for row in connection.execute(query)]


def labels_within(
    store: Store, fleet: str, device: str, stream: str, t0_ns: int, t1_ns: int, *, limit: int = 500
) -> list[AnnotationRow]:
    """Labels of a device's stream that touch the span, the latest first."""
    c = annotations_table.c
    query = (
        select(c.fleet, c.device, c.service, c.epoch, c.seq, c.about_device, c.stream, c.t0_ns,
               c.t1_ns, c.label, c.annotator, c.confidence, c.received_ns)
        .where(c.fleet == fleet, c.about_device == device, c.stream == stream)
        .where(c.t0_ns < t1_ns, c.t1_ns > t0_ns)
        .order_by(c.t0_ns.desc())
        .limit(min(limit, PAGE_MAX))
    )  # fmt: skip
    with store.read() as connection:
        return [
            AnnotationRow(LogKey(*row[:4]), *tuple(row)[4:]) for row in connection.execute(query)
        ]


def known_labels(store: Store, fleet: str, *, limit: int = 2_000) -> list[str]:
    """What the newest labels of a fleet say, most used first."""
    c = annotations_table.c
    newest = (
        select(c.label).where(c.fleet == fleet).order_by(c.about_device, c.stream, c.t0_ns.desc())
    )
    inside = newest.limit(limit).subquery()
    query = select(inside.c.label).group_by(inside.c.label).order_by(func.count().desc())
    with store.read() as connection:
        return [str(label) for label in connection.execute(query).scalars()]
