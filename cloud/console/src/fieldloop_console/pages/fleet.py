"""Machines and what measures them; the fleet: its parts and what runs on them."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import cast

from fastapi import Request
from fastapi.responses import Response
from nicegui import ui

from fieldloop_console.console import Console
from fieldloop_console.identity import Actor
from fieldloop_console.pages.dialogs import ask_text
from fieldloop_console.pages.shell import Visit, crowded, frame, page_main, visit_of
from fieldloop_console.rendering import render
from fieldloop_contract.errors import RejectedInput
from fieldloop_store.alarms import list_alarms
from fieldloop_store.lifecycle import VERDICTS, Verdict
from fieldloop_store.machines import AssignmentRow, assignments_of, list_machines
from fieldloop_store.views import services_changed

ALARMS_SHOWN = 6


def register(console: Console) -> None:
    """Add the pages."""

    @ui.page("/f/{fleet}/machines")
    async def machines(request: Request, fleet: str) -> Response | None:
        if (full := crowded(console)) is not None:
            return full
        visit = visit_of(console, request, fleet)
        frame(visit, "Machines", "machines")
        with page_main():
            await visit.part(lambda: _machines(console, fleet, visit))
        _machine_actions(visit)
        visit.live()
        return None

    @ui.page("/f/{fleet}/fleet")
    async def fleet_page(request: Request, fleet: str) -> Response | None:
        if (full := crowded(console)) is not None:
            return full
        visit = visit_of(console, request, fleet)
        frame(visit, "Fleet", "fleet")
        with page_main():
            await visit.part(lambda: _fleet(console, fleet))
        visit.live()
        return None


def _machines(console: Console, fleet: str, visit: Visit) -> str:
    by_machine: dict[str, list[AssignmentRow]] = {}
    for row in assignments_of(console.store, fleet):
        by_machine.setdefault(row.machine, []).append(row)
    rows = []
    for name, site, plate in list_machines(console.store, fleet):
        own = [a for a in by_machine.get(name, []) if a.to_ns is None]
        told = list_alarms(console.store, fleet, machine=name, limit=ALARMS_SHOWN)
        rows.append((name, site, plate, own, by_machine.get(name, []), told))
    elsewhere = [
        row for row in list_alarms(console.store, fleet, open_only=True) if not row.machine
    ]
    return render(
        "fleet/machines.html", rows=rows, base=f"/f/{fleet}", may=visit.actor.may,
        verdicts=VERDICTS, elsewhere=elsewhere,
    )  # fmt: skip


def _machine_actions(visit: Visit) -> None:
    does, fleet = visit.console.actions, visit.fleet

    async def add(actor: Actor, _given: dict[str, str]) -> None:
        name = await ask_text("Add a machine", "Id, such as pump-7", "", "Add")
        if name:
            await asyncio.to_thread(does.put_machine, actor, fleet, name, "", {})

    async def site(actor: Actor, given: dict[str, str]) -> None:
        text = await ask_text(
            f"Where is {given['machine']}?", "Site", given.get("site", ""), "Save"
        )
        if text is not None:
            plates = {m: p for m, _, p in list_machines(visit.console.store, fleet)}
            plate = plates.get(given["machine"], {})
            await asyncio.to_thread(does.put_machine, actor, fleet, given["machine"], text, plate)

    async def assign(actor: Actor, given: dict[str, str]) -> None:
        text = await ask_text(
            f"What measures {given['machine']}?", "device/stream, such as pi-3/imu", "", "Assign"
        )
        if text is None:
            return
        device, _, stream = text.strip().partition("/")
        if not stream:
            raise RejectedInput("write device/stream", code="assignment.form")
        await asyncio.to_thread(
            lambda: does.assign_stream(
                actor, fleet, given["machine"], device, stream, from_ns=None, to_ns=None,
                mounting="",
            )
        )  # fmt: skip

    async def alarm(actor: Actor, given: dict[str, str]) -> None:
        if given.get("verdict"):
            verdict = cast(Verdict, given["verdict"])
            await asyncio.to_thread(does.judge_alarm, actor, fleet, given["alarm"], verdict)
        else:
            await asyncio.to_thread(does.acknowledge_alarm, actor, fleet, given["alarm"])

    visit.on("alarm", alarm)
    visit.on("machine-add", add)
    visit.on("machine-site", site)
    visit.on("machine-assign", assign)


def _fleet(console: Console, fleet: str) -> str:
    versions: Counter[tuple[str, str]] = Counter()
    boards: Counter[tuple[str, str]] = Counter()
    streams: Counter[tuple[str, tuple[str, ...], float]] = Counter()
    for change in services_changed(console.store, fleet, since_ns=0, with_status=True):
        for name, version in (change.status.get("versions") or {}).items():
            versions[name, str(version)] += 1
        capability = change.status.get("capability") or {}
        if capability.get("machine"):
            boards[str(capability["machine"]), str(capability.get("runtime") or "–")] += 1
        for stream in (change.reported or {}).get("streams", ()):
            streams[stream["stream"], tuple(stream["channels"]), stream["rate_hz"]] += 1
    return render(
        "fleet/fleet.html", f=console.pulse.figures(fleet), versions=sorted(versions.items()),
        boards=sorted(boards.items()), streams=sorted(streams.items()), base=f"/f/{fleet}",
    )  # fmt: skip
