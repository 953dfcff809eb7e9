"""Rollouts: the waves filling up, each gate with its evidence, and the levers."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

from fastapi import Request
from fastapi.responses import Response
from nicegui import ui

from fieldloop_console.console import Console
from fieldloop_console.identity import Actor
from fieldloop_console.pages.dialogs import ask
from fieldloop_console.pages.shell import Visit, crowded, frame, message, page, page_main, visit_of
from fieldloop_console.rendering import render
from fieldloop_store import registry
from fieldloop_store.alarms import list_alarms
from fieldloop_store.rollouts import find_rollout, list_rollouts
from fieldloop_store.steering import audit_trail, list_requests

SHOWN = 100
ALARMS_LOOKED = 500
ALARMING_SHOWN = 10


def register(console: Console) -> None:
    """Add the pages."""

    @page("/f/{fleet}/rollouts")
    async def rollouts(request: Request, fleet: str) -> Response | None:
        if (full := crowded(console)) is not None:
            return full
        visit = visit_of(console, request, fleet)
        frame(visit, "Rollouts", "rollouts")
        with page_main():
            await visit.part(lambda: _list(visit))
        _back(visit)
        visit.live()
        return None

    @page("/f/{fleet}/rollouts/{rollout}")
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


@dataclass(frozen=True, slots=True)
class _Alarming:
    """A version in service of which alarms are open; `before` is the version that it goes back to.

    Attributes:
        before: newest approved version before it; None for none.
    """

    name: str
    version: int
    alarms: int
    devices: int
    before: int | None


def _alarming(visit: Visit) -> list[_Alarming]:
    """Versions in service with open alarms, the most alarms first."""
    console, fleet = visit.console, visit.fleet
    counted: Counter[tuple[str, int]] = Counter()
    for alarm in list_alarms(console.store, fleet, open_only=True, limit=ALARMS_LOOKED):
        model = alarm.document.get("model")
        if isinstance(model, dict) and isinstance(model.get("version"), int):
            counted[str(model.get("name", "")), model["version"]] += 1
    if not counted:
        return []
    approved = registry.list_models(console.store, fleet, state="approved")
    serving = {(u.model, u.version): u.devices for u in console.pulse.figures(fleet).models}
    return [
        _Alarming(
            name, version, alarms, serving.get((name, version), 0),
            max((m.version for m in approved if m.name == name and m.version < version),
                default=None),
        )
        for (name, version), alarms in counted.most_common(ALARMING_SHOWN)
        if any((m.name, m.version) == (name, version) for m in approved)
    ]  # fmt: skip


def _back(visit: Visit) -> None:
    """From a version that alarms to the one before: one click, and one to say that it is meant."""
    does, fleet = visit.console.actions, visit.fleet

    async def back(actor: Actor, given: dict[str, str]) -> None:
        name, version = given.get("model", ""), int(given.get("version", "0"))
        words = "No device may run it any more: those that do go back to what they had before."
        if await ask(f"Take {name} v{version} back?", words, "Take it back", danger=True):
            await asyncio.to_thread(does.set_model_state, actor, fleet, name, version, "recalled")
            ui.notify(f"{name} v{version} is recalled", position="bottom", timeout=4_000)

    visit.on("back", back)


def _list(visit: Visit) -> str:
    rows = list_rollouts(visit.console.store, visit.fleet, limit=SHOWN)
    return render(
        "rollouts/list.html", rows=rows, base=visit.base, alarming=_alarming(visit),
        may=visit.actor.may,
    )  # fmt: skip


def _show(console: Console, fleet: str, rollout: str, visit: Visit) -> str:
    row = find_rollout(console.store, fleet, rollout)
    if row is None:
        return render("gone.html", what="The rollout")
    own = [r for r in list_requests(console.store, fleet, limit=50) if r.rollout == rollout]
    return render(
        "rollouts/show.html", row=row, d=row.document, base=f"/f/{fleet}", may=visit.actor.may,
        requests=own[:10], trail=audit_trail(console.store, fleet, rollout=rollout, limit=50),
    )  # fmt: skip
