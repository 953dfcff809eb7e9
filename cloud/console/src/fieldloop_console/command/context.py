"""What commands have in common: options, and the client."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from fieldloop_console.command.client import Client, read_account

JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON.")]
FleetOption = Annotated[
    str | None, typer.Option("--fleet", help="Id of the fleet; the only one by default.")
]
MostOption = Annotated[int, typer.Option("--most", min=1, max=100_000, help="Most rows.")]


@contextmanager
def opened() -> Iterator[Client]:
    """A client of the console that the account names."""
    yield Client(read_account(os.environ))
