"""Commands for administrators: users and the audit."""

from __future__ import annotations

from typing import Annotated

import typer

from fieldloop_console.command.context import JsonOption, MostOption, opened
from fieldloop_console.command.showing import moment, say, show_json, show_table

users = typer.Typer(help="Users: list, add, change, delete; the audit.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(users, name="users")


@users.command("list")
def list_users(as_json: JsonOption = False) -> None:
    """All users."""
    with opened() as client:
        rows = client.get("/users")
    if as_json:
        show_json(rows)
        return
    show_table(
        rows,
        {"name": "name", "role": "role", "state": "state", "password set": "has_password",
         "added": lambda u: moment(u["created_ns"])},
        nothing="no users",
    )  # fmt: skip


@users.command("add")
def add(
    name: str, role: Annotated[str, typer.Option(help="viewer, operator or admin")] = "viewer"
) -> None:
    """Add a user; prints the link by which they set their password."""
    with opened() as client:
        say(client.ask("POST", "/users", body={"name": name, "role": role})["link"])


@users.command("link")
def link(name: str) -> None:
    """Print a link by which a user sets a new password."""
    with opened() as client:
        say(client.ask("POST", f"/users/{name}/link")["link"])


@users.command("role")
def role(name: str, role: str) -> None:
    """Give a user another role."""
    with opened() as client:
        client.ask("PATCH", f"/users/{name}", body={"role": role})
    say(f"{name} is {role}")


@users.command("disable")
def disable(name: str) -> None:
    """Keep a user out; sessions and tokens end at once."""
    with opened() as client:
        client.ask("PATCH", f"/users/{name}", body={"disabled": True})
    say(f"{name} is out")


@users.command("enable")
def enable(name: str) -> None:
    """Let a disabled user in again."""
    with opened() as client:
        client.ask("PATCH", f"/users/{name}", body={"disabled": False})
    say(f"{name} may come in")


@users.command("delete")
def delete(name: str) -> None:
    """Delete a user."""
    with opened() as client:
        client.ask("DELETE", f"/users/{name}")
    say(f"{name} is deleted")


@users.command("audit")
def audit(most: MostOption = 50, as_json: JsonOption = False) -> None:
    """Who did what, newest first."""
    with opened() as client:
        rows = list(client.pages("/audit", most))
    if as_json:
        show_json(rows)
        return
    show_table(
        rows,
        {"when": lambda r: moment(r["at_ns"]), "who": "actor", "via": "via", "what": "action",
         "on": "target", "outcome": "outcome", "from": "address"},
        nothing="nothing was done yet",
    )  # fmt: skip
