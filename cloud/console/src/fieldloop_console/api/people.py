"""Users and the audit: for administrators."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from fieldloop_console.api.doors import (
    Admin,
    After,
    Done,
    Here,
    IdPath,
    Limit,
    Page,
    pack_cursor,
    read_cursor,
)
from fieldloop_console.problems import responses
from fieldloop_contract.ids import Id
from fieldloop_store import access
from fieldloop_store.access import Role
from fieldloop_store.trail import TrailRow, trail

router = APIRouter(tags=["administration"])


class User(BaseModel):
    """A user."""

    name: str
    role: Role
    state: str
    has_password: bool
    created_ns: int


class NewUser(BaseModel):
    """A user to add."""

    name: Id
    role: Role = "viewer"


class UserChange(BaseModel):
    """What to change of a user; what is not given stays."""

    role: Role | None = None
    disabled: bool | None = None


class Link(BaseModel):
    """A link by which a user sets a password, once, within a day."""

    link: str


@router.get("/users")
def list_users(_actor: Admin, here: Here) -> list[User]:
    """All users."""
    return [
        User(
            name=u.name, role=u.role, state=u.state, has_password=u.password is not None,
            created_ns=u.created_ns,
        )
        for u in access.list_users(here.store)
    ]  # fmt: skip


@router.post("/users", status_code=201, responses=responses(409))
def add_user(actor: Admin, body: NewUser, here: Here) -> Link:
    """Add a user; the answer's link is for them."""
    return Link(link=f"{here.url}/welcome/{here.actions.add_user(actor, body.name, body.role)}")


@router.patch("/users/{name}", responses=responses(409))
def change_user(actor: Admin, name: IdPath, body: UserChange, here: Here) -> Done:
    """Change a user's role, or disable or enable them."""
    here.actions.change_user(actor, name, role=body.role, disabled=body.disabled)
    return Done()


@router.delete("/users/{name}", responses=responses(409))
def delete_user(actor: Admin, name: IdPath, here: Here) -> Done:
    """Delete a user."""
    here.actions.delete_user(actor, name)
    return Done()


@router.post("/users/{name}/link", status_code=201)
def new_link(actor: Admin, name: IdPath, here: Here) -> Link:
    """A new link for a user who forgot the password."""
    return Link(link=f"{here.url}/welcome/{here.actions.new_link(actor, name)}")


@router.get("/audit")
def list_audit(
    _actor: Admin,
    here: Here,
    actor: Annotated[str | None, Query(max_length=200)] = None,
    action: Annotated[str | None, Query(max_length=63)] = None,
    after: After = None,
    limit: Limit = 50,
) -> Page[TrailRow]:
    """Who did what, newest first."""
    place = read_cursor(after, int)
    rows = trail(
        here.store, before=place[0] if place else None, actor=actor, action=action, limit=limit + 1
    )
    following = pack_cursor(rows[limit - 1].id) if len(rows) > limit else None
    return Page(items=rows[:limit], next=following)
