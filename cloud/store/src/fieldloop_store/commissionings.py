"""Commissionings and the calibration records that people armed.

A person begins a commissioning of one slot on one machine; the machines service judges it again and
again (`judged`); once it is ready a person arms it, which is the word that the machine is healthy.
An armed record is immutable; it goes stale when the machine, its mounting or its regime changes,
or when another one takes its place. Delivery signs the armed records into the orders.

Any thread. All raise RetryLater where the database is away.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, and_, func, insert, select, update

from fieldloop_contract.calibration import Calibration, parse_calibration
from fieldloop_contract.errors import RejectedInput
from fieldloop_contract.ids import check_id
from fieldloop_store.auditing import checked_text, write_audit
from fieldloop_store.engine import Store, insert_into
from fieldloop_store.schema.machines_service import calibrations
from fieldloop_store.schema.machines_service import commissionings as commissionings_table

ROWS_MAX = 10_000
UNDER_WAY = ("waiting", "refused", "ready")
ARMED, ENDED = "armed", "ended"
RUNNING_HOURS, RUNNING_HOURS_MAX = 24.0, 10_000.0
BUDGET_PER_WEEK, BUDGET_PER_WEEK_MAX = 0.25, 1_000.0


@dataclass(frozen=True, slots=True)
class CommissioningRow:
    """A commissioning: what is wanted, how it stands, and the record that it came to."""

    id: str
    fleet: str
    machine: str
    device: str
    slot: str
    state: str
    plan: dict[str, Any]
    assessment: dict[str, Any]
    record: Calibration | None
    begun_ns: int
    updated_ns: int


@dataclass(frozen=True, slots=True)
class CalibrationRow:
    """A record that a person armed. `stale_because` is "" while it is in force."""

    digest: str
    machine: str
    device: str
    slot: str
    record: Calibration
    peaks: dict[str, Any]
    armed_by: str
    armed_ns: int
    stale_ns: int | None
    stale_because: str


def checked_plan(
    running_hours: float, budget_per_week: float, far_is_meant: bool
) -> dict[str, Any]:
    """What a commissioning is to reach, for `begin`.

    Args:
        running_hours: to learn from.
        budget_per_week: false alarm events that are put up with in a week of running.
        far_is_meant: the machine may be unlike its cohort.

    Raises:
        RejectedInput: figures that cannot be meant.
    """
    if not 0 < running_hours <= RUNNING_HOURS_MAX or not 0 < budget_per_week <= BUDGET_PER_WEEK_MAX:
        raise RejectedInput(
            "hours and false alarms a week are above 0",
            code="commissioning.plan",
            hint=f"at most {RUNNING_HOURS_MAX:.0f} hours and {BUDGET_PER_WEEK_MAX:.0f} alarms",
        )
    return {
        "running_hours": running_hours,
        "budget_per_week": budget_per_week,
        "far_is_meant": far_is_meant,
    }


def begin(
    store: Store,
    fleet: str,
    *,
    machine: str,
    device: str,
    slot: str,
    plan: dict[str, Any],
    actor: str,
    now_ns: int,
) -> CommissioningRow:
    """Begin one; one that is under way on the same slot ends.

    Raises:
        RejectedInput: an id or a plan that cannot be stored.
    """
    for value, what in ((fleet, "fleet"), (machine, "machine"), (device, "device"), (slot, "slot")):
        check_id(value, what)
    row = CommissioningRow(
        uuid.uuid4().hex, fleet, machine, device, slot, "waiting", plan, {}, None, now_ns, now_ns
    )
    with store.begin() as connection:
        _end(connection, fleet, device, slot, now_ns)
        connection.execute(
            insert(commissionings_table).values(
                id=row.id,
                fleet=fleet,
                machine=machine,
                device=device,
                slot=slot,
                state=row.state,
                plan=plan,
                assessment={},
                begun_ns=now_ns,
                updated_ns=now_ns,
            )
        )
        detail = {"machine": machine, "slot": slot, "plan": plan}
        write_audit(connection, fleet, device, "commissioning begun", actor, detail, now_ns)
    return row


def judged(
    store: Store,
    commissioning: str,
    *,
    state: str,
    assessment: dict[str, Any],
    record: Calibration | None,
    now_ns: int,
) -> bool:
    """Write how one stands, while it is under way; whether it was."""
    c = commissionings_table.c
    with store.begin() as connection:
        changed = connection.execute(
            update(commissionings_table)
            .where(c.id == commissioning, c.state.in_(UNDER_WAY))
            .values(
                state=state,
                assessment=assessment,
                record=None if record is None else record.encode(),
                updated_ns=now_ns,
            )
        )
    return changed.rowcount == 1


def arm(store: Store, fleet: str, commissioning: str, *, actor: str, now_ns: int) -> CalibrationRow:
    """A person says that the machine is healthy: the record is in force from now on.

    Raises:
        RejectedInput: no such commissioning, or it is not ready.
    """
    with store.begin() as connection:
        row = _find(connection, fleet, commissioning)
        if row.state != "ready" or row.record is None:
            words = row.assessment.get("words") or row.state
            raise RejectedInput(
                f"the commissioning of {row.machine} is {row.state}: {words}",
                code="commissioning.state",
                hint="only one that is ready can be armed",
            )
        because = "another record took its place"
        _go_stale(connection, fleet, row.device, row.slot, because, now_ns)
        armed = CalibrationRow(
            row.record.digest(), row.machine, row.device, row.slot, row.record,
            row.assessment.get("peaks", {}), actor, now_ns, None, "",
        )  # fmt: skip
        word = {"armed_by": checked_text(actor, "name"), "armed_ns": now_ns,
                "stale_ns": None, "stale_because": ""}  # fmt: skip
        statement = insert_into(connection, calibrations).values(
            fleet=fleet,
            digest=armed.digest,
            machine=row.machine,
            device=row.device,
            slot=row.slot,
            model_digest=row.record.model.digest,
            record=row.record.encode(),
            peaks=armed.peaks,
            **word,
        )
        # The same rows again are the same record: a person may trust it once more.
        connection.execute(
            statement.on_conflict_do_update(index_elements=["fleet", "digest"], set_=word)
        )
        _set_state(connection, commissioning, ARMED, now_ns)
        detail = {"machine": row.machine, "slot": row.slot, "record": armed.digest}
        write_audit(connection, fleet, row.device, "calibration armed", actor, detail, now_ns)
    return armed


def end(store: Store, fleet: str, commissioning: str, *, actor: str, now_ns: int) -> None:
    """Give one up; RejectedInput where there is none, or it is armed."""
    with store.begin() as connection:
        row = _find(connection, fleet, commissioning)
        if row.state not in UNDER_WAY:
            raise RejectedInput(f"it is {row.state}", code="commissioning.state")
        _set_state(connection, commissioning, ENDED, now_ns)
        write_audit(
            connection, fleet, row.device, "commissioning ended", actor, {"slot": row.slot}, now_ns
        )


def go_stale(
    store: Store, fleet: str, device: str, slot: str, *, because: str, actor: str, now_ns: int
) -> int:
    """A repair, a moved sensor or another regime: what is in force on a slot is so no more.

    Returns:
        How many records that were in force.
    """
    with store.begin() as connection:
        text = checked_text(because, "reason")
        count = _go_stale(connection, fleet, device, slot, text, now_ns)
        if count:
            detail = {"slot": slot, "because": because}
            write_audit(connection, fleet, device, "calibration stale", actor, detail, now_ns)
    return count


def list_commissionings(
    store: Store, fleet: str, *, machine: str | None = None, under_way: bool = False
) -> list[CommissioningRow]:
    """Commissionings, newest first, at most `ROWS_MAX`."""
    c = commissionings_table.c
    query = select(commissionings_table).where(c.fleet == fleet)
    if machine is not None:
        query = query.where(c.machine == machine)
    if under_way:
        query = query.where(c.state.in_(UNDER_WAY))
    with store.read() as connection:
        rows = connection.execute(query.order_by(c.begun_ns.desc(), c.id).limit(ROWS_MAX))
        return [_row(found) for found in rows]


def find_commissioning(store: Store, fleet: str, commissioning: str) -> CommissioningRow | None:
    """One commissioning, or None."""
    c = commissionings_table.c
    query = select(commissionings_table).where(c.fleet == fleet, c.id == commissioning)
    with store.read() as connection:
        found = connection.execute(query).first()
    return None if found is None else _row(found)


def in_force(
    store: Store, fleet: str, *, model_digest: str | None = None, device: str | None = None
) -> list[CalibrationRow]:
    """Armed records that are not stale, by device and slot, at most `ROWS_MAX`."""
    c = calibrations.c
    query = select(calibrations).where(c.fleet == fleet, c.stale_ns.is_(None))
    if model_digest is not None:
        query = query.where(c.model_digest == model_digest)
    if device is not None:
        query = query.where(c.device == device)
    with store.read() as connection:
        rows = connection.execute(query.order_by(c.device, c.slot).limit(ROWS_MAX))
        return [_armed(found) for found in rows]


def latest_armed(store: Store, fleet: str, *, device: str | None = None) -> list[CalibrationRow]:
    """The record that was armed last for each slot of each device, stale or not: for its orders."""
    c = calibrations.c
    own = [c.fleet == fleet, *([c.device == device] if device is not None else [])]
    newest = (
        select(c.device, c.slot, func.max(c.armed_ns).label("armed_ns"))
        .where(*own)
        .group_by(c.device, c.slot)
        .subquery()
    )
    query = (
        select(calibrations)
        .join(
            newest,
            and_(
                c.device == newest.c.device,
                c.slot == newest.c.slot,
                c.armed_ns == newest.c.armed_ns,
            ),
        )
        .where(*own)
        .order_by(c.device, c.slot, c.digest)
    )
    with store.read() as connection:
        return [_armed(found) for found in connection.execute(query)]


def find_calibration(store: Store, fleet: str, digest: str) -> CalibrationRow | None:
    """A record by its digest, in force or not."""
    c = calibrations.c
    query = select(calibrations).where(c.fleet == fleet, c.digest == digest)
    with store.read() as connection:
        found = connection.execute(query).first()
    return None if found is None else _armed(found)


def _find(connection: Connection, fleet: str, commissioning: str) -> CommissioningRow:
    c = commissionings_table.c
    query = select(commissionings_table).where(c.fleet == fleet, c.id == commissioning)
    found = connection.execute(query.with_for_update()).first()
    if found is None:
        raise RejectedInput(
            f"no commissioning {commissioning!r:.40} in {fleet}", code="commissioning.unknown"
        )
    return _row(found)


def _end(connection: Connection, fleet: str, device: str, slot: str, now_ns: int) -> None:
    c = commissionings_table.c
    own = and_(c.fleet == fleet, c.device == device, c.slot == slot, c.state.in_(UNDER_WAY))
    connection.execute(
        update(commissionings_table).where(own).values(state=ENDED, updated_ns=now_ns)
    )


def _set_state(connection: Connection, commissioning: str, state: str, now_ns: int) -> None:
    connection.execute(
        update(commissionings_table)
        .where(commissionings_table.c.id == commissioning)
        .values(state=state, updated_ns=now_ns)
    )


def _go_stale(
    connection: Connection, fleet: str, device: str, slot: str, because: str, now_ns: int
) -> int:
    c = calibrations.c
    own = and_(c.fleet == fleet, c.device == device, c.slot == slot, c.stale_ns.is_(None))
    changed = connection.execute(
        update(calibrations).where(own).values(stale_ns=now_ns, stale_because=because)
    )
    return int(changed.rowcount)


def _row(found: Row[Any]) -> CommissioningRow:
    record = None if found.record is None else parse_calibration(bytes(found.record))
    return CommissioningRow(
        found.id, found.fleet, found.machine, found.device, found.slot, found.state, found.plan,
        found.assessment, record, found.begun_ns, found.updated_ns,
    )  # fmt: skip


def _armed(found: Row[Any]) -> CalibrationRow:
    return CalibrationRow(
        found.digest, found.machine, found.device, found.slot,
        parse_calibration(bytes(found.record)), found.peaks, found.armed_by, found.armed_ns,
        found.stale_ns, found.stale_because,
    )  # fmt: skip
