"""`fieldloop-console`: run the service, or help whoever is locked out.

The composition root: settings are read here, once, and everything is passed on from here.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from fieldloop_console import passwords
from fieldloop_console.gate import LINK_HOURS
from fieldloop_console.service import serve
from fieldloop_console.settings import ConsoleSettings
from fieldloop_contract.errors import FieldloopError, FixConfiguration
from fieldloop_runtime.journal import configure
from fieldloop_runtime.life import ExitCode, run
from fieldloop_runtime.settings import help_text, load
from fieldloop_store import access
from fieldloop_store.engine import Store

_ABOUT = """\
Serves the REST API and the dashboard.

  run            serve until stopped; where there is no user yet, prints a link to make the first
  link NAME      print a one-time link by which a user sets a new password
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fieldloop-console",
        description=_ABOUT,
        epilog=help_text(ConsoleSettings),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    commands.add_parser("run", help="serve until stopped")
    link = commands.add_parser("link", help="a one-time link for a user")
    link.add_argument("name", help="the user's name")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    given = _parser().parse_args(arguments)
    try:
        settings = load(ConsoleSettings, os.environ)
    except FixConfiguration as error:
        sys.stderr.write(f"fieldloop-console: {error}\n")
        return ExitCode.CONFIGURATION
    if given.command == "run":
        configure(settings.log_level)
        return run("console", lambda life: serve(life, settings))
    try:
        sys.stdout.write(_link(settings, given.name) + "\n")
    except FieldloopError as error:
        sys.stderr.write(f"fieldloop-console: {error}\n")
        return ExitCode.FAILED
    return ExitCode.OK


def _link(settings: ConsoleSettings, name: str) -> str:
    store = Store.open(settings.store_url, create=False)
    if access.count_users(store) and access.find_user(store, name) is None:
        raise FixConfiguration(f"there is no user {name}")
    secret, now_ns = passwords.new_secret(), time.time_ns()
    until_ns = now_ns + LINK_HOURS * 3_600 * 10**9
    access.add_link(
        store, passwords.digest_of(secret), name, created_by="command", now_ns=now_ns,
        expires_ns=until_ns,
    )  # fmt: skip
    base = settings.url or f"http://{settings.host}:{settings.port}"
    return f"{base.rstrip('/')}/welcome/{secret}"


if __name__ == "__main__":
    sys.exit(main())
