"""Alarms: what stands, what people said of it."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from fieldloop_console.api.doors import (
    After,
    Fleet,
    Here,
    Limit,
    Operator,
    Page,
    Viewer,
    not_found,
    pack_cursor,
    read_cursor,
)
from fieldloop_store import alarms
from fieldloop_store.alarms import AlarmRow, HistoryRow
from fieldloop_store.lifecycle import Verdict

router = APIRouter(tags=["alarms"])
AlarmId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]


class AlarmDetail(BaseModel):
    """An alarm and what happened to it, oldest first."""

    alarm: AlarmRow
    history: list[HistoryRow]


class Act(BaseModel):
    """What to do: acknowledge; judge with a `verdict`; shelve for `hours`, saying `why`."""

    kind: Literal["acknowledge", "judge", "shelve"]
    verdict: Verdict = "fault"
    hours: Annotated[float, Field(gt=0, le=24 * 30)] = 8
    why: Annotated[str, Field(max_length=200)] = ""


@router.get("/fleets/{fleet}/alarms")
def list_alarms(
    _actor: Viewer,
    fleet: Fleet,
    here: Here,
    open: bool = False,
    machine: Annotated[str | None, Query(max_length=63)] = None,
    device: Annotated[str | None, Query(max_length=63)] = None,
    after: After = None,
    limit: Limit = 100,
) -> Page[AlarmRow]:
    """Alarms, newest first."""
    place = read_cursor(after, int, str)
    rows = alarms.list_alarms(
        here.store, fleet, open_only=open, machine=machine, device=device,
        before=(place[0], place[1]) if place else None, limit=limit + 1,
    )  # fmt: skip
    last = rows[limit - 1] if len(rows) > limit else None
    following = pack_cursor(last.life.raised_ns, last.id) if last else None
    return Page(items=rows[:limit], next=following)


@router.get("/fleets/{fleet}/alarms/{alarm}")
def show_alarm(_actor: Viewer, fleet: Fleet, alarm: AlarmId, here: Here) -> AlarmDetail:
    """One alarm."""
    row = alarms.find_alarm(here.store, fleet, alarm)
    if row is None:
        raise not_found(f"alarm {alarm}")
    return AlarmDetail(alarm=row, history=alarms.history_of(here.store, fleet, alarm))


@router.post("/fleets/{fleet}/alarms/{alarm}")
def act_on_alarm(actor: Operator, fleet: Fleet, alarm: AlarmId, body: Act, here: Here) -> AlarmRow:
    """Acknowledge it, say what it was, or hear nothing of it for some hours."""
    if body.kind == "acknowledge":
        return here.actions.acknowledge_alarm(actor, fleet, alarm)
    if body.kind == "judge":
        return here.actions.judge_alarm(actor, fleet, alarm, body.verdict)
    return here.actions.shelve_alarm(actor, fleet, alarm, body.hours, body.why)
