"""Data: find a stream, browse its signal, label spans of it, work off the samples devices chose."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from nicegui import events, ui

from fieldloop_console.console import Console
from fieldloop_console.identity import Actor
from fieldloop_console.pages.dialogs import ask_text
from fieldloop_console.pages.plots import signal_options
from fieldloop_console.pages.shell import Visit, crowded, frame, page, page_main, visit_of
from fieldloop_console.rendering import render
from fieldloop_console.span import Span, read_span
from fieldloop_console.waveform import Picture, Wanted
from fieldloop_contract.errors import RejectedInput
from fieldloop_store.accounts import books_page
from fieldloop_store.signals import StreamView, streams_of
from fieldloop_store.views import devices_page, events_page, known_labels, labels_within

BINS = 800
QUICK_LABELS = 9
DEVICES_LISTED = 30
SAMPLES_LISTED = 25
_BRUSH = {
    "type": "takeGlobalCursor", "key": "brush",
    "brushOption": {"brushType": "lineX", "brushMode": "single"},
}  # fmt: skip


def register(console: Console) -> None:
    """Add the page."""

    @page("/f/{fleet}/data")
    async def data(
        request: Request, fleet: str, device: str = "", stream: str = "", t0: str = "",
        t1: str = "", chosen: str = "", books: str = "",
    ) -> Response | None:  # fmt: skip
        if (full := crowded(console)) is not None:
            return full
        visit = visit_of(console, request, fleet)
        frame(visit, "Data", "data")
        with page_main():
            if books:
                await visit.part(lambda: _books(console, fleet))
            elif device:
                await _browse(visit, device[:63], stream[:63], t0, t1, bool(chosen))
            else:
                await visit.part(lambda: _streams(console, fleet))
                await visit.part(lambda: _queue(console, fleet), tag="section", classes="card")
        visit.live()
        return None


def _books(console: Console, fleet: str) -> str:
    rows = books_page(console.store, fleet, faulty=True)
    return render("data/books.html", rows=rows, base=f"/f/{fleet}")


def _streams(console: Console, fleet: str) -> str:
    rows, total = devices_page(console.store, fleet, limit=DEVICES_LISTED)
    found = [(row, streams_of(console.store, fleet, row.device)) for row in rows]
    return render(
        "data/streams.html", found=[(d, s) for d, s in found if s], total=total,
        devices=rows, listed=DEVICES_LISTED, base=f"/f/{fleet}",
    )  # fmt: skip


def _queue(console: Console, fleet: str) -> str:
    chosen = events_page(console.store, fleet, types=("sample.selected",), limit=SAMPLES_LISTED)
    rows = []
    for event in chosen:
        data = event.data
        t0_ns, t1_ns = data.get("t0_ns"), data.get("t1_ns")
        stream = data.get("stream")
        if isinstance(t0_ns, int) and isinstance(t1_ns, int) and isinstance(stream, str):
            labels = labels_within(
                console.store, fleet, event.log.device, stream, t0_ns, t1_ns, limit=1
            )
            rows.append((event, labels[0].label if labels else ""))
    return render("data/queue.html", rows=rows, base=f"/f/{fleet}")


@dataclass(slots=True)
class _View:
    """What is looked at: the span, what is selected in it, and the plot."""

    stream: StreamView
    span: Span
    chosen: bool
    selected: Span | None = None
    labels: tuple[str, ...] = ()
    picture: Picture | None = None
    plot: Any = None


async def _browse(visit: Visit, device: str, stream: str, t0: str, t1: str, chosen: bool) -> None:
    console, fleet = visit.console, visit.fleet
    streams = await asyncio.to_thread(
        lambda: streams_of(console.store, fleet, device, chosen=chosen)
    )
    found = next((s for s in streams if s.stream == stream or not stream), None)
    if found is None:
        await visit.part(
            lambda: render("data/none.html", device=device, stream=stream, base=f"/f/{fleet}")
        )
        return
    view = _View(found, read_span(t0, t1, found.t0_ns, found.t1_ns), chosen)
    view.labels = tuple(await asyncio.to_thread(known_labels, console.store, fleet))
    options = await asyncio.to_thread(_draw, visit, view)
    await visit.part(lambda: render("data/head.html", s=found, chosen=chosen, base=visit.base,
                                    streams=streams))  # fmt: skip
    with ui.element("section").classes("card"):
        await visit.part(lambda: _controls(visit, view))
        view.plot = (
            ui.echart(options)
            .style("height:min(56vh,420px)")
            .props(
                'tabindex=0 role="application" '
                'aria-label="Signal: arrows move, plus and minus zoom, digits label the selection"'
            )
        )
        await visit.part(lambda: _below(visit, view))
    await visit.part(lambda: _labels(visit, view), tag="section", classes="card")
    _listen(visit, view)


def _draw(visit: Visit, view: _View) -> dict[str, Any]:
    s = view.stream
    wanted = Wanted(
        visit.fleet, s.device, s.stream, view.span.t0_ns, view.span.t1_ns, BINS, view.chosen
    )
    view.picture = visit.console.waveforms.picture(wanted)
    spans = [
        {"t0_ms": row.t0_ns / 1e6, "t1_ms": row.t1_ns / 1e6, "label": row.label}
        for row in labels_within(
            visit.console.store, visit.fleet, s.device, s.stream, view.span.t0_ns,
            view.span.t1_ns, limit=200,
        )
    ]  # fmt: skip
    return signal_options(view.picture, s.names, s.units, spans)


def _controls(visit: Visit, view: _View) -> str:
    return render(
        "data/controls.html", v=view, quick=view.labels[:QUICK_LABELS],
        may=visit.actor.may("operator"), base=visit.base,
    )  # fmt: skip


def _below(visit: Visit, view: _View) -> str:
    return render("data/below.html", v=view, fleet=visit.fleet)


def _labels(visit: Visit, view: _View) -> str:
    s = view.stream
    rows = labels_within(
        visit.console.store, visit.fleet, s.device, s.stream, view.span.t0_ns, view.span.t1_ns,
        limit=50,
    )  # fmt: skip
    return render("data/labels.html", rows=rows, base=visit.base, device=s.device, stream=s.stream)


async def _show(visit: Visit, view: _View) -> None:
    """Draw the span anew, and put it into the address, so that it can be passed on."""
    options = await asyncio.to_thread(_draw, visit, view)
    view.plot.options.clear()
    view.plot.options.update(options)
    view.plot.update()
    view.plot.run_chart_method("dispatchAction", _BRUSH)
    s, span = view.stream, view.span
    place = f"?device={s.device}&stream={s.stream}&t0={span.t0_ns}&t1={span.t1_ns}"
    place += "&chosen=1" if view.chosen else ""
    ui.run_javascript(f"history.replaceState(history.state, '', '{place}')")


def _listen(visit: Visit, view: _View) -> None:
    """Moves, zooms, selections and labels, by mouse, button and key alike."""

    async def show() -> None:
        await _show(visit, view)

    async def on_move(_actor: Actor, given: dict[str, str]) -> None:
        s, to = view.stream, given.get("to", "")
        if to == "selection" and view.selected is not None:
            view.span, view.selected = view.selected, None
        elif to == "clear":
            view.selected = None
        else:
            view.span = view.span.moved(to, s.t0_ns, s.t1_ns)
        await show()

    async def on_label(actor: Actor, given: dict[str, str]) -> None:
        text = given.get("label") or await ask_text(
            "Label the selection", "Label", view.labels[0] if view.labels else "", "Label it"
        )
        if text:
            await asyncio.to_thread(_put_label, visit, view, actor, text)
            view.selected = None
            if text not in view.labels:
                view.labels = (*view.labels, text)
            ui.notify(f"labelled {text}", type="positive", position="bottom", timeout=2_000)
            await show()

    async def on_select(_actor: Actor, given: dict[str, str]) -> None:
        view.selected = view.span.part(given.get("from", ""), given.get("to", ""))

    async def on_brush(event: events.GenericEventArguments) -> None:
        areas = (event.args or {}).get("areas") or []
        if areas and isinstance(areas[0].get("coordRange"), list):
            low, high = areas[0]["coordRange"][:2]
            view.selected = view.span.within(float(low) * 1e6, float(high) * 1e6)
            await visit.refresh()

    async def on_key(event: events.KeyEventArguments) -> None:
        if not event.action.keydown or event.modifiers.ctrl or event.modifiers.meta:
            return
        key = str(event.key)
        digit = int(key) if key.isdigit() and key != "0" else 0
        if digit and view.selected is not None and digit <= len(view.labels):
            await visit.press("label", {"label": view.labels[digit - 1]})
        elif key in _KEYS:
            await visit.press("move", {"to": _KEYS[key]})

    async def look() -> None:
        if view.picture is not None and view.picture.coming:
            await show()

    visit.on("move", on_move)
    visit.on("label", on_label)
    visit.on("select", on_select)
    visit.look(look)
    view.plot.on("chart:brushEnd", on_brush, ["areas"])
    view.plot.run_chart_method("dispatchAction", _BRUSH)
    ui.keyboard(on_key=on_key, repeating=False)


_KEYS = {
    "ArrowLeft": "earlier", "ArrowRight": "later", "+": "in", "-": "out", "0": "all",
    "Escape": "clear", "Enter": "selection",
}  # fmt: skip


def _put_label(visit: Visit, view: _View, actor: Actor, text: str) -> None:
    if view.selected is None:
        raise RejectedInput("select a span first", code="label.span", hint="drag over the signal")
    s = view.stream
    item = {
        "device": s.device, "stream": s.stream, "t0_ns": view.selected.t0_ns,
        "t1_ns": view.selected.t1_ns, "label": text,
    }  # fmt: skip
    done = visit.console.actions.add_labels(actor, visit.fleet, [item])
    if done.refused:
        raise RejectedInput(done.refused[0][1], code="label.refused")
