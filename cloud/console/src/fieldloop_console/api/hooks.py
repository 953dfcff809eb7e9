"""Webhooks: who is told what happens, and who may start a training from outside."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field, ValidationError

from fieldloop_console.api.doors import Admin, Done, Fleet, Here, address_of, not_found
from fieldloop_console.api.learning import Begun, NewRun
from fieldloop_console.console import Console
from fieldloop_console.identity import Actor, NotKnown
from fieldloop_contract.errors import FixConfiguration, RejectedInput
from fieldloop_contract.messages import describe
from fieldloop_runtime.webhook import SECRET_PREFIX, check_url, verify
from fieldloop_store import webhooks
from fieldloop_store.webhooks import DeliveryRow, HookRow

router = APIRouter(tags=["webhooks"])
HookId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]
EventName = Annotated[str, Field(pattern=r"^[a-z0-9-]+(\.[a-z0-9-]+)*(\.\*)?$", max_length=80)]


class NewHook(BaseModel):
    """A webhook. Out: `url` is told of `events` (`run.*`, `rollout.halted`, `alarm.raised`).

    In: a caller that signs with the secret starts a training.
    """

    direction: Literal["in", "out"]
    name: Annotated[str, Field(min_length=1, max_length=200)]
    url: Annotated[str, Field(max_length=2_000)] = ""
    events: Annotated[list[EventName], Field(max_length=50)] = []


class Hook(BaseModel):
    """A webhook without its secret."""

    id: str
    direction: str
    name: str
    url: str
    events: list[str]
    created_by: str
    created_ns: int


class MadeHook(BaseModel):
    """A webhook, and the secret that signs its messages, which is shown this once."""

    hook: Hook
    secret: str


def shown(row: HookRow) -> Hook:
    """A webhook as the API shows it."""
    return Hook(
        id=row.id, direction=row.direction, name=row.name, url=row.url, events=row.events,
        created_by=row.created_by, created_ns=row.created_ns,
    )  # fmt: skip


def _check(url: str) -> None:
    """Raise RejectedInput where nothing can be posted to an address."""
    try:
        check_url(url)
    except (FixConfiguration, ValueError) as error:
        raise RejectedInput(str(error), code="webhook.url") from error


@router.get("/fleets/{fleet}/webhooks")
def list_webhooks(_actor: Admin, fleet: Fleet, here: Here) -> list[Hook]:
    """The fleet's webhooks."""
    return [shown(row) for row in webhooks.list_hooks(here.store, fleet=fleet)]


@router.post("/fleets/{fleet}/webhooks", status_code=201)
def add_webhook(actor: Admin, fleet: Fleet, body: NewHook, here: Here) -> MadeHook:
    """Add a webhook."""
    if body.direction == "out":
        _check(body.url)
    secret = SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()
    row = here.actions.add_hook(
        actor, fleet, direction=body.direction, name=body.name, url=body.url, events=body.events,
        secret=secret,
    )  # fmt: skip
    return MadeHook(hook=shown(row), secret=secret)


@router.delete("/fleets/{fleet}/webhooks/{hook}")
def delete_webhook(actor: Admin, fleet: Fleet, hook: HookId, here: Here) -> Done:
    """Delete a webhook."""
    here.actions.delete_hook(actor, fleet, hook)
    return Done()


@router.get("/fleets/{fleet}/webhooks/{hook}/deliveries")
def list_deliveries(_actor: Admin, fleet: Fleet, hook: HookId, here: Here) -> list[DeliveryRow]:
    """What was sent to a webhook, newest first."""
    row = webhooks.find_hook(here.store, hook)
    if row is None or row.fleet != fleet:
        raise not_found(f"webhook {hook}")
    return webhooks.deliveries_of(here.store, hook)


@router.post("/hooks/{hook}", status_code=202)
async def start_by_webhook(request: Request, hook: HookId, here: Here) -> Begun:
    """Start a training from outside, signed as Standard Webhooks says; no token is needed.

    The body is a `NewRun`. The same message again (`webhook-id`) names the same run.
    """
    body = await request.body()
    headers = {name.lower(): value for name, value in request.headers.items()}
    return await asyncio.to_thread(_start, here, hook, headers, body, address_of(request))


def _start(here: Console, hook: str, headers: dict[str, str], body: bytes, address: str) -> Begun:
    row = webhooks.find_hook(here.store, hook)
    if row is None or row.direction != "in":
        raise not_found(f"webhook {hook}")
    try:
        message = verify(row.secret, headers, body, here.now_ns() // 10**9)
        wanted = NewRun.model_validate_json(body)
    except RejectedInput as error:
        raise NotKnown(str(error), code=error.code) from error
    except ValidationError as error:
        raise RejectedInput(describe(error), code="webhook.body") from error
    actor = Actor(f"webhook {row.name}"[:200], "operator", "hook", address)
    run = hashlib.sha256(f"{hook}\n{message}".encode()).hexdigest()[:32]
    here.actions.start_run(
        actor, row.fleet, model=wanted.model, recipe=wanted.recipe, settings=wanted.settings,
        reason=wanted.reason or f"asked by {row.name}", run=run,
    )  # fmt: skip
    return Begun(run=run)
