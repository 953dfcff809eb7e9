"""The fleet: cohorts, container releases, device profiles, software and boards."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import Response

from fieldloop_console.console import Console
from fieldloop_console.pages.shell import crowded, frame, page, page_main, visit_of
from fieldloop_console.rendering import render
from fieldloop_store.machine_views import cohorts_of
from fieldloop_store.rollouts import cohorts_of_rollout, list_rollouts

CONTAINERS = "_containers"
"""Lane of container rollouts, as delivery names it."""
RELEASES_SHOWN = 10


def register(console: Console) -> None:
    """Add the page."""

    @page("/f/{fleet}/fleet")
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
    newest = list_rollouts(console.store, fleet, limit=1)
    return render(
        "fleet/fleet.html", f=console.pulse.figures(fleet), parts=console.pulse.parts(fleet),
        cohorts=cohorts_of(console.store, fleet), base=f"/f/{fleet}",
        releases=list_rollouts(console.store, fleet, slot=CONTAINERS, limit=RELEASES_SHOWN),
        rollout=newest[0] if newest else None,
        rollout_cohorts=cohorts_of_rollout(console.store, fleet, newest[0].id) if newest else [],
    )  # fmt: skip
