"""Log-in and log-out, and who one is."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from fieldloop_console.api.doors import (
    COOKIE,
    Done,
    Here,
    Viewer,
    address_of,
    own_origin,
)
from fieldloop_console.gate import Opened
from fieldloop_console.identity import Actor, NotAllowed
from fieldloop_console.problems import responses
from fieldloop_store import access
from fieldloop_store.access import Role, TokenRow

router = APIRouter(tags=["session"])
Secret = Annotated[str, Field(max_length=1_024)]
Name = Annotated[str, Field(max_length=63)]


class LogIn(BaseModel):
    """Name and password."""

    name: Name
    password: Secret


class Me(BaseModel):
    """Who asks. `csrf` belongs into the header X-CSRF-Token of a session's changing requests."""

    name: str
    role: Role
    via: str
    csrf: str


class NewPassword(BaseModel):
    """The old password and the one to come."""

    old: Secret
    new: Secret


class NewToken(BaseModel):
    """A token to make: `days` null for one that does not end."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    role: Role = "viewer"
    days: Annotated[float, Field(gt=0, le=3_650)] | None = 365


class MadeToken(BaseModel):
    """A token, and its secret, which is shown this once."""

    token: TokenRow
    secret: str


def me(actor: Actor) -> Me:
    """An actor as the API shows it."""
    return Me(name=actor.name, role=actor.role, via=actor.via, csrf=actor.csrf)


def set_cookie(request: Request, response: Response, opened: Opened) -> None:
    """Give the browser its session."""
    response.set_cookie(
        COOKIE,
        opened.secret,
        max_age=opened.lifetime_s,
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
        path="/",
    )


@router.post("/session", responses=responses(429))
def log_in(request: Request, response: Response, body: LogIn, here: Here) -> Me:
    """Open a session; the answer sets its cookie."""
    if not own_origin(request):
        raise NotAllowed("this form came from another site", code="access.origin")
    opened = here.gate.log_in(body.name, body.password, address_of(request))
    set_cookie(request, response, opened)
    return me(opened.actor)


@router.get("/session")
def show_session(actor: Viewer) -> Me:
    """Who asks."""
    return me(actor)


@router.delete("/session")
def log_out(response: Response, actor: Viewer, here: Here) -> Done:
    """End the session."""
    here.gate.log_out(actor)
    response.delete_cookie(COOKIE, path="/")
    return Done()


@router.put("/session/password", responses=responses(429))
def change_password(actor: Viewer, body: NewPassword, here: Here) -> Done:
    """Change one's own password; all one's sessions end."""
    here.actions.change_password(actor, body.old, body.new)
    return Done()


@router.get("/tokens")
def list_tokens(actor: Viewer, here: Here) -> list[TokenRow]:
    """One's own tokens."""
    return access.list_tokens(here.store, actor.name)


@router.post("/tokens", status_code=201)
def add_token(actor: Viewer, body: NewToken, here: Here) -> MadeToken:
    """Make a token with at most one's own role."""
    row, secret = here.actions.add_token(actor, body.name, body.role, body.days)
    return MadeToken(token=row, secret=secret)


@router.delete("/tokens/{token}")
def revoke_token(actor: Viewer, token: str, here: Here) -> Done:
    """Revoke one of one's own tokens."""
    here.actions.revoke_token(actor, token)
    return Done()
