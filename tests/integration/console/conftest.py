"""The console's application on a small fleet, without the dashboard, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fieldloop_console import passwords
from fieldloop_console.app import make_app
from fieldloop_console.console import Console, make_console
from fieldloop_console.identity import Actor
from fieldloop_console.settings import ConsoleSettings
from fieldloop_runtime.journal import Journal
from fieldloop_store import access
from fieldloop_store.access import ROLES, Role
from fieldloop_store.backup import copy_sqlite
from fieldloop_store.engine import Store
from support.browser import PASSWORD
from support.console import SmallFleet, small_fleet

HASHED = passwords.hash_password(PASSWORD)


@dataclass
class Site:
    """An application, its console, and a token for each role (of the users of the same names)."""

    app: FastAPI
    console: Console
    fleet: SmallFleet
    tokens: dict[str, str]

    @property
    def store(self) -> Store:
        return self.fleet.store

    def client(self, role: Role | None = None) -> TestClient:
        """A client that sends the token of a role; None for one that says nothing."""
        headers = {"Authorization": f"Bearer {self.tokens[role]}"} if role else {}
        return TestClient(self.app, headers=headers, base_url="http://console.test")

    def browser(self, role: Role = "admin") -> TestClient:
        """A client with a session, as a browser has it."""
        client = self.client()
        answer = client.post("/api/v1/session", json={"name": role, "password": PASSWORD})
        assert answer.status_code == 200, answer.text
        client.headers["X-CSRF-Token"] = answer.json()["csrf"]
        return client


@pytest.fixture(scope="session")
def ready(tmp_path_factory: pytest.TempPathFactory) -> SmallFleet:
    """A small fleet with a user for each role, of which each test gets a copy."""
    _, fleet = small_fleet(tmp_path_factory.mktemp("ready"))
    for role in ROLES:
        access.add_user(fleet.store, role, role, password=HASHED, now_ns=1)
    return fleet


@pytest.fixture
def site(ready: SmallFleet, tmp_path: Path) -> Iterator[Site]:
    """A site of its own."""
    path = tmp_path / "store.sqlite"
    copy_sqlite(Path(str(ready.store.engine.url.database)), path)
    fleet = copy(ready)
    fleet.store = Store.open(f"sqlite:///{path}")
    console = make_console(
        fleet.store, ConsoleSettings(), url="http://console.test", journal=Journal("console")
    )
    tokens = {}
    for role in ROLES:
        actor = Actor(role, role, "system")
        tokens[role] = console.gate.issue_token(actor, "test", role, 1)[1]
    console.pulse.beat()
    yield Site(make_app(console, dashboard=False), console, fleet, tokens)
    console.waveforms.close()
    fleet.store.close()
