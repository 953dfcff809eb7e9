"""Models: versions and their metrics, the plots of the model card, lineage, where each runs."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from nicegui import ui

from fieldloop_console.console import Console
from fieldloop_console.identity import Actor
from fieldloop_console.lineage import lineage_diagram
from fieldloop_console.pages.dialogs import ask
from fieldloop_console.pages.plots import curve_options
from fieldloop_console.pages.shell import Visit, crowded, frame, message, page, page_main, visit_of
from fieldloop_console.rendering import render
from fieldloop_store import registry
from fieldloop_store.artefacts import list_artefacts
from fieldloop_store.registry import ModelRow
from fieldloop_store.rollouts import list_rollouts

DEVICES_SHOWN = 60
ROLLOUTS_LOOKED = 50
CARD = "card.md"
PICTURES = {
    "confusion.png": "What it confuses", "roc.png": "True against false positives",
    "precision-recall.png": "Precision and recall", "scores.png": "Scores, and the threshold",
    "float-int8.png": "Float against the file that ships", "slices.png": "Right by slice",
    "curves.png": "Curves of the training",
}  # fmt: skip
"""The plots that training draws, by the name of their file."""


def register(console: Console) -> None:
    """Add the pages."""

    @page("/f/{fleet}/models")
    async def models(request: Request, fleet: str) -> Response | None:
        if (full := crowded(console)) is not None:
            return full
        visit = visit_of(console, request, fleet)
        frame(visit, "Models", "models")
        with page_main():
            await visit.part(lambda: _models(console, fleet))
        visit.live()
        return None

    @page("/f/{fleet}/models/{name}/{version}")
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
            gates = row.metrics.get("gates", [])
            await visit.part(
                lambda: render("models/gates.html", gates=gates), tag="section", classes="card"
            )
            await visit.part(lambda: _pictures(console, row))
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
        "row": row, "named": named, "figures": figures,
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


def _pictures(console: Console, row: ModelRow) -> str:
    """The plots of the model card, as its training drew them."""
    files = list_artefacts(console.store, row.run) if row.run else []
    names = [f.name for f in files if f.media_type == "image/png"]
    shown = [n for n in PICTURES if n in names] + sorted(set(names) - set(PICTURES))
    card = any(f.name == CARD for f in files)
    return render("models/pictures.html", row=row, names=shown, titles=PICTURES, card=card)


def _where(console: Console, fleet: str, row: ModelRow) -> str:
    devices = console.pulse.devices_with(fleet, row.name, row.version)
    dataset = registry.find_dataset(console.store, row.dataset) if row.dataset else None
    same = registry.list_models(console.store, fleet, dataset=row.dataset) if row.dataset else []
    manifest = registry.find_manifest(console.store, row.digest)
    rollouts = [
        r
        for r in list_rollouts(console.store, fleet, limit=ROLLOUTS_LOOKED)
        if (r.model, r.version) == (row.name, row.version)
    ]
    diagram = lineage_diagram(
        f"/f/{fleet}", row, dataset, same, len(devices),
        manifest.lineage.parent if manifest is not None else None, rollouts,
    )  # fmt: skip
    return render(
        "models/where.html", devices=devices[:DEVICES_SHOWN], more=len(devices) - DEVICES_SHOWN,
        base=f"/f/{fleet}", diagram=diagram, row=row, dataset=dataset,
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
