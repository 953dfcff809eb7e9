"""Machines, and which stream of which device measures which machine, from-to, without overlap.

Baselines, alarms and labels belong to a machine and so survive the replacement of a device.
Telemetry's `machines` command calls the writing functions, and whoever administrates in its place;
reading is for all. Any thread. All raise RetryLater where the database is away.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, insert, or_, select, update

from fieldloop_contract.errors import RejectedInput
from fieldloop_contract.ids import check_id
from fieldloop_store.auditing import checked_text, write_audit
from fieldloop_store.engine import Store, insert_into
from fieldloop_store.schema import machines, stream_assignments

ROWS_MAX = 10_000
NAMEPLATE_BYTES_MAX = 64 * 1024
COHORT = "cohort"
"""Entry of a machine's nameplate that names its cohort."""


@dataclass(frozen=True, slots=True)
class AssignmentRow:
    """A stream on a machine; `to_ns` None: still."""

    device: str
    stream: str
    machine: str
    mounting: str
    from_ns: int
    to_ns: int | None


def put_machine(
    store: Store,
    fleet: str,
    machine: str,
    *,
    site: str = "",
    nameplate: dict[str, Any] | None = None,
    now_ns: int,
) -> None:
    """Add a machine, or change its site and nameplate.

    Raises:
        RejectedInput: an id, a text or a nameplate that cannot be stored.
    """
    check_id(fleet, "fleet")
    check_id(machine, "machine")
    plate = nameplate or {}
    if len(json.dumps(plate)) > NAMEPLATE_BYTES_MAX:
        raise RejectedInput("a nameplate that is too long", code="machine.nameplate")
    values = {"site": checked_text(site, "site"), "nameplate": plate}
    with store.begin() as connection:
        statement = insert_into(connection, machines).values(
            fleet=fleet, machine=machine, created_ns=now_ns, **values
        )
        connection.execute(
            statement.on_conflict_do_update(index_elements=["fleet", "machine"], set_=values)
        )


def list_machines(store: Store, fleet: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Machine, site and nameplate, by machine, at most `ROWS_MAX`."""
    m = machines.c
    query = select(m.machine, m.site, m.nameplate).where(m.fleet == fleet).order_by(m.machine)
    with store.read() as connection:
        rows = connection.execute(query.limit(ROWS_MAX)).all()
    return [(r.machine, r.site, r.nameplate) for r in rows]


def assign_stream(
    store: Store,
    fleet: str,
    device: str,
    stream: str,
    machine: str,
    *,
    from_ns: int,
    to_ns: int | None = None,
    mounting: str = "",
    actor: str,
    now_ns: int,
) -> None:
    """Say what machine a stream measures from `from_ns` until before `to_ns` (None: still).

    An assignment that is open at `from_ns` ends there.

    Raises:
        RejectedInput: no such machine, or the span overlaps another that does not simply end.
    """
    for value, what in ((fleet, "fleet"), (device, "device"), (stream, "stream")):
        check_id(value, what)
    if to_ns is not None and to_ns <= from_ns:
        raise RejectedInput("an assignment ends after it begins", code="assignment.span")
    s = stream_assignments.c
    own = and_(s.fleet == fleet, s.device == device, s.stream == stream)
    with store.begin() as connection:
        known = select(machines.c.machine).where(
            machines.c.fleet == fleet, machines.c.machine == machine
        )
        if connection.execute(known.with_for_update()).scalar() is None:
            raise RejectedInput(f"no machine is called {machine}", code="machine.unknown")
        connection.execute(
            update(stream_assignments)
            .where(own, s.to_ns.is_(None), s.from_ns < from_ns)
            .values(to_ns=from_ns)
        )
        clash = own & or_(s.to_ns.is_(None), s.to_ns > from_ns)
        if to_ns is not None:
            clash = clash & (s.from_ns < to_ns)
        if connection.execute(select(s.machine).where(clash).limit(1)).scalar() is not None:
            raise RejectedInput(
                f"{device}/{stream} is assigned within this span already", code="assignment.overlap"
            )
        connection.execute(
            insert(stream_assignments).values(
                fleet=fleet,
                device=device,
                stream=stream,
                from_ns=from_ns,
                to_ns=to_ns,
                machine=machine,
                mounting=checked_text(mounting, "mounting"),
            )
        )
        detail = {"stream": stream, "machine": machine, "from_ns": from_ns, "to_ns": to_ns}
        write_audit(connection, fleet, device, "assigned", actor, detail, now_ns)


def assignments_of(
    store: Store, fleet: str, *, device: str | None = None, machine: str | None = None
) -> list[AssignmentRow]:
    """Assignments by device, stream and time, at most `ROWS_MAX`."""
    s = stream_assignments.c
    query = select(s.device, s.stream, s.machine, s.mounting, s.from_ns, s.to_ns).where(
        s.fleet == fleet
    )
    if device is not None:
        query = query.where(s.device == device)
    if machine is not None:
        query = query.where(s.machine == machine)
    with store.read() as connection:
        rows = connection.execute(query.order_by(s.device, s.stream, s.from_ns).limit(ROWS_MAX))
        return [AssignmentRow(*row) for row in rows]


def device_of(store: Store, fleet: str, machine: str) -> str:
    """The device whose stream measures a machine now.

    Raises:
        RejectedInput: none does.
    """
    rows = [r for r in assignments_of(store, fleet, machine=machine) if r.to_ns is None]
    if not rows:
        raise RejectedInput(
            f"no stream measures {machine}",
            code="machine.unassigned",
            hint="fieldloop machines assign MACHINE DEVICE STREAM",
        )
    return rows[0].device


def machines_of(store: Store, fleet: str, cohort: str) -> list[str]:
    """Machines whose nameplate names a cohort, by name.

    Raises:
        RejectedInput: there is none.
    """
    found = [m for m, _, plate in list_machines(store, fleet) if plate.get(COHORT) == cohort]
    if not cohort or not found:
        raise RejectedInput(
            f"no machine is of cohort {cohort!r:.70}",
            code="machine.cohort",
            hint='a machine is of a cohort by its nameplate: {"cohort": "..."}',
        )
    return found


def end_assignments(connection: Connection, fleet: str, device: str, now_ns: int) -> list[Any]:
    """End what is open, within the caller's transaction; returns stream, machine and mounting."""
    s = stream_assignments.c
    own = and_(s.fleet == fleet, s.device == device, s.to_ns.is_(None))
    rows = list(connection.execute(select(s.stream, s.machine, s.mounting).where(own)).all())
    connection.execute(update(stream_assignments).where(own).values(to_ns=now_ns))
    return rows
