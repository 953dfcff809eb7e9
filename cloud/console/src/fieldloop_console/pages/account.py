"""Access: one's own tokens; for administrators the users, the audit, the webhooks."""

from __future__ import annotations

import asyncio
from typing import cast

from fastapi import Request
from fastapi.responses import Response

from fieldloop_console.console import Console
from fieldloop_console.identity import Actor
from fieldloop_console.pages.dialogs import ask, ask_text, show_secret
from fieldloop_console.pages.shell import Visit, crowded, frame, page, page_main, visit_of
from fieldloop_console.rendering import render
from fieldloop_store import access
from fieldloop_store.access import Role, check_role
from fieldloop_store.trail import trail
from fieldloop_store.webhooks import list_hooks

TRAIL_SHOWN = 60
TOKEN_DAYS = 365.0


def register(console: Console) -> None:
    """Add the page."""

    @page("/account")
    async def account(request: Request) -> Response | None:
        if (full := crowded(console)) is not None:
            return full
        fleets = console.pulse.fleets()
        visit = visit_of(console, request, fleets[0] if fleets else "")
        frame(visit, "Access", "account")
        with page_main():
            await visit.part(lambda: _own(visit))
            if visit.actor.may("admin"):
                await visit.part(lambda: _users(visit), tag="section", classes="card")
                await visit.part(lambda: _trail(visit), tag="section", classes="card")
        _actions(visit)
        visit.live()
        return None


def _own(visit: Visit) -> str:
    actor = visit.now()
    tokens = access.list_tokens(visit.console.store, actor.name)
    roles = [role for role in access.ROLES if actor.may(role)]
    return render("account/own.html", actor=actor, tokens=tokens, roles=roles)


def _users(visit: Visit) -> str:
    store = visit.console.store
    return render(
        "account/users.html", users=access.list_users(store), roles=access.ROLES,
        me=visit.actor.name, hooks=list_hooks(store),
    )  # fmt: skip


def _trail(visit: Visit) -> str:
    return render("account/trail.html", rows=trail(visit.console.store, limit=TRAIL_SHOWN))


def _actions(visit: Visit) -> None:
    does, url = visit.console.actions, visit.console.url

    async def token(actor: Actor, given: dict[str, str]) -> None:
        role = cast(Role, given.get("role", "viewer"))
        name = given.get("name", "").strip() or "unnamed"
        _, secret = await asyncio.to_thread(does.add_token, actor, name, role, TOKEN_DAYS)
        await show_secret(f"Token {name}", "It is shown this once. It lasts a year.", secret)

    async def revoke(actor: Actor, given: dict[str, str]) -> None:
        await asyncio.to_thread(does.revoke_token, actor, given.get("token", ""))

    async def add_user(actor: Actor, given: dict[str, str]) -> None:
        name, role = given.get("name", "").strip(), check_role(given.get("role", ""))
        secret = await asyncio.to_thread(does.add_user, actor, name, role)
        words = f"Give this link to {name}. It sets their password, once, within a day."
        await show_secret(f"{name} was added", words, f"{url}/welcome/{secret}")

    async def link(actor: Actor, given: dict[str, str]) -> None:
        secret = await asyncio.to_thread(does.new_link, actor, given["user"])
        words = f"Give this link to {given['user']}. It sets a new password, once, within a day."
        await show_secret("A new link", words, f"{url}/welcome/{secret}")

    async def role(actor: Actor, given: dict[str, str]) -> None:
        text = await ask_text(
            f"Role of {given['user']}", "viewer, operator or admin", given.get("role", ""), "Save"
        )
        if text:
            await asyncio.to_thread(
                lambda: does.change_user(actor, given["user"], role=check_role(text.strip()))
            )

    async def disable(actor: Actor, given: dict[str, str]) -> None:
        off = given.get("off") == "yes"
        await asyncio.to_thread(lambda: does.change_user(actor, given["user"], disabled=off))

    async def delete(actor: Actor, given: dict[str, str]) -> None:
        words = "All their sessions and tokens end. What the audit says of them stays."
        if await ask(f"Delete {given['user']}?", words, "Delete", danger=True):
            await asyncio.to_thread(does.delete_user, actor, given["user"])

    visit.on("token-add", token)
    visit.on("token-revoke", revoke)
    visit.on("user-add", add_user)
    visit.on("user-link", link)
    visit.on("user-role", role)
    visit.on("user-disable", disable)
    visit.on("user-delete", delete)
