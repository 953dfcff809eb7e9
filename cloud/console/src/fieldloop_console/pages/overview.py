"""The overview: is all well, and what needs me now?"""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import RedirectResponse, Response
from nicegui import ui

from fieldloop_console.console import Console
from fieldloop_console.pages.plots import RATE_HEIGHT, rate_options
from fieldloop_console.pages.shell import crowded, frame, page, page_main, visit_of
from fieldloop_console.rendering import render
from fieldloop_store.rollouts import list_rollouts
from fieldloop_store.runs import list_runs
from fieldloop_store.views import events_page


def register(console: Console) -> None:
    """Add the pages."""

    @page("/")
    async def start(request: Request) -> Response | None:
        fleets = console.pulse.fleets()
        if fleets:
            return RedirectResponse(f"/f/{fleets[0]}", 303)
        visit = visit_of(console, request)
        frame(visit, "Welcome", "overview")
        with page_main():
            await visit.part(lambda: render("no_fleet.html", fleets=console.pulse.fleets()))
        visit.live()
        return None

    @page("/f/{fleet}")
    async def overview(request: Request, fleet: str) -> Response | None:
        if (full := crowded(console)) is not None:
            return full
        visit = visit_of(console, request, fleet)
        frame(visit, "Overview", "overview")
        with page_main():
            await visit.part(lambda: _figures(console, fleet))
            with ui.element("div").classes("grid wide"):
                await visit.part(lambda: _needs(console, fleet), tag="section", classes="card")
                with ui.element("section").classes("card"):
                    ui.html("<h2>Rows stored per second</h2>", sanitize=False)
                    plot = ui.echart(rate_options(console.pulse.figures(fleet).rates))
                    plot.style(f"height:{RATE_HEIGHT}")
            with ui.element("div").classes("grid"):
                await visit.part(lambda: _models(console, fleet), tag="section", classes="card")
                await visit.part(lambda: _under_way(console, fleet), tag="section", classes="card")
            await visit.part(lambda: _events(console, fleet), tag="section", classes="card")

        async def look() -> None:
            options = rate_options(console.pulse.figures(fleet).rates)
            if options != plot.options:
                plot.options.update(options)
                plot.update()

        visit.look(look)
        visit.live()
        return None


def _figures(console: Console, fleet: str) -> str:
    return render("overview/figures.html", f=console.pulse.figures(fleet), base=f"/f/{fleet}")


def _needs(console: Console, fleet: str) -> str:
    needs = console.pulse.figures(fleet).needs
    return render("overview/needs.html", needs=needs, base=f"/f/{fleet}")


def _models(console: Console, fleet: str) -> str:
    figures = console.pulse.figures(fleet)
    return render("overview/models.html", f=figures, base=f"/f/{fleet}")


def _under_way(console: Console, fleet: str) -> str:
    return render(
        "overview/under_way.html",
        runs=list_runs(console.store, fleet, limit=4),
        rollouts=list_rollouts(console.store, fleet, limit=4),
        base=f"/f/{fleet}",
    )


def _events(console: Console, fleet: str) -> str:
    rows = events_page(console.store, fleet, limit=8)
    return render("events.html", title="Latest events", events=rows, base=f"/f/{fleet}")
