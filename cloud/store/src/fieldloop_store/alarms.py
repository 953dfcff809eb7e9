"""Alarms in the store: what devices say of them, what people do, and what was done when.

Each function is one transaction: it reads the alarm, steps its life (`lifecycle`), writes it and a
line of its history, so that two people and a device cannot undo each other. The machines service
takes what devices say and ends shelves (`take`); people act through the console or a command
(`act`). A verdict is a label at once; what a kill left unwritten, `write_labels` writes.

Any thread. All raise RetryLater where the database is away.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, and_, func, insert, or_, select, tuple_, update

from fieldloop_contract.errors import RejectedInput
from fieldloop_store import lifecycle
from fieldloop_store.auditing import checked_text
from fieldloop_store.engine import Store, insert_into
from fieldloop_store.labels import add_labels
from fieldloop_store.lifecycle import Alarm, Phase
from fieldloop_store.schema import machines, stream_assignments
from fieldloop_store.schema.machines_service import alarm_history, machines_state
from fieldloop_store.schema.machines_service import alarms as alarms_table

ROWS_MAX = 1_000
LABELS_AT_ONCE = 100
LABEL_SOURCE = "alarms"
LABEL_OF: dict[lifecycle.Verdict, str] = {
    "fault": "fault",
    "false-alarm": "healthy",
    "maintenance": "maintenance",
    "sensor": "sensor",
}
"""What a verdict says of the alarm's span; training's healthy set follows from it."""
SPAN_NS_MIN = 1_000_000_000


@dataclass(frozen=True, slots=True)
class AlarmRow:
    """An alarm, where it is, and its life. `document` is what the device told with it."""

    id: str
    fleet: str
    device: str
    slot: str
    stream: str
    machine: str
    site: str
    life: Alarm
    document: dict[str, Any]
    updated_ns: int


@dataclass(frozen=True, slots=True)
class Said:
    """What a device says of the alarm of one of its slots.

    Attributes:
        raised: or cleared.
        t_ns: time of the window that did it.
        document: model, score, threshold.
    """

    device: str
    slot: str
    stream: str
    raised: bool
    t_ns: int
    document: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Told:
    """An alarm that people are to hear of, and why."""

    row: AlarmRow
    what: str


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One line of an alarm's history."""

    at_ns: int
    event: str
    actor: str
    detail: dict[str, Any]


Also = Callable[[Connection, list[Told]], None]
"""What else belongs to the transaction: the notices that follow from what was told."""


def take(
    store: Store,
    fleet: str,
    said: Sequence[Said],
    *,
    cursor: Any = None,
    now_ns: int,
    also: Also | None = None,
) -> list[Told]:
    """Write what devices say, in order, and the place in their events up to which it was taken.

    The shelves whose time is up end with it.

    Args:
        cursor: JSON; a kill finds either all of this and the cursor, or nothing.
    """
    with store.begin() as connection:
        told = _end_shelves(connection, fleet, now_ns)
        for one in said:
            effects, row = _device_says(connection, fleet, one, now_ns)
            told += [Told(row, e.what) for e in effects if isinstance(e, lifecycle.Notify) and row]
        if cursor is not None:
            put_state(connection, fleet, "cursor", cursor)
        if also is not None:
            also(connection, told)
    return told


def _device_says(
    connection: Connection, fleet: str, said: Said, now_ns: int
) -> tuple[list[lifecycle.Effect], Any]:
    a = alarms_table.c
    of_slot = and_(a.fleet == fleet, a.device == said.device, a.slot == said.slot)
    event = lifecycle.Raised(said.t_ns) if said.raised else lifecycle.Cleared(said.t_ns)
    found = connection.execute(
        select(alarms_table).where(of_slot, a.phase != Phase.CLOSED.value).with_for_update()
    ).first()
    if found is None:
        if not isinstance(event, lifecycle.Raised):
            return [], None  # of an alarm that a person has done with, or that came before us
        return _new(connection, fleet, said, event, now_ns)
    row = _row(found)
    life, effects = lifecycle.step(row.life, event)
    if life != row.life:
        document = said.document if said.raised else row.document
        _save(connection, row, life, now_ns, document=document)
        _note(connection, row, event, "", now_ns, said.document)
    return effects, _changed(row, life, now_ns)


def _new(
    connection: Connection, fleet: str, said: Said, event: lifecycle.Raised, now_ns: int
) -> tuple[list[lifecycle.Effect], AlarmRow]:
    life, effects = lifecycle.begin(event)
    machine, site = machine_at(connection, fleet, said.device, said.stream, said.t_ns)
    row = AlarmRow(
        uuid.uuid4().hex, fleet, said.device, said.slot, said.stream, machine, site, life,
        said.document, now_ns,
    )  # fmt: skip
    connection.execute(
        insert(alarms_table).values(
            id=row.id,
            fleet=fleet,
            device=row.device,
            slot=row.slot,
            stream=row.stream,
            machine=machine,
            site=site,
            label_due=False,
            document=row.document,
            updated_ns=now_ns,
            **_columns(life),
        )
    )
    _note(connection, row, event, "", now_ns, said.document)
    return effects, row


def act(
    store: Store,
    fleet: str,
    alarm: str,
    event: lifecycle.Acknowledged | lifecycle.Shelved | lifecycle.Unshelved | lifecycle.Judged,
    *,
    now_ns: int,
) -> AlarmRow:
    """What a person does with an alarm; returns it as it is now.

    Raises:
        RejectedInput: there is no such alarm, or the event means nothing in its state.
    """
    checked_text(event.by, "name")
    with store.begin() as connection:
        a = alarms_table.c
        found = connection.execute(
            select(alarms_table).where(a.fleet == fleet, a.id == alarm).with_for_update()
        ).first()
        if found is None:
            raise RejectedInput(f"no alarm {alarm!r:.40} in {fleet}", code="alarm.unknown")
        row = _row(found)
        life, effects = lifecycle.step(row.life, event)
        for effect in effects:
            if isinstance(effect, lifecycle.Refused):
                raise RejectedInput(effect.reason, code="alarm.state")
        due = any(isinstance(effect, lifecycle.Label) for effect in effects)
        _save(connection, row, life, now_ns, label_due=due or bool(found.label_due))
        detail: dict[str, Any] = {}
        if isinstance(event, lifecycle.Shelved):
            detail = {"until_ns": event.until_ns, "reason": checked_text(event.reason, "reason")}
        if isinstance(event, lifecycle.Judged):
            detail = {"verdict": event.verdict}
        _note(connection, row, event, event.by, now_ns, detail)
    if due:
        write_labels(store, fleet, now_ns=now_ns, alarm=alarm)
    return _changed(row, life, now_ns)


def _end_shelves(connection: Connection, fleet: str, now_ns: int) -> list[Told]:
    told: list[Told] = []
    a = alarms_table.c
    shelved = and_(a.fleet == fleet, a.phase == Phase.SHELVED.value)
    query = select(alarms_table).where(shelved, a.shelved_until_ns <= now_ns)
    for found in connection.execute(query.limit(ROWS_MAX).with_for_update()).all():
        row = _row(found)
        event = lifecycle.due(row.life, now_ns)
        if event is None:
            continue
        life, effects = lifecycle.step(row.life, event)
        _save(connection, row, life, now_ns)
        _note(connection, row, event, "", now_ns, {})
        again = _changed(row, life, now_ns)
        told += [Told(again, e.what) for e in effects if isinstance(e, lifecycle.Notify)]
    return told


def write_labels(store: Store, fleet: str, *, now_ns: int, alarm: str | None = None) -> int:
    """Write the verdicts that are no label yet; how many. Doing it twice writes them once."""
    a = alarms_table.c
    where = and_(a.fleet == fleet, a.label_due.is_(True))
    if alarm is not None:
        where = and_(where, a.id == alarm)
    with store.read() as connection:
        rows = connection.execute(select(alarms_table).where(where).limit(LABELS_AT_ONCE)).all()
    for found in rows:
        row = _row(found)
        life = row.life
        if life.verdict is None:
            continue
        t1_ns = life.cleared_ns if life.cleared_ns is not None else now_ns
        label = {
            "device": row.device,
            "stream": row.stream,
            "t0_ns": life.raised_ns,
            "t1_ns": max(t1_ns, life.raised_ns + SPAN_NS_MIN),
            "label": LABEL_OF[life.verdict],
            "annotator": life.verdict_by,
            "alarm": row.id,
        }
        said = f"{row.id} {life.verdict} {life.verdict_by} {found.updated_ns}"
        epoch = hashlib.sha256(said.encode()).hexdigest()[:32]
        add_labels(store, fleet, [label], source=LABEL_SOURCE, epoch=epoch, now_ns=now_ns)
        with store.begin() as connection:
            connection.execute(
                update(alarms_table)
                .where(a.id == row.id, a.updated_ns == found.updated_ns)
                .values(label_due=False)
            )
    return len(rows)


def list_alarms(
    store: Store,
    fleet: str,
    *,
    open_only: bool = False,
    machine: str | None = None,
    device: str | None = None,
    site: str | None = None,
    before: tuple[int, str] | None = None,
    limit: int = 100,
) -> list[AlarmRow]:
    """Alarms, newest first.

    Args:
        before: (raised_ns, id) of the last one of the page before.
    """
    a = alarms_table.c
    query = select(alarms_table).where(a.fleet == fleet)
    if open_only:
        query = query.where(a.phase != Phase.CLOSED.value)
    for column, value in ((a.machine, machine), (a.device, device), (a.site, site)):
        if value is not None:
            query = query.where(column == value)
    if before is not None:
        query = query.where(tuple_(a.raised_ns, a.id) < tuple_(*before))
    query = query.order_by(a.raised_ns.desc(), a.id.desc()).limit(min(limit, ROWS_MAX))
    with store.read() as connection:
        return [_row(found) for found in connection.execute(query)]


def count_open(store: Store, fleet: str) -> int:
    """How many alarms are open."""
    a = alarms_table.c
    query = select(func.count()).where(a.fleet == fleet, a.phase != Phase.CLOSED.value)
    with store.read() as connection:
        return int(connection.execute(query).scalar_one())


def find_alarm(store: Store, fleet: str, alarm: str) -> AlarmRow | None:
    """One alarm, or None."""
    a = alarms_table.c
    query = select(alarms_table).where(a.fleet == fleet, a.id == alarm)
    with store.read() as connection:
        found = connection.execute(query).first()
    return None if found is None else _row(found)


def history_of(store: Store, fleet: str, alarm: str) -> list[HistoryRow]:
    """What happened to an alarm, oldest first, at most `ROWS_MAX` lines."""
    h = alarm_history.c
    query = select(h.at_ns, h.event, h.actor, h.detail).where(h.fleet == fleet, h.alarm == alarm)
    with store.read() as connection:
        rows = connection.execute(query.order_by(h.id).limit(ROWS_MAX))
        return [HistoryRow(*row) for row in rows]


def machine_at(
    connection: Connection, fleet: str, device: str, stream: str, t_ns: int
) -> tuple[str, str]:
    """Which machine a stream measured at a time, and its site; ("", "") where nobody said."""
    s, m = stream_assignments.c, machines.c
    found = connection.execute(
        select(s.machine, m.site)
        .join(machines, and_(m.fleet == s.fleet, m.machine == s.machine))
        .where(
            s.fleet == fleet,
            s.device == device,
            s.stream == stream,
            s.from_ns <= t_ns,
            or_(s.to_ns.is_(None), s.to_ns > t_ns),
        )
    ).first()
    return ("", "") if found is None else (found.machine, found.site)


def read_state(store: Store, fleet: str, key: str) -> Any:
    """A value that the service keeps, or None."""
    c = machines_state.c
    with store.read() as connection:
        query = select(c.value).where(c.fleet == fleet, c.key == key)
        return connection.execute(query).scalar()


def put_state(connection: Connection, fleet: str, key: str, value: Any) -> None:
    """Keep a value, within the caller's transaction."""
    statement = insert_into(connection, machines_state).values(fleet=fleet, key=key, value=value)
    connection.execute(
        statement.on_conflict_do_update(index_elements=["fleet", "key"], set_={"value": value})
    )


def _columns(life: Alarm) -> dict[str, Any]:
    return {
        "phase": life.phase.value,
        "standing": life.standing,
        "raises": life.raises,
        "raised_ns": life.raised_ns,
        "cleared_ns": life.cleared_ns,
        "shelved_until_ns": life.shelved_until_ns,
        "acknowledged_by": life.acknowledged_by,
        "verdict": life.verdict,
        "verdict_by": life.verdict_by,
    }


def _row(found: Row[Any]) -> AlarmRow:
    life = Alarm(
        Phase(found.phase),
        found.standing,
        found.raises,
        found.raised_ns,
        found.cleared_ns,
        found.shelved_until_ns,
        found.acknowledged_by,
        found.verdict,
        found.verdict_by,
    )
    return AlarmRow(
        found.id, found.fleet, found.device, found.slot, found.stream, found.machine, found.site,
        life, found.document, found.updated_ns,
    )  # fmt: skip


def _changed(row: AlarmRow, life: Alarm, now_ns: int) -> AlarmRow:
    return AlarmRow(
        row.id, row.fleet, row.device, row.slot, row.stream, row.machine, row.site, life,
        row.document, now_ns,
    )  # fmt: skip


def _save(connection: Connection, row: AlarmRow, life: Alarm, now_ns: int, **more: Any) -> None:
    a = alarms_table.c
    values = {**_columns(life), "updated_ns": max(now_ns, row.updated_ns + 1), **more}
    connection.execute(update(alarms_table).where(a.id == row.id).values(values))


def _note(
    connection: Connection,
    row: AlarmRow,
    event: lifecycle.Event,
    actor: str,
    at_ns: int,
    detail: dict[str, Any],
) -> None:
    connection.execute(
        insert(alarm_history).values(
            fleet=row.fleet,
            alarm=row.id,
            at_ns=at_ns,
            event=type(event).__name__.lower(),
            actor=actor,
            detail=detail,
        )
    )
