"""`fieldloop`: one family of commands, one glossary."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from typing import Annotated

import typer

from fieldloop_console.command import administering, learning, machines, seeing, steering, up
from fieldloop_console.command.client import Account, Client, read_account, write_account
from fieldloop_console.command.context import JsonOption, opened
from fieldloop_console.command.showing import say, show_json, show_pairs
from fieldloop_contract.errors import FieldloopError, FixConfiguration, RetryLater
from fieldloop_runtime.life import ExitCode

app = typer.Typer(
    name="fieldloop",
    help="See the fleet learn, and steer it. A client of the console's API.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    epilog="Exit status: 0 done, 1 refused, 2 wrong usage, 75 try again, 78 log in or settings.",
)
for part in (seeing, machines, learning, steering, administering, up):
    part.register(app)


@app.command()
def login(
    url: Annotated[str, typer.Option(help="Address of the console.")] = "",
    token: Annotated[str, typer.Option(help="A token; otherwise a password is asked.")] = "",
    name: Annotated[str, typer.Option(help="Name of the user.")] = "",
    fleet: Annotated[str, typer.Option(help="The fleet meant where none is named.")] = "",
) -> None:
    """Let this command speak for you, until its token ends."""
    known = read_account(os.environ)
    address = url or known.url
    if not token:
        user = name or typer.prompt("Name")
        password = typer.prompt("Password", hide_input=True)
        token = _token(address, user, password)
    account = Account(address, token, fleet or known.fleet)
    me = Client(account).get("/session")
    path = write_account(os.environ, account)
    say(f"logged in as {me['name']} ({me['role']}); kept in {path}")


def _token(url: str, user: str, password: str) -> str:
    import socket  # noqa: PLC0415

    client = Client(Account(url))
    me = client.ask("POST", "/session", body={"name": user, "password": password})
    client.session(me["csrf"])
    body = {"name": f"fieldloop command on {socket.gethostname()}", "role": me["role"]}
    made = client.ask("POST", "/tokens", body=body)
    client.ask("DELETE", "/session")
    return str(made["secret"])


@app.command()
def config(as_json: JsonOption = False) -> None:
    """Where the console is, who you are there, and which fleet is meant."""
    with opened() as client:
        me = client.get("/session")
        shown = {"url": client.account.url, "user": me["name"], "role": me["role"],
                 "fleet": client.account.fleet or None}  # fmt: skip
    show_json(shown) if as_json else show_pairs(shown)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def demo(context: typer.Context) -> None:
    """Play the whole loop on this machine, on real data; takes the demo's own options."""
    if importlib.util.find_spec("fieldloop_demo") is None:
        raise FixConfiguration("the demo is not installed here", hint="make demo, in the sources")
    command = [sys.executable, "-m", "fieldloop_demo", *context.args]
    raise typer.Exit(subprocess.run(command, check=False).returncode)


def main() -> int:
    """Entry point; returns the exit status."""
    try:
        app(standalone_mode=True)
    except FixConfiguration as error:
        return _fail(error, ExitCode.CONFIGURATION)
    except RetryLater as error:
        return _fail(error, ExitCode.TEMPORARY)
    except FieldloopError as error:
        return _fail(error, ExitCode.FAILED)
    return ExitCode.OK


def _fail(error: FieldloopError, code: ExitCode) -> int:
    sys.stderr.write(f"fieldloop: {error}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
