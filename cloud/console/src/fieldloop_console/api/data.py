"""Signals and labels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from fieldloop_console.api.doors import (
    TIME_MAX,
    Fleet,
    Here,
    IdPath,
    Operator,
    Viewer,
    not_found,
)
from fieldloop_console.waveform import BINS_MAX, Wanted
from fieldloop_contract.errors import RejectedInput
from fieldloop_contract.ids import Id
from fieldloop_store.labels import Imported
from fieldloop_store.queries import AnnotationRow
from fieldloop_store.signals import StreamView, raw_frames, streams_of
from fieldloop_store.views import known_labels, labels_within

router = APIRouter(tags=["data"])
CSV_FRAMES_MAX = 200_000
TimeNs = Annotated[int, Query(ge=0, le=TIME_MAX, description="ns of UTC")]


class Signal(BaseModel):
    """A signal reduced to bins: least and greatest sample of each, null where there is none.

    `exact` says whether every sample of the span is in it; while `coming`, ask again.
    """

    t0_ns: int
    t1_ns: int
    t_ns: list[int]
    low: list[list[float | None]]
    high: list[list[float | None]]
    frames: int
    exact: bool
    coming: bool


class Label(BaseModel):
    """A label of a span of a stream's time."""

    device: Id
    stream: Id
    t0_ns: Annotated[int, Field(ge=0, le=TIME_MAX)]
    t1_ns: Annotated[int, Field(ge=0, le=TIME_MAX)]
    label: Annotated[str, Field(min_length=1, max_length=200)]
    confidence: Annotated[float, Field(ge=0, le=1)] = 1.0


class Labels(BaseModel):
    """Labels to store, under the name of whoever sends them."""

    labels: Annotated[list[Label], Field(min_length=1, max_length=1_000)]


@router.get("/fleets/{fleet}/devices/{device}/streams")
def list_streams(_actor: Viewer, fleet: Fleet, device: IdPath, here: Here) -> list[StreamView]:
    """The streams of which the device has sent frames."""
    return streams_of(here.store, fleet, device)


@router.get("/fleets/{fleet}/devices/{device}/streams/{stream}/signal")
def show_signal(
    _actor: Viewer,
    fleet: Fleet,
    device: IdPath,
    stream: IdPath,
    here: Here,
    t0_ns: TimeNs,
    t1_ns: TimeNs,
    bins: Annotated[int, Query(ge=1, le=BINS_MAX)] = 800,
    chosen: Annotated[bool, Query(description="of the selected samples")] = False,
) -> Signal:
    """A span of a signal, reduced on the server to as many bins as asked for."""
    if t1_ns <= t0_ns:
        raise RejectedInput("a span ends after it begins", code="signal.span")
    found = here.waveforms.picture(Wanted(fleet, device, stream, t0_ns, t1_ns, bins, chosen))
    return Signal(
        t0_ns=t0_ns,
        t1_ns=t1_ns,
        t_ns=found.t_ns.tolist(),
        low=_numbers(found.low.tolist()),
        high=_numbers(found.high.tolist()),
        frames=found.frames,
        exact=found.exact,
        coming=found.coming,
    )


@router.get(
    "/fleets/{fleet}/devices/{device}/streams/{stream}/samples.csv",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/csv": {}}}},
)
def download_samples(
    _actor: Viewer, fleet: Fleet, device: IdPath, stream: IdPath, here: Here, t0_ns: TimeNs,
    t1_ns: TimeNs, chosen: bool = False,
) -> StreamingResponse:  # fmt: skip
    """Every sample of the frames that begin in the span, as CSV, at most `CSV_FRAMES_MAX`."""
    named = {s.stream: s for s in streams_of(here.store, fleet, device, chosen=chosen)}
    if stream not in named:
        raise not_found(f"stream {stream} of {device}")
    return StreamingResponse(
        _csv(here, named[stream], fleet, t0_ns, t1_ns, chosen),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{device}-{stream}.csv"'},
    )


def _csv(
    here: Here, view: StreamView, fleet: str, t0_ns: int, t1_ns: int, chosen: bool
) -> Iterator[str]:
    yield ",".join(["t_ns", *(_cell(n) for n in view.names)]) + "\r\n"
    left, at_ns = CSV_FRAMES_MAX, t0_ns
    while left > 0:
        piece = raw_frames(
            here.store, fleet, view.device, view.stream, at_ns, t1_ns, limit=min(left, 500),
            chosen=chosen,
        )  # fmt: skip
        for start_ns, rate_hz, channels, samples in piece:
            if channels == view.channels:
                values = np.frombuffer(samples, "<f4").reshape(-1, channels)
                for i, row in enumerate(values.tolist()):
                    t_ns = start_ns + round(i * 1e9 / rate_hz)
                    yield f"{t_ns}," + ",".join(f"{v:.9g}" for v in row) + "\r\n"
        if len(piece) < min(left, 500):
            return
        left, at_ns = left - len(piece), piece[-1][0] + 1


def _cell(text: str) -> str:
    """A name as a cell: quoted, and never a formula for a spreadsheet."""
    safe = "'" + text if text[:1] in "=+-@" else text
    return '"' + safe.replace('"', '""') + '"'


def _numbers(rows: list[list[float]]) -> list[list[float | None]]:
    """JSON has no NaN: null."""
    return [[None if math.isnan(v) else v for v in row] for row in rows]


@router.get("/fleets/{fleet}/devices/{device}/streams/{stream}/labels")
def list_labels(
    _actor: Viewer, fleet: Fleet, device: IdPath, stream: IdPath, here: Here, t0_ns: TimeNs,
    t1_ns: TimeNs,
) -> list[AnnotationRow]:  # fmt: skip
    """Labels that touch the span, the latest first, at most 500."""
    return labels_within(here.store, fleet, device, stream, t0_ns, t1_ns)


@router.get("/fleets/{fleet}/labels")
def list_label_names(_actor: Viewer, fleet: Fleet, here: Here) -> list[str]:
    """What labels say, the most used first."""
    return known_labels(here.store, fleet)


@router.post("/fleets/{fleet}/labels", status_code=201)
def add_labels(
    actor: Operator,
    fleet: Fleet,
    body: Labels,
    here: Here,
    idempotency_key: Annotated[
        str, Header(max_length=200, description="the same labels with the same key: stored once")
    ] = "",
) -> Imported:
    """Store labels; each that is refused is named with its place and the reason."""
    items: list[dict[str, Any]] = [label.model_dump() for label in body.labels]
    return here.actions.add_labels(actor, fleet, items, key=idempotency_key)
