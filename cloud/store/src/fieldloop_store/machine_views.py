"""Machines for people: who measures each, which alarms are open, how its calibration stands.

Read page by page; each query has a limit and an index. Read-only; any thread. All raise RetryLater
where the database is away.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, or_, select

from fieldloop_store.commissionings import UNDER_WAY
from fieldloop_store.engine import Store
from fieldloop_store.lifecycle import Phase
from fieldloop_store.machines import COHORT, AssignmentRow
from fieldloop_store.schema import machines, stream_assignments
from fieldloop_store.schema.machines_service import alarms, calibrations, commissionings

PAGE_MAX = 1_000
COHORTS_MAX = 100


@dataclass(frozen=True, slots=True)
class MachineView:
    """A machine in a list.

    Attributes:
        assignments: streams that measure it now.
        open: alarms that are not closed; `standing`: those whose cause still stands.
        raised_ns: when the newest open one was raised; None for none.
        calibration: `armed`, `stale`, or "" where nobody armed one on what measures it now.
        commissioning: state of the one under way: waiting, refused, ready; "" for none.
    """

    machine: str
    site: str
    nameplate: dict[str, Any]
    assignments: tuple[AssignmentRow, ...]
    open: int
    standing: int
    raised_ns: int | None
    calibration: str
    commissioning: str


def machines_page(
    store: Store,
    fleet: str,
    *,
    text: str = "",
    alarmed: bool = False,
    only: str | None = None,
    after: str = "",
    limit: int = 50,
) -> tuple[list[MachineView], int]:
    """A page of machines by name, and how many fit in all.

    Args:
        text: part of the name or the site, in any case.
        alarmed: only those with an open alarm.
        only: this machine only.
    """
    m, a = machines.c, alarms.c
    where: list[ColumnElement[bool]] = [m.fleet == fleet]
    if text:
        part = text.lower()
        where.append(or_(
            func.lower(m.machine).contains(part, autoescape=True),
            func.lower(m.site).contains(part, autoescape=True),
        ))  # fmt: skip
    if alarmed:
        is_open = select(a.machine).where(a.fleet == fleet, a.phase != Phase.CLOSED.value)
        where.append(m.machine.in_(is_open))
    if only is not None:
        where.append(m.machine == only)
    query = (
        select(m.machine, m.site, m.nameplate)
        .where(*where, m.machine > after)
        .order_by(m.machine)
        .limit(min(limit, PAGE_MAX))
    )
    with store.read() as connection:
        total = connection.execute(select(func.count()).select_from(machines).where(*where))
        count = int(total.scalar_one())
        rows = connection.execute(query).all()
        named = [row.machine for row in rows]
        assigned = _assigned(connection, fleet, named)
        raised = _alarms(connection, fleet, named)
        armed = _calibrations(connection, fleet, assigned)
        begun = _commissionings(connection, fleet, named)
    views = []
    for row in rows:
        unclosed, standing, raised_ns = raised.get(row.machine, (0, 0, None))
        views.append(
            MachineView(
                row.machine, row.site, row.nameplate, tuple(assigned[row.machine]), unclosed,
                standing, raised_ns, armed.get(row.machine, ""), begun.get(row.machine, ""),
            )
        )  # fmt: skip
    return views, count


def find_machine(store: Store, fleet: str, machine: str) -> MachineView | None:
    """One machine, or None."""
    found, _ = machines_page(store, fleet, only=machine, limit=1)
    return found[0] if found else None


def cohorts_of(store: Store, fleet: str) -> list[tuple[str, int]]:
    """Cohorts that nameplates name, and the number of their machines, the largest first."""
    m = machines.c
    cohort = m.nameplate[COHORT].as_string()
    query = (
        select(cohort, func.count())
        .where(m.fleet == fleet, cohort.is_not(None))
        .group_by(cohort)
        .order_by(func.count().desc(), cohort)
        .limit(COHORTS_MAX)
    )
    with store.read() as connection:
        return [(str(name), int(n)) for name, n in connection.execute(query) if name]


def _assigned(
    connection: Connection, fleet: str, named: Sequence[str]
) -> dict[str, list[AssignmentRow]]:
    s = stream_assignments.c
    query = (
        select(s.device, s.stream, s.machine, s.mounting, s.from_ns, s.to_ns)
        .where(s.fleet == fleet, s.machine.in_(named), s.to_ns.is_(None))
        .order_by(s.device, s.stream)
    )
    found: dict[str, list[AssignmentRow]] = defaultdict(list)
    for row in connection.execute(query):
        found[row.machine].append(AssignmentRow(*row))
    return found


def _alarms(
    connection: Connection, fleet: str, named: Sequence[str]
) -> dict[str, tuple[int, int, int | None]]:
    a = alarms.c
    query = (
        select(
            a.machine, func.count(), func.count().filter(a.standing.is_(True)),
            func.max(a.raised_ns),
        )
        .where(a.fleet == fleet, a.machine.in_(named), a.phase != Phase.CLOSED.value)
        .group_by(a.machine)
    )  # fmt: skip
    return {r[0]: (int(r[1]), int(r[2]), int(r[3])) for r in connection.execute(query)}


def _calibrations(
    connection: Connection, fleet: str, assigned: dict[str, list[AssignmentRow]]
) -> dict[str, str]:
    """`armed` where a record of the machine on its device is in force, else `stale`."""
    c = calibrations.c
    on = {row.device: name for name, rows in assigned.items() for row in rows}
    query = select(c.machine, c.device, c.stale_ns).where(c.fleet == fleet, c.device.in_(on))
    found: dict[str, str] = {}
    for machine, device, stale_ns in connection.execute(query.order_by(c.armed_ns)):
        if on.get(device) == machine and found.get(machine) != "armed":
            found[machine] = "armed" if stale_ns is None else "stale"
    return found


def _commissionings(connection: Connection, fleet: str, named: Sequence[str]) -> dict[str, str]:
    c = commissionings.c
    query = select(c.machine, c.state).where(
        c.fleet == fleet, c.state.in_(UNDER_WAY), c.machine.in_(named)
    )
    return {str(row.machine): str(row.state) for row in connection.execute(query)}
