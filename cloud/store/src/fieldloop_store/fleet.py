"""A fleet at a glance: figures for metrics, and what each slot last said. Read-only; any thread."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select

from fieldloop_store.engine import Store
from fieldloop_store.schema import (
    assignments,
    dead_letter_overflow,
    dead_letters,
    devices,
    results,
    services,
)

SERVICES_MAX = 1_000_000


@dataclass(slots=True)
class FleetFigures:
    """Counts of one fleet.

    Attributes:
        devices: by what the registry says: active, retired, replaced.
        online: devices of which any service is online; services: by (service, state).
        dead_letters: by code; overflow: refusals counted, not kept.
        models: devices by (slot, model, version) that serve it.
    """

    devices: Counter[str] = field(default_factory=Counter)
    online: int = 0
    services: Counter[tuple[str, str]] = field(default_factory=Counter)
    dead_letters: Counter[str] = field(default_factory=Counter)
    overflow: int = 0
    models: Counter[tuple[str, str, int]] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class SlotView:
    """What one slot of one device runs and last said.

    Attributes:
        model, version: what serves; None for none.
        ordered: the version that delivery wants there; None where it ordered nothing.
        result: the newest result's document, by the device's clock; None before the first.
    """

    slot: str
    service: str
    model: str | None
    version: int | None
    ordered: int | None
    result: dict[str, Any] | None


def fleet_figures(store: Store) -> dict[str, FleetFigures]:
    """Figures of every fleet. Raises RetryLater where the database is away."""
    found: dict[str, FleetFigures] = {}

    def of(fleet: str) -> FleetFigures:
        return found.setdefault(fleet, FleetFigures())

    with store.read() as connection:
        d, o, x = devices.c, dead_letter_overflow.c, dead_letters.c
        for fleet, state, n in connection.execute(
            select(d.fleet, d.state, func.count()).group_by(d.fleet, d.state)
        ):
            of(fleet).devices[state or "active"] += n
        for fleet, code, n in connection.execute(
            select(x.fleet, x.code, func.count()).group_by(x.fleet, x.code)
        ):
            of(fleet).dead_letters[code] += n
        for fleet, n in connection.execute(select(o.fleet, func.sum(o.letters)).group_by(o.fleet)):
            of(fleet).overflow += int(n or 0)
        s = services.c
        online: set[tuple[str, str]] = set()
        query = select(s.fleet, s.device, s.service, s.state, s.reported).limit(SERVICES_MAX)
        for fleet, device, service, state, reported in connection.execute(query):
            figures = of(fleet)
            figures.services[service, state] += 1
            if state == "online" and (fleet, device) not in online:
                online.add((fleet, device))
                figures.online += 1
            for slot in (reported or {}).get("slots", []):
                active = slot.get("active")
                if active:
                    figures.models[slot["slot"], active["name"], active["version"]] += 1
    return found


def slot_views(store: Store, fleet: str, device: str) -> list[SlotView]:
    """The slots a device last reported, by service and slot. Raises RetryLater."""
    s, a, r = services.c, assignments.c, results.c
    views = []
    with store.read() as connection:
        reports = connection.execute(
            select(s.service, s.reported)
            .where(s.fleet == fleet, s.device == device)
            .order_by(s.service)
        ).all()
        orders = {
            row.slot: row.version
            for row in connection.execute(
                select(a.slot, a.version).where(a.fleet == fleet, a.device == device)
            )
        }
        for service, reported in reports:
            for state in (reported or {}).get("slots", []):
                slot, active = state["slot"], state.get("active") or {}
                newest = connection.execute(
                    select(r.document)
                    .where(r.fleet == fleet, r.device == device, r.slot == slot)
                    .where(r.role == "active", r.valid.is_(True))
                    .order_by(r.t0_ns.desc())
                    .limit(1)
                ).scalar()
                views.append(
                    SlotView(
                        slot,
                        service,
                        active.get("name"),
                        active.get("version"),
                        orders.get(slot),
                        newest,
                    )
                )
    return views


def devices_with_slots(store: Store, limit: int) -> list[tuple[str, str, str]]:
    """Fleet, device and name of devices in service that reported slots, in order of their ids."""
    s, d = services.c, devices.c
    query = (
        select(s.fleet, s.device, d.name, d.state, s.reported)
        .join(devices, (d.fleet == s.fleet) & (d.device == s.device))
        .where(s.reported.is_not(None))
        .order_by(s.fleet, s.device)
    )
    found: dict[tuple[str, str], str] = {}
    with store.read() as connection:
        for fleet, device, name, state, reported in connection.execute(query):
            if state in (None, "active") and (reported or {}).get("slots"):
                found[fleet, device] = name or device
                if len(found) >= limit:
                    break
    return [(fleet, device, name) for (fleet, device), name in found.items()]
