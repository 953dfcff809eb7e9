"""Rollouts, their devices, assignments and signed orders: delivery's tables.

Owns all reading and writing of `rollouts`, `rollout_devices`, `assignments`, `documents`; only
delivery writes them. What people ask of rollouts is in `steering`.
Promises that one look's outcome is stored as a whole, so that a killed controller finds all of it
or none. Keeps no state; any thread may call it. Time comes in as an argument.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select

from fieldloop_store.engine import Store, insert_into
from fieldloop_store.schema import assignments, documents, rollout_devices, rollouts
from fieldloop_store.steering import AuditRow, Request, save_answers, save_audit

ROLLOUTS_MAX = 1_000
DEVICES_MAX = 1_000_000
PAGE_ROWS = 500
COHORTS_MAX = 100


@dataclass(frozen=True, slots=True)
class RolloutRow:
    """One rollout; `document` holds its whole state, figures and verdict."""

    id: str
    fleet: str
    slot: str
    model: str
    version: int
    state: str
    document: dict[str, Any]
    created_ns: int
    updated_ns: int


@dataclass(frozen=True, slots=True)
class MemberRow:
    """What a rollout did to one device: touched it (`treated`), or kept it as a `control`.

    `previous` is what it goes back to, None for nothing; `back_s` when it was seen to be back.
    """

    rollout: str
    device: str
    role: str
    wave: int
    cohort: str
    at_s: float
    previous: dict[str, Any] | None = None
    back_s: float | None = None


@dataclass(frozen=True, slots=True)
class AssignmentRow:
    """What one slot of one device shall run; `model` None for nothing."""

    device: str
    slot: str
    model: str | None
    version: int | None
    rollout: str | None


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """The last signed order of one device."""

    device: str
    version: int
    payload: bytes


def list_rollouts(
    store: Store, fleet: str, *, slot: str | None = None, limit: int = ROLLOUTS_MAX
) -> list[RolloutRow]:
    """Rollouts, newest first, at most `ROLLOUTS_MAX`."""
    r = rollouts.c
    query = select(
        r.id, r.fleet, r.slot, r.model, r.version, r.state, r.document, r.created_ns, r.updated_ns
    ).where(r.fleet == fleet)
    if slot is not None:
        query = query.where(r.slot == slot)
    with store.read() as connection:
        rows = connection.execute(
            query.order_by(r.created_ns.desc(), r.id.desc()).limit(min(limit, ROLLOUTS_MAX))
        ).all()
    return [RolloutRow(*row) for row in rows]


def find_rollout(store: Store, fleet: str, rollout: str) -> RolloutRow | None:
    """One rollout, or None."""
    r = rollouts.c
    query = select(
        r.id, r.fleet, r.slot, r.model, r.version, r.state, r.document, r.created_ns, r.updated_ns
    ).where(r.fleet == fleet, r.id == rollout)
    with store.read() as connection:
        row = connection.execute(query).first()
    return RolloutRow(*row) if row is not None else None


def list_rollout_devices(
    store: Store,
    fleet: str,
    rollout: str,
    *,
    wave: int | None = None,
    after: str = "",
    limit: int = DEVICES_MAX,
) -> list[MemberRow]:
    """Devices of a rollout by id, of one wave or of all, beginning after the device `after`."""
    d = rollout_devices.c
    query = select(
        d.rollout, d.device, d.role, d.wave, d.cohort, d.at_s, d.previous, d.back_s
    ).where(d.fleet == fleet, d.rollout == rollout, d.device > after)
    if wave is not None:
        query = query.where(d.wave == wave, d.role == "treated")
    with store.read() as connection:
        rows = connection.execute(query.order_by(d.device).limit(limit)).all()
    return [MemberRow(*row) for row in rows]


def cohorts_of_rollout(store: Store, fleet: str, rollout: str) -> list[tuple[str, int]]:
    """Cohorts of the devices that a rollout touched, and their number, the largest first."""
    d = rollout_devices.c
    query = (
        select(d.cohort, func.count())
        .where(d.fleet == fleet, d.rollout == rollout, d.role == "treated")
        .group_by(d.cohort)
        .order_by(func.count().desc(), d.cohort)
        .limit(COHORTS_MAX)
    )
    with store.read() as connection:
        return [(str(name), int(n)) for name, n in connection.execute(query)]


def list_assignments(store: Store, fleet: str) -> list[AssignmentRow]:
    """What every slot of every device shall run."""
    a = assignments.c
    query = select(a.device, a.slot, a.model, a.version, a.rollout).where(a.fleet == fleet)
    with store.read() as connection:
        return [AssignmentRow(*row) for row in connection.execute(query.limit(DEVICES_MAX)).all()]


def list_documents(store: Store, fleet: str) -> list[DocumentRow]:
    """The last signed order of every device. For a large fleet, `each_document`."""
    return list(each_document(store, fleet))


def each_document(store: Store, fleet: str) -> Iterator[DocumentRow]:
    """The last signed order of every device, by device, read in pages."""
    d = documents.c
    after = ""
    while True:
        query = (
            select(d.device, d.version, d.payload)
            .where(d.fleet == fleet, d.device > after)
            .order_by(d.device)
            .limit(PAGE_ROWS)
        )
        with store.read() as connection:
            rows = connection.execute(query).all()
        for device, version, payload in rows:
            yield DocumentRow(device, version, bytes(payload))
        if len(rows) < PAGE_ROWS:
            return
        after = rows[-1].device


def find_document(store: Store, fleet: str, device: str) -> DocumentRow | None:
    """The last signed order of one device, or None."""
    d = documents.c
    query = select(d.device, d.version, d.payload).where(d.fleet == fleet, d.device == device)
    with store.read() as connection:
        row = connection.execute(query).first()
    return DocumentRow(row.device, row.version, bytes(row.payload)) if row is not None else None


def save_look(
    store: Store,
    fleet: str,
    *,
    changed: Sequence[RolloutRow],
    assigned: Sequence[AssignmentRow],
    signed: Sequence[DocumentRow],
    now_ns: int,
    members: Sequence[MemberRow] = (),
    answers: Sequence[Request] = (),
    audit: Sequence[AuditRow] = (),
    due: int = 0,
) -> tuple[int, int]:
    """Store what one look came to, in one transaction; returns `documents_state` after it.

    Raises:
        RetryLater: the database is away; nothing was stored.
    """
    with store.begin() as connection:
        _save_rollouts(connection, changed)
        _save_members(connection, fleet, members)
        save_answers(connection, answers)
        save_audit(connection, fleet, audit, due=due)
        _save_assignments(connection, fleet, assigned, now_ns)
        _save_documents(connection, fleet, signed, now_ns)
        return _documents_state(connection, fleet)


def documents_state(store: Store, fleet: str) -> tuple[int, int]:
    """How many orders there are, and the sum of their versions: it grows with each one signed."""
    with store.read() as connection:
        return _documents_state(connection, fleet)


def _documents_state(connection: Connection, fleet: str) -> tuple[int, int]:
    d = documents.c
    query = select(func.count(), func.coalesce(func.sum(d.version), 0)).where(d.fleet == fleet)
    count, total = connection.execute(query).one()
    return int(count), int(total)


def _save_assignments(
    connection: Connection, fleet: str, assigned: Sequence[AssignmentRow], now_ns: int
) -> None:
    if not assigned:
        return
    rows = [
        {
            "fleet": fleet,
            "device": a.device,
            "slot": a.slot,
            "model": a.model,
            "version": a.version,
            "rollout": a.rollout,
            "updated_ns": now_ns,
        }
        for a in assigned
    ]
    statement = insert_into(connection, assignments)
    new = statement.excluded
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["fleet", "device", "slot"],
            set_={
                "model": new.model,
                "version": new.version,
                "rollout": new.rollout,
                "updated_ns": new.updated_ns,
            },
        ),
        rows,
    )


def _save_documents(
    connection: Connection, fleet: str, signed: Sequence[DocumentRow], now_ns: int
) -> None:
    if not signed:
        return
    rows = [
        {
            "fleet": fleet,
            "device": d.device,
            "version": d.version,
            "payload": d.payload,
            "updated_ns": now_ns,
        }
        for d in signed
    ]
    statement = insert_into(connection, documents)
    new = statement.excluded
    # A version never goes back: a second controller on the same store would lose here.
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["fleet", "device"],
            set_={"version": new.version, "payload": new.payload, "updated_ns": new.updated_ns},
            where=documents.c.version < new.version,
        ),
        rows,
    )


def _save_members(connection: Connection, fleet: str, members: Sequence[MemberRow]) -> None:
    if not members:
        return
    rows = [
        {
            "fleet": fleet,
            "rollout": m.rollout,
            "device": m.device,
            "role": m.role,
            "wave": m.wave,
            "cohort": m.cohort[:500],
            "at_s": m.at_s,
            "previous": m.previous,
            "back_s": m.back_s,
        }
        for m in members
    ]
    statement = insert_into(connection, rollout_devices)
    new = statement.excluded
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["fleet", "rollout", "device"],
            set_={
                name: new[name] for name in ("role", "wave", "cohort", "at_s", "previous", "back_s")
            },
        ),
        rows,
    )


def _save_rollouts(connection: Connection, changed: Sequence[RolloutRow]) -> None:
    for row in changed:
        statement = insert_into(connection, rollouts).values(
            id=row.id,
            fleet=row.fleet,
            slot=row.slot,
            model=row.model,
            version=row.version,
            state=row.state,
            document=row.document,
            created_ns=row.created_ns,
            updated_ns=row.updated_ns,
        )
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=["id"],
                set_={
                    "state": row.state,
                    "document": row.document,
                    "updated_ns": row.updated_ns,
                },
            )
        )
