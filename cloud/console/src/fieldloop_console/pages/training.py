"""Training: what it asks, runs with live curves, runs side by side; a form to start one."""

from __future__ import annotations

import asyncio
import json

from fastapi import Request
from fastapi.responses import Response
from nicegui import ui

from fieldloop_console.console import Console
from fieldloop_console.forms import fields_of, read_form
from fieldloop_console.identity import Actor
from fieldloop_console.pages.dialogs import ask
from fieldloop_console.pages.plots import Options, curve_options
from fieldloop_console.pages.shell import Visit, crowded, frame, message, page, page_main, visit_of
from fieldloop_console.rendering import render
from fieldloop_contract.errors import RejectedInput
from fieldloop_contract.ids import check_id
from fieldloop_store import questions as questions_store
from fieldloop_store import recipes as recipes_store
from fieldloop_store import registry
from fieldloop_store import runs as runs_store
from fieldloop_store.engine import Store
from fieldloop_store.recipes import RecipeRow
from fieldloop_store.runs import RunRow

RUNS_SHOWN = 100
COMPARED_MAX = 6
PLOTS_MAX = 4
QUESTIONS_SHOWN = 10
WHAT = ("sensor", "regime", "wear", "fault", "other")
_SETTING = "setting."


def register(console: Console) -> None:
    """Add the pages."""

    @page("/f/{fleet}/training")
    async def training(request: Request, fleet: str, compare: str = "") -> Response | None:
        if (full := crowded(console)) is not None:
            return full
        visit = visit_of(console, request, fleet)
        frame(visit, "Training", "training")
        picked = request.query_params.getlist("run") or [c for c in compare.split(",") if c]
        with page_main():
            if len(picked) > 1:
                await _comparison(visit, picked[:COMPARED_MAX])
            else:
                await visit.part(
                    lambda: render("training/head.html", base=visit.base, may=visit.actor.may)
                )
                await visit.part(lambda: _asked(visit))
                await visit.part(lambda: _runs(console, fleet, visit))
        _answers(visit)
        visit.live()
        return None

    @page("/f/{fleet}/training/new")
    async def new_page(request: Request, fleet: str, recipe: str = "") -> Response | None:
        if (full := crowded(console)) is not None:
            return full
        visit = visit_of(console, request, fleet)
        frame(visit, "Start a training", "training")
        with page_main():
            await _new(visit, recipe[:63])
        visit.live()
        return None

    @page("/f/{fleet}/training/{run}")
    async def run_page(request: Request, fleet: str, run: str) -> Response | None:
        if (full := crowded(console)) is not None:
            return full
        row = await asyncio.to_thread(runs_store.find_run, console.store, run[:32])
        if row is None or row.fleet != fleet:
            return message("There is no such training", "No run of this id was begun here.", 404)
        visit = visit_of(console, request, fleet)
        frame(visit, f"Training of {row.model}", "training")
        with page_main():
            await visit.part(lambda: _run_top(console, run, visit))
            _live_curves(visit, row)
            await visit.part(lambda: _verdict(console, run), tag="section", classes="card")
        _run_actions(visit, row)
        visit.live()
        return None


def _run_actions(visit: Visit, row: RunRow) -> None:
    does, fleet = visit.console.actions, visit.fleet

    async def cancel(actor: Actor, _given: dict[str, str]) -> None:
        words = "What it has learnt so far is lost. Its curve stays."
        if await ask("Cancel this training?", words, "Cancel it", danger=True):
            await asyncio.to_thread(does.cancel_run, actor, fleet, row.id)

    async def again(actor: Actor, _given: dict[str, str]) -> None:
        run = await asyncio.to_thread(
            lambda: does.start_run(
                actor, fleet, model=row.model, recipe=row.recipe, settings=row.settings,
                reason=f"again, as {row.id[:8]}",
            )
        )  # fmt: skip
        ui.navigate.to(f"/f/{fleet}/training/{run}")

    visit.on("cancel", cancel)
    visit.on("again", again)


def _runs(console: Console, fleet: str, visit: Visit) -> str:
    rows = runs_store.list_runs(console.store, fleet, limit=RUNS_SHOWN)
    return render("training/list.html", rows=rows, base=f"/f/{fleet}", may=visit.actor.may)


def _run_top(console: Console, run: str, visit: Visit) -> str:
    row = runs_store.find_run(console.store, run)
    if row is None:
        return render("gone.html", what="The run")
    return render(
        "training/top.html", row=row, base=f"/f/{row.fleet}", may=visit.actor.may,
        settings=json.dumps(row.settings, indent=2, sort_keys=True) if row.settings else "",
    )  # fmt: skip


def _verdict(console: Console, run: str) -> str:
    row = runs_store.find_run(console.store, run)
    verdict = (row.verdict if row else None) or {}
    return render("training/verdict.html", verdict=verdict, base=f"/f/{row.fleet}" if row else "")


def curves_of(store: Store, row: RunRow) -> dict[str, list[float]]:
    """The figures of each epoch by name, as far as the run has come."""
    found: dict[str, list[float]] = {}
    for epoch in runs_store.epochs_of(store, row.id):
        for name, value in epoch.figures.items():
            found.setdefault(name, []).append(value)
    return found


def _drawn(curves: dict[str, list[float]]) -> dict[str, Options]:
    """The plots of a run: losses in one, what else was told in another."""
    losses = {name: values for name, values in curves.items() if "loss" in name}
    others = {name: values for name, values in curves.items() if name not in losses}
    return {
        "loss": curve_options(losses, name=""),
        ", ".join(sorted(others)) or "accuracy": curve_options(others, name=""),
    }


def _live_curves(visit: Visit, row: RunRow) -> None:
    plots = []
    with ui.element("div").classes("grid"):
        for name, options in _drawn(curves_of(visit.console.store, row)).items():
            with ui.element("section").classes("card"):
                ui.html(render("models/curve_head.html", name=name), sanitize=False)
                plots.append(ui.echart(options).style("height:240px"))

    async def look() -> None:
        curves = await asyncio.to_thread(curves_of, visit.console.store, row)
        for plot, options in zip(plots, _drawn(curves).values(), strict=True):
            if options != plot.options:
                plot.options.clear()
                plot.options.update(options)
                plot.update()

    visit.look(look)


async def _comparison(visit: Visit, picked: list[str]) -> None:
    console, fleet = visit.console, visit.fleet

    def find() -> runs_store.Compared:
        rows = [runs_store.find_run(console.store, run[:32]) for run in dict.fromkeys(picked)]
        own = [row.id for row in rows if row is not None and row.fleet == fleet]
        return runs_store.compare(console.store, own)

    found = await asyncio.to_thread(find)
    await visit.part(lambda: render("training/compare.html", found=found, base=f"/f/{fleet}"))
    names = sorted({name for curve in found.curves for epoch in curve for name in epoch.figures})
    with ui.element("div").classes("grid"):
        for name in names[:PLOTS_MAX]:
            with ui.element("section").classes("card"):
                ui.html(render("models/curve_head.html", name=name), sanitize=False)
                curves = {
                    f"run {at}: {row.id[:8]}": [e.figures[name] for e in own if name in e.figures]
                    for at, (row, own) in enumerate(zip(found.runs, found.curves, strict=True), 1)
                }
                ui.echart(curve_options(curves, name="")).style("height:260px")


async def _new(visit: Visit, named: str) -> None:
    """The form: a recipe's settings, as its schema describes them."""
    console, fleet = visit.console, visit.fleet
    known = await asyncio.to_thread(recipes_store.list_recipes, console.store)
    recipe = next((r for r in known if r.name == named), known[0] if known else None)
    faults: list[str] = []
    if recipe is None:
        await visit.part(lambda: render("training/new.html", recipe=None, base=visit.base))
        return
    models = await asyncio.to_thread(registry.list_models, console.store, fleet)
    names = sorted({row.name for row in models})
    await visit.part(lambda: render(
        "training/new.html", recipe=recipe, known=known, fields=fields_of(recipe.schema),
        names=names, base=visit.base, may=visit.actor.may("operator"),
    ))  # fmt: skip
    await visit.part(lambda: render("training/faults.html", faults=faults))

    async def start(actor: Actor, given: dict[str, str]) -> None:
        faults.clear()
        try:
            run = await asyncio.to_thread(_start, visit, actor, recipe, given)
        except RejectedInput as error:
            faults.extend(str(error).split("; "))
            return
        ui.navigate.to(f"{visit.base}/training/{run}")

    visit.on("start", start)


def _start(visit: Visit, actor: Actor, recipe: RecipeRow, given: dict[str, str]) -> str:
    typed = {k.removeprefix(_SETTING): v for k, v in given.items() if k.startswith(_SETTING)}
    model = check_id(given.get("model", "").strip(), "name of the model")
    return visit.console.actions.start_run(
        actor, visit.fleet, model=model, recipe=recipe.name,
        settings=read_form(recipe.schema, typed), reason=given.get("reason", "")[:200],
    )  # fmt: skip


def _asked(visit: Visit) -> str:
    found = questions_store.list_questions(
        visit.console.store, visit.fleet, states=["open"], limit=QUESTIONS_SHOWN
    )
    return render(
        "training/questions.html", questions=found, base=visit.base, may=visit.actor.may, what=WHAT
    )


def _answers(visit: Visit) -> None:
    does, fleet = visit.console.actions, visit.fleet

    async def answer(actor: Actor, given: dict[str, str]) -> None:
        question, train = given.get("question", ""), given.get("train") == "yes"
        run = await asyncio.to_thread(
            lambda: does.answer_question(
                actor, fleet, question, train=train, what=given.get("what", "")[:20],
                note=given.get("note", "")[:2_000],
            )
        )  # fmt: skip
        if run is not None:
            ui.navigate.to(f"{visit.base}/training/{run}")

    visit.on("answer", answer)
