"""Scores of a slot over weeks: samples of its windows, evenly over time, and its thresholds.

A machine makes more windows in a month than a page may read, so the first running, valid window of
each interval stands for it: that tells a level from another, not the highest peak. Peaks are what
alarms are for. Read-only; any thread. All raise RetryLater where the database is away.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import BigInteger, Boolean, func, literal, select, true

from fieldloop_contract.calibration import parse_calibration
from fieldloop_store.engine import Store
from fieldloop_store.registry import find_manifest
from fieldloop_store.schema import results
from fieldloop_store.schema.machines_service import calibrations

SAMPLES_MAX = 4_000
CALIBRATIONS_MAX = 50


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """The score of one window, and when it began."""

    t0_ns: int
    score: float


@dataclass(frozen=True, slots=True)
class ThresholdRow:
    """A threshold from a time until before another; `to_ns` None: still.

    Attributes:
        because: why it is in force no more; "" while it is.
    """

    from_ns: int
    to_ns: int | None
    threshold: float
    because: str = ""


def scores_sampled(
    store: Store, fleet: str, device: str, slot: str, *, t0_ns: int, t1_ns: int, step_ns: int
) -> list[ScoreRow]:
    """One score of each interval of `step_ns`, where it has a window that counts, by time.

    At most `SAMPLES_MAX` intervals are looked at.
    """
    t1_ns = min(t1_ns, t0_ns + SAMPLES_MAX * step_ns)
    if t1_ns <= t0_ns:
        return []
    begins = select(literal(t0_ns, BigInteger).label("t0")).cte("intervals", recursive=True)
    begins = begins.union_all(
        select(begins.c.t0 + step_ns).where(begins.c.t0 + step_ns < literal(t1_ns, BigInteger))
    )
    r = results.c
    running = func.coalesce(r.document["running"].as_boolean(), true(), type_=Boolean)
    first = (
        select(r.score)
        .where(r.fleet == fleet, r.device == device, r.slot == slot)
        .where(r.t0_ns >= begins.c.t0, r.t0_ns < begins.c.t0 + step_ns)
        .where(r.role == "active", r.valid.is_(True), r.score.is_not(None), running)
        .order_by(r.t0_ns)
        .limit(1)
        .scalar_subquery()
    )
    query = select(begins.c.t0, first.label("score")).order_by(begins.c.t0)
    with store.read() as connection:
        return [ScoreRow(int(t), float(s)) for t, s in connection.execute(query) if s is not None]


def slot_scores(store: Store, fleet: str, device: str, slot: str) -> tuple[str, str] | None:
    """Stream and model digest of a slot that scores a machine, by its newest result.

    None where it has none, or where its model tells classes apart: a certainty is no condition.
    """
    r = results.c
    query = (
        select(r.stream, r.model_digest, r.document["task"].as_string())
        .where(r.fleet == fleet, r.device == device, r.slot == slot)
        .order_by(r.t0_ns.desc())
        .limit(1)
    )
    with store.read() as connection:
        found = connection.execute(query).first()
    return None if found is None or found[2] == "classification" else (found[0], found[1])


def thresholds_of(
    store: Store, fleet: str, device: str, slot: str, model_digest: str
) -> list[ThresholdRow]:
    """The thresholds that were armed for a slot, oldest first; without any, that of its model."""
    c = calibrations.c
    query = (
        select(c.record, c.armed_ns, c.stale_ns, c.stale_because)
        .where(c.fleet == fleet, c.device == device, c.slot == slot)
        .order_by(c.armed_ns.desc())
        .limit(CALIBRATIONS_MAX)
    )
    with store.read() as connection:
        rows = connection.execute(query).all()
    found = [
        ThresholdRow(armed_ns, stale_ns, parse_calibration(bytes(record)).threshold, because)
        for record, armed_ns, stale_ns, because in rows
    ]
    if found:
        return found[::-1]
    manifest = find_manifest(store, model_digest)
    threshold = manifest.outputs[0].threshold if manifest is not None else None
    return [] if threshold is None else [ThresholdRow(0, None, threshold)]
