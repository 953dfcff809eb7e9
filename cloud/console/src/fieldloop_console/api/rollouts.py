"""Rollouts: their waves, their evidence, and the levers. Delivery obeys at its next look."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from fieldloop_console.api.doors import Fleet, Here, IdPath, Limit, Operator, Viewer, not_found
from fieldloop_contract.ids import Id
from fieldloop_store import steering
from fieldloop_store.rollouts import MemberRow, RolloutRow, find_rollout, list_rollout_devices
from fieldloop_store.rollouts import list_rollouts as stored_rollouts
from fieldloop_store.steering import AuditRow, Request, audit_trail

router = APIRouter(tags=["rollouts"])
RolloutId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]
Why = Annotated[str, Field(max_length=500)]


class Steer(BaseModel):
    """What to do with a rollout. Abort gives every touched device back what it had."""

    kind: Literal["pause", "resume", "approve", "abort", "retry"]
    why: Why = ""


class Start(BaseModel):
    """A version to roll out, into a lane (a slot) where there are several for its model."""

    model: Id
    version: Annotated[int, Field(ge=1, le=1 << 53)]
    lane: Id | None = None
    why: Why = ""


class Asked(BaseModel):
    """A request; `GET /fleets/{fleet}/requests/{request}` tells what came of it."""

    request: str


@router.get("/fleets/{fleet}/rollouts")
def list_rollouts(
    _actor: Viewer, fleet: Fleet, here: Here, slot: Annotated[
        str | None, Query(max_length=63)
    ] = None,
) -> list[RolloutRow]:  # fmt: skip
    """Rollouts, newest first."""
    return stored_rollouts(here.store, fleet, slot=slot)


@router.post("/fleets/{fleet}/rollouts", status_code=202)
def start_rollout(actor: Operator, fleet: Fleet, body: Start, here: Here) -> Asked:
    """Ask for a rollout."""
    return Asked(
        request=here.actions.start_rollout(
            actor, fleet, body.model, body.version, body.lane, body.why
        )
    )


@router.get("/fleets/{fleet}/rollouts/{rollout}")
def show_rollout(_actor: Viewer, fleet: Fleet, rollout: RolloutId, here: Here) -> RolloutRow:
    """One rollout."""
    row = find_rollout(here.store, fleet, rollout)
    if row is None:
        raise not_found(f"rollout {rollout}")
    return row


@router.post("/fleets/{fleet}/rollouts/{rollout}/requests", status_code=202)
def steer_rollout(
    actor: Operator, fleet: Fleet, rollout: RolloutId, body: Steer, here: Here
) -> Asked:
    """Ask to pause, resume, approve, abort or retry."""
    return Asked(request=here.actions.steer_rollout(actor, fleet, body.kind, rollout, body.why))


@router.get("/fleets/{fleet}/requests/{request}")
def show_request(_actor: Viewer, fleet: Fleet, request: IdPath, here: Here) -> Request:
    """What came of a request: waiting, done or refused, with the answer in words."""
    found = steering.find_request(here.store, request)
    if found is None or found.fleet != fleet:
        raise not_found(f"request {request}")
    return found


@router.get("/fleets/{fleet}/rollouts/{rollout}/devices")
def list_members(
    _actor: Viewer, fleet: Fleet, rollout: RolloutId, here: Here, after: Annotated[
        str, Query(max_length=63)
    ] = "", limit: Limit = 100,
) -> list[MemberRow]:  # fmt: skip
    """Devices that a rollout touched or kept as they are, by id, beginning after `after`."""
    return list_rollout_devices(here.store, fleet, rollout, after=after, limit=limit)


@router.get("/fleets/{fleet}/rollouts/{rollout}/trail")
def list_trail(
    _actor: Viewer, fleet: Fleet, rollout: RolloutId, here: Here, limit: Limit = 100
) -> list[AuditRow]:
    """Who did what to a rollout, and on which evidence, oldest first."""
    return audit_trail(here.store, fleet, rollout=rollout, limit=limit)
