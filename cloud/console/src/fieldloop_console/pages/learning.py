"""Models and trainings: versions and their metrics, lineage, runs with live curves, comparison."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from nicegui import ui

from fieldloop_console.console import Console
from fieldloop_console.identity import Actor
from fieldloop_console.lineage import lineage_diagram
from fieldloop_console.pages.dialogs import ask
from fieldloop_console.pages.plots import curve_options
from fieldloop_console.pages.shell import Visit, crowded, frame, message, page_main, visit_of
from fieldloop_console.rendering import render
from fieldloop_store import registry
from fieldloop_store import runs as runs_store
from fieldloop_store.engine import Store
from fieldloop_store.registry import ModelRow
from fieldloop_store.runs import RunRow

RUNS_SHOWN = 100
DEVICES_SHOWN = 60
COMPARED_MAX = 6


def register(console: Console) -> None:
    """Add the pages."""
    _register_models(console)
    _register_training(console)


def _register_models(console: Console) -> None:
    @ui.page("/f/{fleet}/models")
    async def models(request: Request, fleet: str) -> Response | None:
        if (full := crowded(console)) is not None:
            return full
        visit = visit_of(console, request, fleet)
        frame(visit, "Models", "models")
        with page_main():
            await visit.part(lambda: _models(console, fleet))
        visit.live()
        return None

    @ui.page("/f/{fleet}/models/{name}/{version}")
    async def model_page(request: Request, fleet: str, name: str, version: int) -> Response | None:
        if (full := crowded(console)) is not None:
            return full
        row = await asyncio.to_thread(registry.find_model, console.store, fleet, name, version)
        if row is None:
            return message(f"There is no {name:.63} v{version}", "No such version was made.", 404)
        visit = visit_of(console, request, fleet)
        frame(visit, f"{name} v{version}", "models")
        bundle = await asyncio.to_thread(registry.load_bundle, console.store, row.digest)
        with page_main():
            await visit.part(lambda: _model_top(console, fleet, name, version, visit))
            with ui.element("div").classes("grid"):
                await visit.part(
                    lambda: render("models/metrics.html", **_metrics(row)), tag="section",
                    classes="card",
                )  # fmt: skip
                await visit.part(
                    lambda: render("models/matrix.html", matrix=row.metrics.get("confusion")),
                    tag="section", classes="card",
                )  # fmt: skip
            _model_curve(row)
            await visit.part(
                lambda: render("models/manifest.html", m=bundle[0], row=row), tag="section",
                classes="card",
            )  # fmt: skip
            await visit.part(lambda: _where(console, fleet, row), tag="section", classes="card")
        _model_actions(visit, name, version)
        visit.live()
        return None


def _models(console: Console, fleet: str) -> str:
    rows = registry.list_models(console.store, fleet)
    serving = {(u.model, u.version): u.devices for u in console.pulse.figures(fleet).models}
    return render(
        "models/list.html", rows=list(reversed(rows)), serving=serving, base=f"/f/{fleet}"
    )


def _model_top(console: Console, fleet: str, name: str, version: int, visit: Visit) -> str:
    row = registry.find_model(console.store, fleet, name, version)
    if row is None:
        return render("gone.html", what=f"{name} v{version}")
    return render("models/top.html", row=row, base=f"/f/{fleet}", may=visit.actor.may)


def _metrics(row: ModelRow) -> dict[str, Any]:
    """Figures by candidate: int8 first, then float and whatever it was compared with."""
    metrics = row.metrics
    named = [
        n for n in ("int8", "float", "champion", "baseline") if isinstance(metrics.get(n), dict)
    ]
    figures = sorted({f for n in named for f in metrics[n]})
    return {
        "row": row, "named": named, "figures": figures, "gates": metrics.get("gates", []),
        "bytes": metrics.get("bytes"), "latency_us": metrics.get("latency_us") or {},
        "agreement": metrics.get("agreement"),
    }  # fmt: skip


def _model_curve(row: ModelRow) -> None:
    history = row.metrics.get("history") or []
    names = [n for n in ("accuracy", "loss") if history and n in history[0]]
    if not names:
        return
    with ui.element("div").classes("grid"):
        for name in names:
            with ui.element("section").classes("card"):
                ui.html(render("models/curve_head.html", name=name), sanitize=False)
                values = [float(step[name]) for step in history if name in step]
                ui.echart(curve_options({name: values}, name="")).style("height:220px")


def _where(console: Console, fleet: str, row: ModelRow) -> str:
    devices = console.pulse.devices_with(fleet, row.name, row.version)
    dataset = registry.find_dataset(console.store, row.dataset) if row.dataset else None
    same = registry.list_models(console.store, fleet, dataset=row.dataset) if row.dataset else []
    return render(
        "models/where.html", devices=devices[:DEVICES_SHOWN], more=len(devices) - DEVICES_SHOWN,
        base=f"/f/{fleet}",
        diagram=lineage_diagram(f"/f/{fleet}", row, dataset, same, len(devices)), row=row,
        dataset=dataset,
    )  # fmt: skip


def _model_actions(visit: Visit, name: str, version: int) -> None:
    does, fleet = visit.console.actions, visit.fleet

    async def recall(actor: Actor, _given: dict[str, str]) -> None:
        words = "No device may run it any more: those that do go back to what they had before."
        if await ask(f"Recall {name} v{version}?", words, "Recall it", danger=True):
            await asyncio.to_thread(does.set_model_state, actor, fleet, name, version, "recalled")

    async def approve(actor: Actor, _given: dict[str, str]) -> None:
        await asyncio.to_thread(does.set_model_state, actor, fleet, name, version, "approved")

    visit.on("recall", recall)
    visit.on("approve", approve)


def _register_training(console: Console) -> None:
    @ui.page("/f/{fleet}/training")
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
                await visit.part(lambda: _runs(console, fleet, visit))
        visit.live()
        return None

    @ui.page("/f/{fleet}/training/{run}")
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


def _live_curves(visit: Visit, row: RunRow) -> None:
    with ui.element("div").classes("grid"):
        plots = {}
        for name in ("accuracy", "loss"):
            with ui.element("section").classes("card"):
                ui.html(render("models/curve_head.html", name=name), sanitize=False)
                values = curves_of(visit.console.store, row).get(name, [])
                plots[name] = ui.echart(curve_options({name: values}, name=""))
                plots[name].style("height:240px")

    async def look() -> None:
        curves = await asyncio.to_thread(curves_of, visit.console.store, row)
        for name, plot in plots.items():
            options = curve_options({name: curves.get(name, [])}, name="")
            if options != plot.options:
                plot.options.update(options)
                plot.update()

    visit.look(look)


async def _comparison(visit: Visit, picked: list[str]) -> None:
    console, fleet = visit.console, visit.fleet

    def find() -> list[RunRow]:
        found = [runs_store.find_run(console.store, run[:32]) for run in picked]
        return [row for row in found if row is not None and row.fleet == fleet]

    rows = await asyncio.to_thread(find)
    metrics = [((row.verdict or {}).get("metrics") or {}) for row in rows]
    figures = sorted({
        (candidate, figure)
        for of_run in metrics
        for candidate, own in of_run.items() if isinstance(own, dict)
        for figure in own
    })  # fmt: skip
    await visit.part(
        lambda: render("training/compare.html", rows=rows, metrics=metrics, figures=figures,
                       base=f"/f/{fleet}")
    )  # fmt: skip
    all_curves = await asyncio.to_thread(lambda: [curves_of(console.store, r) for r in rows])
    with ui.element("div").classes("grid"):
        for name in ("accuracy", "loss"):
            with ui.element("section").classes("card"):
                ui.html(render("models/curve_head.html", name=name), sanitize=False)
                curves = {
                    f"run {at + 1}: {row.id[:8]}": own[name]
                    for at, (row, own) in enumerate(zip(rows, all_curves, strict=True))
                    if name in own
                }
                ui.echart(curve_options(curves, name="")).style("height:260px")
