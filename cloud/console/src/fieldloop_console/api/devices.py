"""Devices and machines."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from fieldloop_console.api.doors import (
    TIME_MAX,
    Admin,
    After,
    Done,
    Fleet,
    Here,
    IdPath,
    Limit,
    Operator,
    Page,
    Viewer,
    not_found,
    pack_cursor,
    read_cursor,
)
from fieldloop_contract.ids import Id
from fieldloop_store import machines as machines_store
from fieldloop_store.auditing import AuditRow, audit_trail
from fieldloop_store.devices import Erasure
from fieldloop_store.fleet import SlotView, slot_views
from fieldloop_store.machines import AssignmentRow
from fieldloop_store.queries import ResultRow
from fieldloop_store.signals import StreamView, streams_of
from fieldloop_store.views import DeviceView, devices_page, find_device, newest_results

router = APIRouter(tags=["devices"])
Words = Annotated[str, Field(max_length=200)]


class DeviceChange(BaseModel):
    """What to change of a device; what is not given stays."""

    name: Words | None = None
    state: Literal["active", "retired"] | None = None
    successor: Id | None = None


class DeviceDetail(BaseModel):
    """A device with its slots, streams and the last changes of its registry entry."""

    device: DeviceView
    slots: list[SlotView]
    streams: list[StreamView]
    assignments: list[AssignmentRow]
    changes: list[AuditRow]


class MachineBody(BaseModel):
    """Site and nameplate of a machine."""

    site: Words = ""
    nameplate: dict[str, Any] = Field(default_factory=dict, max_length=100)


class Machine(BaseModel):
    """A machine, and what measures it."""

    machine: str
    site: str
    nameplate: dict[str, Any]
    assignments: list[AssignmentRow]


class Assign(BaseModel):
    """A stream that measures a machine from `from_ns` (null: now) until before `to_ns`."""

    device: Id
    stream: Id
    from_ns: Annotated[int, Field(ge=0, le=TIME_MAX)] | None = None
    to_ns: Annotated[int, Field(ge=0, le=TIME_MAX)] | None = None
    mounting: Words = ""


@router.get("/fleets/{fleet}/devices")
def list_devices(
    _actor: Viewer,
    fleet: Fleet,
    here: Here,
    text: Annotated[str, Query(max_length=200, description="part of id or name")] = "",
    state: Literal["active", "retired", "replaced"] | None = None,
    online: bool | None = None,
    after: After = None,
    limit: Limit = 50,
) -> Page[DeviceView]:
    """Devices by id."""
    place = read_cursor(after, str)
    rows, total = devices_page(
        here.store, fleet, text=text.replace("\0", ""), state=state, online=online,
        after=place[0] if place else "", limit=limit + 1,
    )  # fmt: skip
    following = pack_cursor(rows[limit - 1].device) if len(rows) > limit else None
    return Page(items=rows[:limit], next=following, total=total)


@router.get("/fleets/{fleet}/devices/{device}")
def show_device(_actor: Viewer, fleet: Fleet, device: IdPath, here: Here) -> DeviceDetail:
    """One device."""
    found = find_device(here.store, fleet, device)
    if found is None:
        raise not_found(f"device {device}")
    return DeviceDetail(
        device=found,
        slots=slot_views(here.store, fleet, device),
        streams=streams_of(here.store, fleet, device),
        assignments=machines_store.assignments_of(here.store, fleet, device=device),
        changes=audit_trail(here.store, fleet, device=device)[:20],
    )


@router.patch("/fleets/{fleet}/devices/{device}")
def change_device(
    actor: Operator, fleet: Fleet, device: IdPath, body: DeviceChange, here: Here
) -> Done:
    """Rename a device, take it out of service or back in, or name the one in its place."""
    if body.name is not None:
        here.actions.rename_device(actor, fleet, device, body.name)
    if body.state is not None:
        change: Literal["retire", "reinstate"] = (
            "retire" if body.state == "retired" else "reinstate"
        )
        here.actions.set_device_state(actor, fleet, device, change)
    if body.successor is not None:
        here.actions.replace_device(actor, fleet, device, body.successor)
    return Done()


@router.delete("/fleets/{fleet}/devices/{device}")
def erase_device(actor: Admin, fleet: Fleet, device: IdPath, here: Here) -> Erasure:
    """Remove every row of a device, and every label of it."""
    if find_device(here.store, fleet, device) is None:
        raise not_found(f"device {device}")
    return here.actions.erase_device(actor, fleet, device)


@router.get("/fleets/{fleet}/devices/{device}/results")
def list_results(
    _actor: Viewer, fleet: Fleet, device: IdPath, here: Here, slot: Annotated[
        str, Query(max_length=63)
    ] = "main", limit: Limit = 100,
) -> list[ResultRow]:  # fmt: skip
    """What a slot said last, newest first by the device's clock."""
    return newest_results(here.store, fleet, device, slot, limit=limit)


@router.get("/fleets/{fleet}/machines", tags=["machines"])
def list_machines(_actor: Viewer, fleet: Fleet, here: Here) -> list[Machine]:
    """Machines, and what measures each."""
    assigned: dict[str, list[AssignmentRow]] = {}
    for row in machines_store.assignments_of(here.store, fleet):
        assigned.setdefault(row.machine, []).append(row)
    return [
        Machine(machine=name, site=site, nameplate=plate, assignments=assigned.get(name, []))
        for name, site, plate in machines_store.list_machines(here.store, fleet)
    ]


@router.put("/fleets/{fleet}/machines/{machine}", tags=["machines"])
def put_machine(
    actor: Operator, fleet: Fleet, machine: IdPath, body: MachineBody, here: Here
) -> Done:
    """Add a machine, or change it."""
    here.actions.put_machine(actor, fleet, machine, body.site, body.nameplate)
    return Done()


@router.post("/fleets/{fleet}/machines/{machine}/streams", tags=["machines"], status_code=201)
def assign_stream(actor: Operator, fleet: Fleet, machine: IdPath, body: Assign, here: Here) -> Done:
    """Say that a stream of a device measures this machine."""
    here.actions.assign_stream(
        actor, fleet, machine, body.device, body.stream, from_ns=body.from_ns, to_ns=body.to_ns,
        mounting=body.mounting,
    )  # fmt: skip
    return Done()
