"""What devices have shown of a version, read from the store. Writes nothing.

Counts are made by the database, grouped by device, so that memory does not grow with the number of
windows. A window counts for a version by the digest in its result, never by what was ordered.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, select, true

from fieldloop_contract.errors import FieldloopError
from fieldloop_contract.messages import Reported, SlotState, from_object
from fieldloop_delivery.rollout import Evidence, Rollout, Tally
from fieldloop_store.engine import Store
from fieldloop_store.queries import ServiceRow
from fieldloop_store.schema import annotations as labels
from fieldloop_store.schema import events, results

BASELINE_NS = 7 * 86_400 * 10**9
"""How far back the earlier version's windows are counted."""
FAILURES_MAX = 10_000
_FAILED_STATES = ("REJECTED", "ROLLED_BACK")
_FAILED_EVENTS = ("model.rejected", "model.rolled-back", "model.rolledback", "model.rollback")


def gather(
    store: Store, fleet: str, rollout: Rollout, services: Mapping[str, ServiceRow], since_ns: int
) -> dict[str, Evidence]:
    """Evidence of every device in `services` for a rollout that began at `since_ns`."""
    touched = {t.device for t in rollout.touched}
    found = {device: _reported(rollout, row) for device, row in services.items()}
    if not touched:
        return found
    new = _tallies(store, fleet, rollout, results.c.model_digest == rollout.target.digest, since_ns)
    old = _tallies(
        store,
        fleet,
        rollout,
        results.c.model_digest != rollout.target.digest,
        since_ns - BASELINE_NS,
    )
    shadow = _agreement(store, fleet, rollout, since_ns)
    failed = _failures(store, fleet, rollout, since_ns)
    for device in touched & set(found):
        shadowed, agreed = shadow.get(device, (0, 0))
        found[device] = replace(
            found[device],
            failed=found[device].failed or failed.get(device, ""),
            new=new.get(device, Tally()),
            old=old.get(device, Tally()),
            shadowed=shadowed,
            agreed=agreed,
        )
    return found


def _reported(rollout: Rollout, row: ServiceRow) -> Evidence:
    """What the service itself says: whether it is there, and the state of its slot."""
    slot = _slot(rollout.slot, row)
    if slot is None:
        return Evidence(online=row.state == "online")
    state = slot.state.upper().replace("-", "_")
    digest = rollout.target.digest
    active = slot.active is not None and slot.active.digest == digest
    candidate = slot.candidate is not None and slot.candidate.digest == digest
    failed = state in _FAILED_STATES and candidate
    return Evidence(
        online=row.state == "online",
        installed=state == "ACTIVE" and active,
        failed=f"{state}: {slot.reason:.200}" if failed else "",
    )


def _slot(name: str, row: ServiceRow) -> SlotState | None:
    if row.reported is None:
        return None
    try:
        reported = from_object(Reported, row.reported)
    except FieldloopError:
        return None
    return next((s for s in reported.slots if s.slot == name), None)


def _tallies(
    store: Store, fleet: str, rollout: Rollout, version: ColumnElement[bool], since_ns: int
) -> dict[str, Tally]:
    r, a = results.c, labels.c
    active = and_(
        r.fleet == fleet,
        r.slot == rollout.slot,
        r.role == "active",
        r.received_ns >= since_ns,
        # A window of a stopped machine is evidence for nothing.
        func.coalesce(r.document["running"].as_boolean(), true()).is_(True),
        version,
    )
    counts = (
        select(
            r.device,
            func.count(),
            func.sum(case((r.valid, 0), else_=1)),
            func.avg(r.latency_us),
        )
        .where(active)
        .group_by(r.device)
    )
    labelled = (
        select(r.device, func.count(), func.sum(case((r.label == a.label, 1), else_=0)))
        .join_from(
            results,
            labels,
            and_(
                a.fleet == r.fleet,
                a.about_device == r.device,
                a.stream == r.stream,
                a.t0_ns <= r.t0_ns,
                a.t1_ns >= r.t1_ns,
            ),
        )
        .where(active, r.valid, r.label.is_not(None))
        .group_by(r.device)
    )
    with store.read() as connection:
        tallies = {
            device: Tally(int(n), int(invalid or 0), float(latency or 0.0))
            for device, n, invalid, latency in connection.execute(counts)
        }
        for device, n, correct in connection.execute(labelled):
            known = tallies.get(device, Tally())
            tallies[device] = replace(known, labelled=int(n), correct=int(correct or 0))
    return tallies


def _agreement(
    store: Store, fleet: str, rollout: Rollout, since_ns: int
) -> dict[str, tuple[int, int]]:
    """Windows scored by both in shadow, and those with the same label, by device."""
    shadow, active = results.alias("shadow"), results.alias("active")
    query = (
        select(
            shadow.c.device,
            func.count(),
            func.sum(case((shadow.c.label == active.c.label, 1), else_=0)),
        )
        .join_from(
            shadow,
            active,
            and_(
                active.c.fleet == shadow.c.fleet,
                active.c.device == shadow.c.device,
                active.c.slot == shadow.c.slot,
                active.c.stream == shadow.c.stream,
                active.c.t0_ns == shadow.c.t0_ns,
                active.c.role == "active",
            ),
        )
        .where(
            shadow.c.fleet == fleet,
            shadow.c.slot == rollout.slot,
            shadow.c.role == "shadow",
            shadow.c.model_digest == rollout.target.digest,
            shadow.c.received_ns >= since_ns,
            shadow.c.label.is_not(None),
        )
        .group_by(shadow.c.device)
    )
    with store.read() as connection:
        rows = connection.execute(query).all()
    return {device: (int(n), int(agreed or 0)) for device, n, agreed in rows}


def _failures(store: Store, fleet: str, rollout: Rollout, since_ns: int) -> dict[str, str]:
    """Devices that told of refusing this version or taking it back, with the reason."""
    e = events.c
    query = (
        select(e.device, e.type, e.document)
        .where(e.fleet == fleet, e.type.in_(_FAILED_EVENTS), e.received_ns >= since_ns)
        .order_by(e.received_ns.desc())
        .limit(FAILURES_MAX)
    )
    with store.read() as connection:
        rows = connection.execute(query).all()
    named: dict[str, str] = {}
    for device, kind, document in rows:
        # The event's data is the service's own; the digest alone says which version it is about.
        data: Any = document.get("data") if isinstance(document, dict) else None
        if rollout.target.digest in json.dumps(data):
            reason = data.get("reason", "") if isinstance(data, dict) else ""
            named[device] = f"{kind}: {reason!s:.200}"
    return named


Gather = Callable[[Rollout, int], dict[str, Evidence]]
"""Evidence of every device of the policy, for a rollout and the time it began (ns)."""
