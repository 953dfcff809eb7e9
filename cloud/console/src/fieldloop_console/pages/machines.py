"""Machines: which are worse than last month, their alarms, calibration and commissioning."""

from __future__ import annotations

import asyncio
from typing import Any, cast
from urllib.parse import urlencode

from fastapi import Request
from fastapi.responses import Response
from nicegui import ui

from fieldloop_console.conditions import Condition
from fieldloop_console.console import Console
from fieldloop_console.identity import Actor
from fieldloop_console.pages.dialogs import ask, ask_text
from fieldloop_console.pages.plots import condition_options
from fieldloop_console.pages.shell import Visit, crowded, frame, message, page, page_main, visit_of
from fieldloop_console.rendering import render
from fieldloop_contract.errors import RejectedInput
from fieldloop_store.alarms import AlarmRow, find_alarm, list_alarms
from fieldloop_store.commissionings import (
    BUDGET_PER_WEEK,
    RUNNING_HOURS,
    CalibrationRow,
    find_commissioning,
    latest_armed,
    list_commissionings,
)
from fieldloop_store.lifecycle import VERDICTS, Verdict
from fieldloop_store.machine_views import MachineView, find_machine, machines_page
from fieldloop_store.machines import AssignmentRow, assignments_of

PAGE_ROWS = 30
ALARMS_SHOWN = 20
COMMISSIONINGS_SHOWN = 3
SHELVED_HOURS = 8.0


def register(console: Console) -> None:
    """Add the pages."""

    @page("/f/{fleet}/machines")
    async def machines(
        request: Request, fleet: str, text: str = "", alarmed: str = "", after: str = ""
    ) -> Response | None:
        if (full := crowded(console)) is not None:
            return full
        visit = visit_of(console, request, fleet)
        frame(visit, "Machines", "machines")
        wanted = {"text": text[:200].replace("\0", ""), "alarmed": alarmed}
        with page_main():
            await visit.part(lambda: _list(visit, wanted, after[:63]))
        _act_on_alarms(visit)
        visit.on("machine-add", _adding(visit))
        visit.live()
        return None

    @page("/f/{fleet}/machines/{machine}")
    async def machine_page(request: Request, fleet: str, machine: str) -> Response | None:
        if (full := crowded(console)) is not None:
            return full
        view = await asyncio.to_thread(find_machine, console.store, fleet, machine)
        if view is None:
            return message(f"There is no {machine:.63}", "No machine of this id was added.", 404)
        visit = visit_of(console, request, fleet)
        frame(visit, machine, "machines")
        with page_main():
            await visit.part(lambda: _top(visit, machine))
            await _condition(visit, machine, view)
            with ui.element("div").classes("grid"):
                await visit.part(lambda: _alarms(visit, machine), tag="section", classes="card")
                await visit.part(lambda: _calibration(visit, machine), tag="section",
                                 classes="card")  # fmt: skip
            await visit.part(lambda: _measured(visit, machine), tag="section", classes="card")
        _act_on_alarms(visit)
        _act_on_machine(visit, machine)
        visit.live()
        return None


def _list(visit: Visit, wanted: dict[str, str], after: str) -> str:
    console, fleet = visit.console, visit.fleet
    rows, total = machines_page(
        console.store, fleet, text=wanted["text"], alarmed=wanted["alarmed"] == "yes",
        after=after, limit=PAGE_ROWS + 1,
    )  # fmt: skip
    following = ""
    if len(rows) > PAGE_ROWS:
        following = urlencode({**wanted, "after": rows[PAGE_ROWS - 1].machine})
    words = {
        row.machine: _worst(console.conditions.of(fleet, row.machine, row.assignments, word=True))
        for row in rows[:PAGE_ROWS]
    }
    elsewhere = list_alarms(console.store, fleet, open_only=True, machine="", limit=ALARMS_SHOWN)
    return render(
        "machines/list.html", rows=rows[:PAGE_ROWS], total=total, next=following, wanted=wanted,
        first=not after, base=visit.base, may=visit.actor.may, words=words, elsewhere=elsewhere,
        verdicts=VERDICTS,
    )  # fmt: skip


def _worst(found: list[Condition]) -> Condition | None:
    """The slot that says the most: a worse one before all others."""
    order = {"worse": 0, "better": 1, "as before": 2, "": 3}
    return min(found, key=lambda c: order[c.comparison.trend], default=None)


def _top(visit: Visit, machine: str) -> str:
    view = find_machine(visit.console.store, visit.fleet, machine)
    if view is None:
        return render("gone.html", what=machine)
    found = visit.console.conditions.of(visit.fleet, machine, view.assignments)
    return render(
        "machines/top.html", m=view, base=visit.base, may=visit.actor.may, found=found,
        worst=_worst(found),
    )  # fmt: skip


async def _condition(visit: Visit, machine: str, view: MachineView) -> None:
    """A plot for each slot that scores the machine: by day, against the threshold, with alarms."""
    console, fleet = visit.console, visit.fleet

    def options() -> list[tuple[Condition, dict[str, Any]]]:
        now = find_machine(console.store, fleet, machine) or view
        alarms = list_alarms(console.store, fleet, machine=machine, limit=200)
        return [
            (c, condition_options(c, [a.life.raised_ns for a in alarms if a.slot == c.slot]))
            for c in console.conditions.of(fleet, machine, now.assignments)
        ]

    found = await asyncio.to_thread(options)
    plots = []
    with ui.element("section").classes("card"):
        ui.html(render("machines/condition_head.html", found=found), sanitize=False)
        for condition, drawn in found:
            if condition.days:
                ui.html(render("machines/plot_head.html", c=condition), sanitize=False)
                plots.append(ui.echart(drawn).style("height:260px"))

    async def look() -> None:
        newer = [drawn for c, drawn in await asyncio.to_thread(options) if c.days]
        for plot, drawn in zip(plots, newer, strict=False):
            if drawn != plot.options:
                plot.options.clear()
                plot.options.update(drawn)
                plot.update()

    visit.look(look)


def _alarms(visit: Visit, machine: str) -> str:
    told = list_alarms(visit.console.store, visit.fleet, machine=machine, limit=ALARMS_SHOWN)
    return render(
        "machines/alarms.html", told=told, base=visit.base, may=visit.actor.may, verdicts=VERDICTS
    )


def _calibration(visit: Visit, machine: str) -> str:
    store, fleet = visit.console.store, visit.fleet
    view = find_machine(store, fleet, machine)
    devices = {row.device for row in view.assignments} if view is not None else set()
    armed: list[CalibrationRow] = [
        row
        for device in sorted(devices)
        for row in latest_armed(store, fleet, device=device)
        if row.machine == machine
    ]
    under_way = list_commissionings(store, fleet, machine=machine)[:COMMISSIONINGS_SHOWN]
    return render(
        "machines/calibration.html", armed=armed, commissionings=under_way, base=visit.base,
        may=visit.actor.may, machine=machine, measured=bool(devices), hours=RUNNING_HOURS,
        budget=BUDGET_PER_WEEK,
    )  # fmt: skip


def _measured(visit: Visit, machine: str) -> str:
    rows: list[AssignmentRow] = assignments_of(visit.console.store, visit.fleet, machine=machine)
    view = find_machine(visit.console.store, visit.fleet, machine)
    return render("machines/measured.html", rows=rows, base=visit.base, m=view, may=visit.actor.may)


def _adding(visit: Visit) -> Any:
    async def add(actor: Actor, _given: dict[str, str]) -> None:
        name = await ask_text("Add a machine", "Id, such as pump-7", "", "Add")
        if name:
            does = visit.console.actions
            await asyncio.to_thread(does.put_machine, actor, visit.fleet, name, "", {})
            ui.navigate.to(f"{visit.base}/machines/{name}")

    return add


def _act_on_alarms(visit: Visit) -> None:
    does, fleet, store = visit.console.actions, visit.fleet, visit.console.store

    async def alarm(actor: Actor, given: dict[str, str]) -> None:
        if given.get("verdict"):
            verdict = cast(Verdict, given["verdict"])
            await asyncio.to_thread(does.judge_alarm, actor, fleet, given["alarm"], verdict)
        else:
            await asyncio.to_thread(does.acknowledge_alarm, actor, fleet, given["alarm"])

    async def shelve(actor: Actor, given: dict[str, str]) -> None:
        why = await ask_text("Hear nothing of it for 8 hours", "Why", "", "Shelve it")
        if why is not None:
            await asyncio.to_thread(
                does.shelve_alarm, actor, fleet, given["alarm"], SHELVED_HOURS, why
            )

    async def back(actor: Actor, given: dict[str, str]) -> None:
        row = await asyncio.to_thread(find_alarm, store, fleet, given.get("alarm", ""))
        name, version = model_of(row)
        words = (
            f"{name} v{version} raised this alarm. No device may run it any more: all that do go "
            "back to what they had before."
        )
        if await ask(f"Take {name} v{version} back?", words, "Take it back", danger=True):
            await asyncio.to_thread(does.set_model_state, actor, fleet, name, version, "recalled")
            ui.notify(f"{name} v{version} is recalled", position="bottom", timeout=4_000)

    visit.on("alarm", alarm)
    visit.on("alarm-shelve", shelve)
    visit.on("alarm-back", back)


def model_of(row: AlarmRow | None) -> tuple[str, int]:
    """The model whose score raised an alarm. Raises RejectedInput where the alarm does not say."""
    model = row.document.get("model") if row is not None else None
    if isinstance(model, dict) and isinstance(model.get("version"), int):
        return str(model.get("name", "")), model["version"]
    raise RejectedInput("the alarm does not say which model raised it", code="alarm.model")


def _act_on_machine(visit: Visit, machine: str) -> None:
    does, fleet, store = visit.console.actions, visit.fleet, visit.console.store

    async def site(actor: Actor, given: dict[str, str]) -> None:
        text = await ask_text(f"Where is {machine}?", "Site", given.get("site", ""), "Save")
        if text is not None:
            view = await asyncio.to_thread(find_machine, store, fleet, machine)
            plate = view.nameplate if view is not None else {}
            await asyncio.to_thread(does.put_machine, actor, fleet, machine, text, plate)

    async def assign(actor: Actor, _given: dict[str, str]) -> None:
        text = await ask_text(
            f"What measures {machine}?", "device/stream, such as pi-3/imu", "", "Assign"
        )
        if text is None:
            return
        device, _, stream = text.strip().partition("/")
        if not stream:
            raise RejectedInput("write device/stream", code="assignment.form")
        await asyncio.to_thread(
            lambda: does.assign_stream(
                actor, fleet, machine, device, stream, from_ns=None, to_ns=None, mounting=""
            )
        )  # fmt: skip

    async def begin(actor: Actor, given: dict[str, str]) -> None:
        await asyncio.to_thread(
            lambda: does.commission(
                actor, fleet, machine=machine, slot=given.get("slot", "").strip() or "main",
                running_hours=_number(given.get("hours", ""), "running hours"),
                budget_per_week=_number(given.get("budget", ""), "false alarms a week"),
                far_is_meant=given.get("far") == "yes",
            )
        )  # fmt: skip

    async def arm(actor: Actor, given: dict[str, str]) -> None:
        row = await asyncio.to_thread(find_commissioning, store, fleet, given.get("id", ""))
        words = "You say that this machine is healthy as it ran. From now on its alarms may ring."
        if row is not None and await ask(f"Is {machine} healthy?", words, "It is healthy: arm it"):
            await asyncio.to_thread(does.arm_commissioning, actor, fleet, row.id)

    async def end(actor: Actor, given: dict[str, str]) -> None:
        if await ask("Give this commissioning up?", "A new one can be begun.", "Give it up"):
            await asyncio.to_thread(does.end_commissioning, actor, fleet, given.get("id", ""))

    async def changed(actor: Actor, _given: dict[str, str]) -> None:
        because = await ask_text(
            f"What happened to {machine}?", "Repair, moved sensor, other regime", "", "Note it"
        )
        if because:
            await asyncio.to_thread(does.say_changed, actor, fleet, machine, because)

    visit.on("machine-site", site)
    visit.on("machine-assign", assign)
    visit.on("commission", begin)
    visit.on("commission-arm", arm)
    visit.on("commission-end", end)
    visit.on("machine-changed", changed)


def _number(text: str, what: str) -> float:
    try:
        return float(text.strip().replace(",", "."))
    except ValueError as error:
        raise RejectedInput(f"{what}: {text!r:.40} is no number", code="form.number") from error
