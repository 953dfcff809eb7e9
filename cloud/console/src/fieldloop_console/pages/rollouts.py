"""Rollouts: the waves filling up, each gate with its evidence, and the levers."""

from __future__ import annotations

import asyncio

from fastapi import Request
from fastapi.responses import Response
from nicegui import ui

from fieldloop_console.console import Console
from fieldloop_console.identity import Actor
from fieldloop_console.pages.dialogs import ask
from fieldloop_console.pages.shell import Visit, crowded, frame, message, page_main, visit_of
from fieldloop_console.rendering import render
from fieldloop_store.rollouts import find_rollout, list_rollouts
from fieldloop_store.steering import audit_trail, list_requests

SHOWN = 100


def register(console: Console) -> None:
    """Add the pages."""

    @ui.page("/f/{fleet}/rollouts")
    async def rollouts(request: Request, fleet: str) -> Response | None:
        if (full := crowded(console)) is not None:
            return full
        visit = visit_of(console, request, fleet)
        frame(visit, "Rollouts", "rollouts")
        with page_main():
            await visit.part(lambda: _list(console, fleet))
        visit.live()
        return None

    @ui.page("/f/{fleet}/rollouts/{rollout}")
    async def rollout_page(request: Request, fleet: str, rollout: str) -> Response | None:
        if (full := crowded(console)) is not None:
            return full
        row = await asyncio.to_thread(find_rollout, console.store, fleet, rollout)
        if row is None:
            return message("There is no such rollout", "No rollout of this id was begun.", 404)
        visit = visit_of(console, request, fleet)
        frame(visit, f"Rollout of {row.model} v{row.version}", "rollouts")
        with page_main():
            await visit.part(lambda: _show(console, fleet, rollout, visit))
        _levers(visit, rollout)
        visit.live()
        return None


def _levers(visit: Visit, rollout: str) -> None:
    """The buttons: each asks delivery, which answers at its next look."""
    does, fleet = visit.console.actions, visit.fleet

    async def steer(actor: Actor, given: dict[str, str]) -> None:
        kind = given.get("kind", "")
        if kind in _QUESTIONS:
            title, words, yes = _QUESTIONS[kind]
            if not await ask(title, words, yes, danger=True):
                return
        await asyncio.to_thread(does.steer_rollout, actor, fleet, kind, rollout)
        ui.notify("asked; delivery obeys at its next look", position="bottom", timeout=3_000)

    visit.on("steer", steer)


_QUESTIONS = {
    "abort": (
        "Abort and roll back?",
        "Every device that was touched goes back to what it had before.",
        "Abort and roll back",
    ),
}


def _list(console: Console, fleet: str) -> str:
    rows = list_rollouts(console.store, fleet, limit=SHOWN)
    return render("rollouts/list.html", rows=rows, base=f"/f/{fleet}")


def _show(console: Console, fleet: str, rollout: str, visit: Visit) -> str:
    row = find_rollout(console.store, fleet, rollout)
    if row is None:
        return render("gone.html", what="The rollout")
    own = [r for r in list_requests(console.store, fleet, limit=50) if r.rollout == rollout]
    return render(
        "rollouts/show.html", row=row, d=row.document, base=f"/f/{fleet}", may=visit.actor.may,
        requests=own[:10], trail=audit_trail(console.store, fleet, rollout=rollout, limit=50),
    )  # fmt: skip
