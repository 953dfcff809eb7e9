"""What the routes have in common: who asks, which console answers, pages of lists."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Depends, Path, Query, Request
from pydantic import BaseModel

from fieldloop_console.console import Console
from fieldloop_console.gate import same
from fieldloop_console.identity import Actor, NotAllowed, NotKnown
from fieldloop_contract.errors import RejectedInput
from fieldloop_contract.ids import ID_PATTERN
from fieldloop_store.access import Role

COOKIE = "fieldloop_session"
CSRF_HEADER = "x-csrf-token"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
ItemT = TypeVar("ItemT")


class Page(BaseModel, Generic[ItemT]):
    """A page of a list. `next` goes into `after` of the next request; null at the end."""

    items: list[ItemT]
    next: str | None = None
    total: int | None = None


class Done(BaseModel):
    """It was done."""

    done: bool = True


def console_of(request: Request) -> Console:
    """The console that answers."""
    console: Console = request.app.state.console
    return console


def address_of(request: Request) -> str:
    """Where the request comes from."""
    return request.client.host if request.client else ""


def own_origin(request: Request) -> bool:
    """Whether a request that says where it comes from comes from this site."""
    origin = request.headers.get("origin")
    return origin is None or origin.split("://", 1)[-1] == request.headers.get("host", "")


def who(request: Request) -> Actor:
    """Who asks, by token or by session.

    A session's request that changes anything has to say its CSRF token, and to come from this site
    where it says from which it comes. A token is sent by no browser on its own, so it needs none.

    Raises:
        NotKnown: neither, or over.
        NotAllowed: the CSRF token is missing or another.
    """
    console, address = console_of(request), address_of(request)
    header = request.headers.get("authorization")
    if header is not None:
        kind, _, secret = header.partition(" ")
        if kind.lower() != "bearer":
            raise NotKnown("only Bearer tokens are understood", code="access.scheme")
        return console.gate.by_token(secret.strip(), address)
    actor = console.gate.by_session(request.cookies.get(COOKIE, ""), address)
    if actor is None:
        raise NotKnown("log in first, or send a token", hint="Authorization: Bearer fl_...")
    if request.method not in SAFE_METHODS:
        given = request.headers.get(CSRF_HEADER, "")
        if not same(given, actor.csrf) or not own_origin(request):
            raise NotAllowed(
                "the CSRF token is missing or another",
                code="access.csrf",
                hint=f"send the session's csrf as {CSRF_HEADER}",
            )
    return actor


def needs(role: Role) -> Callable[[Request], Actor]:
    """A dependency: who asks, with at least this role."""

    def check(request: Request) -> Actor:
        actor = who(request)
        actor.need(role)
        return actor

    return check


Here = Annotated[Console, Depends(console_of)]
Viewer = Annotated[Actor, Depends(needs("viewer"))]
Operator = Annotated[Actor, Depends(needs("operator"))]
Admin = Annotated[Actor, Depends(needs("admin"))]
Fleet = Annotated[str, Path(pattern=ID_PATTERN, description="id of the fleet")]
IdPath = Annotated[str, Path(pattern=ID_PATTERN)]
Limit = Annotated[int, Query(ge=1, le=500, description="most items of a page")]
After = Annotated[str | None, Query(max_length=1_000, description="`next` of the page before")]
TIME_MAX = (1 << 63) - 1
TimeQuery = Annotated[int | None, Query(ge=0, le=TIME_MAX, description="ns of UTC")]


def pack_cursor(*place: Any) -> str:
    """A place in a list as text that is not meant to be read."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


def read_cursor(cursor: str | None, *kinds: type) -> tuple[Any, ...] | None:
    """The place that a cursor names, of values of these kinds; None for none.

    Raises:
        RejectedInput: it is none of ours.
    """
    if not cursor:
        return None
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        place = json.loads(base64.urlsafe_b64decode(padded.encode()))
        fits = isinstance(place, list) and [type(v) for v in place] == list(kinds)
        if fits and all(abs(v) <= TIME_MAX for v in place if isinstance(v, int)):
            return tuple(place)
    except (ValueError, binascii.Error, RecursionError):
        pass
    raise RejectedInput(
        "that is no place in this list", code="page.after", hint="use `next` of the page before"
    )


def not_found(what: str) -> RejectedInput:
    """There is no such thing."""
    return RejectedInput(f"there is no {what}", code="resource.unknown")
