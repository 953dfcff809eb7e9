"""Machines and what measures them; the fleet: its parts and what runs on them."""

from __future__ import annotations

from collections import Counter

from fastapi import Request
from fastapi.responses import Response
from nicegui import ui

from fieldloop_console.console import Console
from fieldloop_console.pages.shell import crowded, frame, page_main, visit_of
from fieldloop_console.rendering import render
from fieldloop_store.views import services_changed

ALARMS_SHOWN = 6


def register(console: Console) -> None:
    """Add the pages."""

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
