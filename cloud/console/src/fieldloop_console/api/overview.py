"""Fleets at a glance, and what happened in them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from fieldloop_console.api.doors import (
    After,
    Fleet,
    Here,
    Limit,
    Page,
    TimeQuery,
    Viewer,
    pack_cursor,
    read_cursor,
)
from fieldloop_console.pulse import Figures
from fieldloop_store.accounts import BookRow, books_page
from fieldloop_store.queries import EventCursor, EventRow
from fieldloop_store.rows import LogKey
from fieldloop_store.views import events_page

router = APIRouter(tags=["fleet"])
DeviceQuery = Annotated[str | None, Query(max_length=63)]


@router.get("/fleets")
def list_fleets(_actor: Viewer, here: Here) -> list[str]:
    """Fleets that were named in the settings or heard."""
    return here.pulse.fleets()


@router.get("/fleets/{fleet}")
def show_fleet(_actor: Viewer, fleet: Fleet, here: Here) -> Figures:
    """A fleet in figures, as of a moment ago."""
    return here.pulse.figures(fleet)


@router.get("/fleets/{fleet}/events")
def list_events(
    _actor: Viewer,
    fleet: Fleet,
    here: Here,
    device: DeviceQuery = None,
    type: Annotated[
        list[str] | None, Query(max_length=20, description="a type, or its beginning: `model.*`")
    ] = None,
    since_ns: TimeQuery = None,
    after: After = None,
    limit: Limit = 50,
) -> Page[EventRow]:
    """Events, the newest arrival first."""
    place = read_cursor(after, int, str, str, str, int)
    rows = events_page(
        here.store, fleet, device=device, types=type or (), since_ns=since_ns,
        before=EventCursor(*place) if place else None, limit=limit + 1,
    )  # fmt: skip
    more = rows[limit - 1].cursor if len(rows) > limit else None
    following = None
    if more is not None:
        following = pack_cursor(more.received_ns, more.device, more.service, more.epoch, more.seq)
    return Page(items=rows[:limit], next=following)


@router.get("/fleets/{fleet}/books")
def list_books(
    _actor: Viewer,
    fleet: Fleet,
    here: Here,
    device: DeviceQuery = None,
    faulty: bool = False,
    after: After = None,
    limit: Limit = 100,
) -> Page[BookRow]:
    """The books of each log: what it reports against what the store holds."""
    place = read_cursor(after, str, str, str)
    rows = books_page(
        here.store, fleet, device=device, faulty=faulty,
        after=LogKey(fleet, *place) if place else None, limit=limit + 1,
    )  # fmt: skip
    last = rows[limit - 1].log if len(rows) > limit else None
    following = pack_cursor(last.device, last.service, last.epoch) if last else None
    return Page(items=rows[:limit], next=following)
