"""Devices: the table, and a device's page with its signals, slots, books and events."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlencode

from fastapi import Request
from fastapi.responses import Response
from nicegui import ui

from fieldloop_console.console import Console
from fieldloop_console.identity import Actor
from fieldloop_console.pages.dialogs import ask, ask_text
from fieldloop_console.pages.plots import signal_options
from fieldloop_console.pages.shell import Visit, crowded, frame, message, page, page_main, visit_of
from fieldloop_console.rendering import render
from fieldloop_console.waveform import Wanted
from fieldloop_store.accounts import books_page
from fieldloop_store.fleet import slot_views
from fieldloop_store.machines import assignments_of
from fieldloop_store.queries import EventRow
from fieldloop_store.signals import StreamView, streams_of
from fieldloop_store.views import devices_page, events_page, find_device, newest_results

PAGE_ROWS = 50
LIVE_S = 30
LIVE_BINS = 400
_ONLINE = {"yes": True, "no": False}


def register(console: Console) -> None:
    """Add the pages."""

    @page("/f/{fleet}/devices")
    async def devices(
        request: Request, fleet: str, text: str = "", online: str = "", state: str = "",
        after: str = "",
    ) -> Response | None:  # fmt: skip
        if (full := crowded(console)) is not None:
            return full
        visit = visit_of(console, request, fleet)
        frame(visit, "Devices", "devices")
        wanted = {"text": text[:200].replace("\0", ""), "online": online, "state": state}
        with page_main():
            await visit.part(lambda: _table(console, fleet, wanted, after))
        visit.live()
        return None

    @page("/f/{fleet}/devices/{device}")
    async def device_page(request: Request, fleet: str, device: str) -> Response | None:
        if (full := crowded(console)) is not None:
            return full
        found = await asyncio.to_thread(find_device, console.store, fleet, device)
        if found is None:
            words = "No device of this id was ever heard in this fleet, or it was erased."
            return message(f"There is no {device:.63}", words, 404)
        visit = visit_of(console, request, fleet)
        frame(visit, found.name, "devices")
        with page_main():
            await visit.part(lambda: _top(console, fleet, device, visit))
            await _live_signals(visit, device)
            with ui.element("div").classes("grid"):
                await visit.part(
                    lambda: _slots(console, fleet, device), tag="section", classes="card"
                )
                await visit.part(
                    lambda: _results(console, fleet, device), tag="section", classes="card"
                )
            await visit.part(lambda: _books(console, fleet, device), tag="section", classes="card")
            await visit.part(lambda: _events(console, fleet, device), tag="section", classes="card")
        _actions(visit, device)
        visit.live()
        return None


def _table(console: Console, fleet: str, wanted: dict[str, str], after: str) -> str:
    rows, total = devices_page(
        console.store,
        fleet,
        text=wanted["text"],
        online=_ONLINE.get(wanted["online"]),
        state=wanted["state"] or None,
        after=after[:63],
        limit=PAGE_ROWS + 1,
    )
    following = ""
    if len(rows) > PAGE_ROWS:
        following = urlencode({**wanted, "after": rows[PAGE_ROWS - 1].device})
    return render(
        "devices/table.html", rows=rows[:PAGE_ROWS], total=total, next=following, wanted=wanted,
        first=not after, base=f"/f/{fleet}", serving=_serving,
    )  # fmt: skip


def _serving(row: Any) -> list[dict[str, Any]]:
    """The slots of a device that have a model, from what its services last reported."""
    return [
        slot
        for service in row.services
        for slot in (service.reported or {}).get("slots", ())
        if slot.get("active")
    ]


def _top(console: Console, fleet: str, device: str, visit: Visit) -> str:
    found = find_device(console.store, fleet, device)
    if found is None:
        return render("gone.html", what=device)
    return render(
        "devices/top.html", d=found, base=f"/f/{fleet}", may=visit.actor.may,
        assignments=[a for a in assignments_of(console.store, fleet, device=device)
                     if a.to_ns is None],
    )  # fmt: skip


def _slots(console: Console, fleet: str, device: str) -> str:
    found = find_device(console.store, fleet, device)
    reported = {
        slot["slot"]: slot
        for service in (found.services if found else ())
        for slot in (service.reported or {}).get("slots", ())
    }
    drift: dict[str, EventRow] = {}
    for event in events_page(console.store, fleet, device=device, types=("drift.*",), limit=30):
        drift.setdefault(str(event.data.get("slot", "")), event)
    return render(
        "devices/slots.html", views=slot_views(console.store, fleet, device), reported=reported,
        drift=drift, base=f"/f/{fleet}",
    )  # fmt: skip


def _results(console: Console, fleet: str, device: str) -> str:
    rows = []
    for view in slot_views(console.store, fleet, device):
        rows += newest_results(console.store, fleet, device, view.slot, limit=12)
    return render("devices/results.html", rows=rows[:24], base=f"/f/{fleet}")


def _books(console: Console, fleet: str, device: str) -> str:
    rows = books_page(console.store, fleet, device=device)
    return render("books.html", rows=rows, base=f"/f/{fleet}", device=device)


def _events(console: Console, fleet: str, device: str) -> str:
    rows = events_page(console.store, fleet, device=device, limit=20)
    return render("events.html", title="Events", events=rows, base=f"/f/{fleet}")


async def _live_signals(visit: Visit, device: str) -> None:
    """The last half minute of each stream, following the newest frame."""
    console, fleet = visit.console, visit.fleet
    streams = await asyncio.to_thread(streams_of, console.store, fleet, device)
    for stream in streams[:4]:
        with ui.element("section").classes("card"):
            where = f"/f/{fleet}/data?device={device}&stream={stream.stream}"
            ui.html(
                render("devices/signal_head.html", stream=stream, where=where), sanitize=False,
                tag="header",
            )  # fmt: skip
            options = await asyncio.to_thread(_recent, console, fleet, stream)
            plot = ui.echart(options).style("height:220px")
        visit.look(_follower(visit, stream, plot))


def _follower(visit: Visit, stream: StreamView, plot: ui.echart) -> Any:
    async def look() -> None:
        options = await asyncio.to_thread(_recent, visit.console, visit.fleet, stream)
        if options["xAxis"] != plot.options["xAxis"]:
            plot.options.update(options)
            plot.update()

    return look


def _recent(console: Console, fleet: str, stream: StreamView) -> dict[str, Any]:
    now = next(
        (s for s in streams_of(console.store, fleet, stream.device) if s.stream == stream.stream),
        stream,
    )
    wanted = Wanted(
        fleet, stream.device, stream.stream, max(0, now.t1_ns - LIVE_S * 10**9), now.t1_ns,
        LIVE_BINS,
    )  # fmt: skip
    return signal_options(console.waveforms.picture(wanted), now.names, now.units, [])


def _actions(visit: Visit, device: str) -> None:
    """What the buttons of the page do; each is checked and noted by `Actions`."""
    does, fleet = visit.console.actions, visit.fleet

    async def rename(actor: Actor, given: dict[str, str]) -> None:
        name = await ask_text("Rename the device", "Name", given.get("name", ""), "Rename")
        if name is not None:
            await asyncio.to_thread(does.rename_device, actor, fleet, device, name)

    async def retire(actor: Actor, _given: dict[str, str]) -> None:
        words = "Its streams leave their machines. What it still sends is stored all the same."
        if await ask(f"Take {device} out of service?", words, "Take out of service", danger=True):
            await asyncio.to_thread(does.set_device_state, actor, fleet, device, "retire")

    async def reinstate(actor: Actor, _given: dict[str, str]) -> None:
        await asyncio.to_thread(does.set_device_state, actor, fleet, device, "reinstate")

    async def replace(actor: Actor, _given: dict[str, str]) -> None:
        new = await ask_text(f"Replace {device}", "Id of the device in its place", "", "Replace")
        if new:
            await asyncio.to_thread(does.replace_device, actor, fleet, device, new)

    visit.on("rename", rename)
    visit.on("retire", retire)
    visit.on("reinstate", reinstate)
    visit.on("replace", replace)
