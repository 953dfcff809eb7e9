"""What devices have shown of a version, read from the store. Writes nothing.

Counts are made by the database, grouped by device, so that memory does not grow with the number of
windows. A window counts for a version by the digest in its result, never by what was ordered; one
of a stopped machine counts for nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import ColumnElement, and_, case, false, func, null, or_, select, true

from fieldloop_contract.errors import FieldloopError
from fieldloop_contract.messages import Reported, SlotState, from_object
from fieldloop_delivery.evidence import Beside, Evidence, Tally
from fieldloop_delivery.rollout import Rollout
from fieldloop_store.engine import Store
from fieldloop_store.queries import ServiceRow
from fieldloop_store.schema import annotations as labels
from fieldloop_store.schema import events, results

BASELINE_NS = 7 * 86_400 * 10**9
"""How far back the earlier version's windows are counted."""
FAILURES_MAX = 10_000
_FAILED_STATES = ("REJECTED", "ROLLED_BACK")
_FAILED_EVENTS = ("model.rejected", "model.rolled-back", "model.rolledback", "model.rollback")
_WALKING_STATES = ("FETCHING", "VERIFIED", "TRIAL", "SHADOW", "PROBATION")


@dataclass(frozen=True, slots=True)
class Known:
    """What the registry says of the versions involved.

    Attributes:
        thresholds: digest to the score above which a version raises an alarm; stated ones only.
        disagreement: digest of an earlier version to the share of recent windows on which the
            target names another label, and the number of windows.
    """

    thresholds: Mapping[str, float] = field(default_factory=dict)
    disagreement: Mapping[str, tuple[float, int]] = field(default_factory=dict)


def reported_evidence(
    slot: str, key: str, services: Mapping[str, ServiceRow], now_ns: int
) -> dict[str, Evidence]:
    """What the services themselves say: whether they are there, and the state of their slot."""
    return {device: _reported(slot, key, row, now_ns) for device, row in services.items()}


def gather(
    store: Store,
    fleet: str,
    rollout: Rollout,
    services: Mapping[str, ServiceRow],
    since_ns: int,
    now_ns: int,
    known: Known | None = None,
) -> dict[str, Evidence]:
    """Evidence of every device in `services` for a rollout that began at `since_ns`."""
    known = known or Known()
    found = reported_evidence(rollout.lane, rollout.target.key, services, now_ns)
    concerned = {*rollout.members, *rollout.controls} & set(found)
    if not concerned:
        return found
    tallies = _tallies(store, fleet, rollout, since_ns)
    alarms = _alarms(store, fleet, rollout, since_ns)
    beside = _beside(store, fleet, rollout, since_ns, known)
    failed = _failures(store, fleet, rollout, since_ns)
    for device in concerned:
        new, old, idle = tallies.get(device, (Tally(), Tally(), 0))
        raised, raised_before = alarms.get(device, (0, 0))
        member = rollout.members.get(device)
        before = member.previous.key if member is not None and member.previous is not None else ""
        found[device] = replace(
            found[device],
            failed=found[device].failed or failed.get(device, ""),
            new=replace(new, alarms=raised),
            old=replace(old, alarms=raised_before),
            idle=idle,
            beside=beside.get(device, Beside()),
            expected_disagreement=known.disagreement.get(before),
        )
    return found


def _reported(slot_name: str, key: str, row: ServiceRow, now_ns: int) -> Evidence:
    online = row.state == "online"
    away_s = 0.0 if online else max(0.0, (now_ns - row.status_ns) / 1e9)
    slot = _slot(slot_name, row)
    if slot is None:
        return Evidence(online=online, away_s=away_s)
    state = slot.state.upper().replace("-", "_")
    active = slot.active.digest if slot.active is not None else ""
    candidate = slot.candidate.digest if slot.candidate is not None else ""
    failed = state in _FAILED_STATES and candidate == key
    return Evidence(
        online=online,
        away_s=away_s,
        runs=active,
        at_work=candidate if state in _WALKING_STATES else "",
        installed=state == "ACTIVE" and active == key,
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


def _sides(rollout: Rollout, digest: Any, received: Any, device: Any, since_ns: int) -> Any:
    """1 for what is of the new version, 0 for what is from before, NULL for neither.

    Of a control everything since the beginning stands beside the new version.
    """
    controls = device.in_(sorted(rollout.controls)) if rollout.controls else false()
    return case(
        (and_(digest == rollout.target.key, received >= since_ns), 1),
        (digest == rollout.target.key, null()),
        (and_(controls, received >= since_ns), 1),
        else_=0,
    )


def _tallies(
    store: Store, fleet: str, rollout: Rollout, since_ns: int
) -> dict[str, tuple[Tally, Tally, int]]:
    r, a = results.c, labels.c
    side = _sides(rollout, r.model_digest, r.received_ns, r.device, since_ns).label("side")
    here = and_(
        r.fleet == fleet,
        r.slot == rollout.lane,
        r.role == "active",
        r.received_ns >= since_ns - BASELINE_NS,
    )
    moving = func.coalesce(r.document["running"].as_boolean(), true()).is_(True)
    counts = (
        select(
            r.device,
            side,
            func.sum(case((moving, 1), else_=0)),
            func.sum(case((and_(moving, r.valid.is_(False)), 1), else_=0)),
            func.avg(case((moving, r.latency_us))),
            func.sum(case((moving, 0), else_=1)),
        )
        .where(here)
        .group_by(r.device, side)
    )
    labelled = (
        select(r.device, side, func.count(), func.sum(case((r.label == a.label, 1), else_=0)))
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
        .where(here, moving, r.valid, r.label.is_not(None))
        .group_by(r.device, side)
    )
    tallies: dict[tuple[str, int], Tally] = {}
    idle: dict[str, int] = {}
    with store.read() as connection:
        for device, which, n, invalid, latency, stopped in connection.execute(counts):
            if which is not None:
                tallies[device, which] = Tally(int(n), int(invalid), float(latency or 0.0))
                idle[device] = int(stopped) if which == 1 else idle.get(device, 0)
        for device, which, n, correct in connection.execute(labelled):
            if which is not None:
                before = tallies.get((device, which), Tally())
                tallies[device, which] = replace(before, labelled=int(n), correct=int(correct or 0))
    return {
        device: (
            tallies.get((device, 1), Tally()),
            tallies.get((device, 0), Tally()),
            idle.get(device, 0),
        )
        for device, _ in tallies
    }


def _alarms(
    store: Store, fleet: str, rollout: Rollout, since_ns: int
) -> dict[str, tuple[int, int]]:
    """Alarms raised, with the new version and before, by device."""
    e = events.c
    digest = e.document["data"]["model"]["digest"].as_string()
    side = _sides(rollout, digest, e.received_ns, e.device, since_ns).label("side")
    query = (
        select(e.device, side, func.count())
        .where(
            e.fleet == fleet,
            e.type == "alarm.raised",
            e.received_ns >= since_ns - BASELINE_NS,
            e.document["data"]["slot"].as_string() == rollout.lane,
        )
        .group_by(e.device, side)
    )
    found: dict[str, tuple[int, int]] = {}
    with store.read() as connection:
        for device, which, n in connection.execute(query):
            new, old = found.get(device, (0, 0))
            if which is not None:
                found[device] = (int(n), old) if which == 1 else (new, int(n))
    return found


def _above(score: Any, digest: Any, thresholds: Mapping[str, float]) -> ColumnElement[bool] | None:
    """Whether a score is above the threshold of its version, by the thresholds that are known."""
    if not thresholds:
        return None
    return or_(*(and_(digest == d, score > t) for d, t in sorted(thresholds.items())))


def _beside(
    store: Store, fleet: str, rollout: Rollout, since_ns: int, known: Known
) -> dict[str, Beside]:
    """Windows scored by both, by device: same label or same side of the threshold; tails."""
    shadow, active = results.alias("shadow"), results.alias("active")
    s, a = shadow.c, active.c
    labelled = and_(s.label.is_not(None), a.label.is_not(None))
    scored: Any = false()
    up: Any = false()
    down: Any = false()
    new = _above(s.score, s.model_digest, known.thresholds)
    old = _above(a.score, a.model_digest, known.thresholds)
    if new is not None and old is not None and rollout.target.key in known.thresholds:
        scored = and_(
            s.score.is_not(None), a.score.is_not(None),
            a.model_digest.in_(sorted(known.thresholds)),
        )  # fmt: skip
        up, down = and_(scored, new, ~old), and_(scored, ~new, old)
    same = case(
        (labelled, case((s.label == a.label, 1), else_=0)),
        (scored, case((or_(up, down), 0), else_=1)),
        else_=0,
    )
    query = (
        select(
            s.device,
            func.sum(case((or_(labelled, scored), 1), else_=0)),
            func.sum(same),
            func.sum(case((scored, 1), else_=0)),
            func.sum(case((up, 1), else_=0)),
            func.sum(case((down, 1), else_=0)),
        )
        .join_from(
            shadow,
            active,
            and_(
                a.fleet == s.fleet,
                a.device == s.device,
                a.slot == s.slot,
                a.stream == s.stream,
                a.t0_ns == s.t0_ns,
                a.role == "active",
            ),
        )
        .where(
            s.fleet == fleet,
            s.slot == rollout.lane,
            s.role == "shadow",
            s.model_digest == rollout.target.key,
            s.received_ns >= since_ns,
            func.coalesce(s.document["running"].as_boolean(), true()).is_(True),
        )
        .group_by(s.device)
    )
    with store.read() as connection:
        rows = connection.execute(query).all()
    return {device: Beside(*(int(n or 0) for n in counts)) for device, *counts in rows}


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
        if rollout.target.key in json.dumps(data):
            reason = data.get("reason", "") if isinstance(data, dict) else ""
            named[device] = f"{kind}: {reason!s:.200}"
    return named
