"""Champion and challenger on the same windows: what a report says of both. Writes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, case, func, or_, select, true

from fieldloop_delivery.policy import challenger_slot
from fieldloop_store.engine import Store
from fieldloop_store.schema import annotations as labels
from fieldloop_store.schema import results


@dataclass(frozen=True, slots=True)
class Pairing:
    """Running windows of one device that both versions scored.

    `agreed`: with the same label, or scores within a tenth of each other. `right` and `right_new`
    are of `labelled` windows those that champion and challenger named right.
    """

    device: str
    champion: int
    challenger: int
    windows: int
    agreed: int
    latency_us: float
    latency_new_us: float
    labelled: int = 0
    right: int = 0
    right_new: int = 0


def pairings(store: Store, fleet: str, slot: str, since_ns: int) -> list[Pairing]:
    """By device and versions: what champion and challenger said of the same windows."""
    one, other, a = results.alias("champion"), results.alias("challenger"), labels.c
    c, n = one.c, other.c
    joined = and_(
        c.fleet == n.fleet, c.device == n.device, c.stream == n.stream, c.t0_ns == n.t0_ns,
        c.t1_ns == n.t1_ns, c.slot == slot, c.role == "active",
    )  # fmt: skip
    here = and_(
        n.fleet == fleet,
        n.slot == challenger_slot(slot),
        n.role == "active",
        n.received_ns >= since_ns,
        c.valid,
        n.valid,
        func.coalesce(n.document["running"].as_boolean(), true()).is_(True),
    )
    close = func.abs(c.score - n.score) <= 0.1 * func.abs(c.score)
    same: Any = case((or_(c.label == n.label, and_(c.label.is_(None), close)), 1), else_=0)
    key = (n.device, c.version, n.version)
    counts = (
        select(*key, func.count(), func.sum(same), func.avg(c.latency_us), func.avg(n.latency_us))
        .join_from(other, one, joined)
        .where(here)
        .group_by(*key)
        .order_by(*key)
    )
    truth = (
        select(
            *key,
            func.count(),
            func.sum(case((c.label == a.label, 1), else_=0)),
            func.sum(case((n.label == a.label, 1), else_=0)),
        )
        .join_from(other, one, joined)
        .join(
            labels,
            and_(
                a.fleet == n.fleet, a.about_device == n.device, a.stream == n.stream,
                a.t0_ns <= n.t0_ns, a.t1_ns >= n.t1_ns,
            ),
        )
        .where(here)
        .group_by(*key)
    )  # fmt: skip
    with store.read() as connection:
        known = {
            tuple(row[:3]): tuple(int(x or 0) for x in row[3:]) for row in connection.execute(truth)
        }
        return [
            Pairing(
                device, old, new, int(windows), int(agreed or 0), float(before), float(after),
                *known.get((device, old, new), (0, 0, 0)),
            )
            for device, old, new, windows, agreed, before, after in connection.execute(counts)
        ]  # fmt: skip


def report(rows: list[Pairing]) -> list[str]:
    """The report in lines: one for each device, and the whole last."""
    if not rows:
        return ["no window was scored by both"]
    lines = [_line(p.device, [p]) for p in rows]
    return [*lines, _line(f"all {len({p.device for p in rows})} devices", rows)]


def _line(name: str, rows: list[Pairing]) -> str:
    windows = sum(p.windows for p in rows)
    agreed = sum(p.agreed for p in rows)
    labelled = sum(p.labelled for p in rows)
    before = sum(p.latency_us * p.windows for p in rows) / windows
    after = sum(p.latency_new_us * p.windows for p in rows) / windows
    versions = sorted({(p.champion, p.challenger) for p in rows})
    named = ", ".join(f"{new} beside {old}" for old, new in versions)
    text = (
        f"{name}: version {named}: {windows} windows, agreed on {agreed / windows:.1%},"
        f" latency {after:.0f} us against {before:.0f} us"
    )
    if labelled:
        right, new = sum(p.right for p in rows), sum(p.right_new for p in rows)
        text += f", accuracy {new / labelled:.3f} against {right / labelled:.3f} on {labelled}"
    return text
