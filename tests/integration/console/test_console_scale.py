"""No page reads the store from end to end: its work stays small while the fleet grows.

Work is counted by SQLite itself, in steps of its virtual machine, so that no clock decides.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event

from fieldloop_console import passwords
from fieldloop_console.app import make_app
from fieldloop_console.console import make_console
from fieldloop_console.settings import ConsoleSettings
from fieldloop_runtime.journal import Journal
from fieldloop_store import access
from fieldloop_store.engine import Store
from support.bigfleet import FLEET, ROLLOUT, RUN, STREAM, fill
from support.browser import PASSWORD

DEVICES, FRAMES = 1_000, 200_000
BASE = f"/f/{FLEET}"
PAGES = [
    BASE, f"{BASE}/machines", f"{BASE}/machines?text=pump-005", f"{BASE}/machines/pump-00000",
    f"{BASE}/devices", f"{BASE}/devices?text=dev-0050", f"{BASE}/devices?online=no",
    f"{BASE}/devices/dev-00000", f"{BASE}/data", f"{BASE}/data?books=faulty",
    f"{BASE}/data?device=dev-00000&stream={STREAM}", f"{BASE}/training",
    f"{BASE}/training/{RUN}", f"{BASE}/models", f"{BASE}/models/activity/1", f"{BASE}/rollouts",
    f"{BASE}/rollouts/{ROLLOUT}", f"{BASE}/fleet", "/account",
]  # fmt: skip
STEPS_MAX, STEPS_LONG_MAX = 60_000, 200_000
"""Of one page; those of machines look at samples of weeks, the pulse at all services and ledgers.
The index of all frames takes a million."""
STATEMENTS_MAX = 500
_GRAIN = 1_000
_WIDE = ("frames", "samples", "results", "events", "annotations")


@dataclass
class Work:
    """What SQLite did: steps of its machine, and the statements that were run."""

    steps: int = 0
    statements: list[tuple[str, Any]] = field(default_factory=list)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Begin anew."""
        self.steps = 0
        self.statements.clear()
        yield


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Work]]:
    """A client of a console on a fleet of a thousand devices, and what its store has to do."""
    path: Path = tmp_path_factory.mktemp("big") / "store.sqlite"
    store = Store.open(f"sqlite:///{path}", checkpoints=True)
    fill(store, DEVICES, FRAMES, now_ns=time.time_ns())
    store.close()
    store = Store.open(f"sqlite:///{path}")
    work = Work()

    @event.listens_for(store.engine, "connect")
    def on_connect(connection: sqlite3.Connection, _record: Any) -> None:
        def step() -> None:
            work.steps += _GRAIN

        connection.set_progress_handler(step, _GRAIN)

    @event.listens_for(store.engine, "before_cursor_execute")
    def on_execute(_c: Any, _cursor: Any, statement: str, given: Any, *_: Any) -> None:
        work.statements.append((statement, given))

    store.engine.dispose()
    access.add_user(store, "ada", "admin", password=passwords.hash_password(PASSWORD), now_ns=1)
    console = make_console(
        store, ConsoleSettings(), url="http://console.test", journal=Journal("console")
    )
    console.pulse.beat()
    with TestClient(make_app(console), base_url="http://console.test") as client:
        answer = client.post("/api/v1/session", json={"name": "ada", "password": PASSWORD})
        assert answer.status_code == 200, answer.text
        yield client, work
    store.close()


@pytest.mark.parametrize("path", PAGES)
def test_a_page_reads_no_more_than_it_shows(big: tuple[Any, Work], path: str):
    client, work = big
    with work.watched():
        answer = client.get(path)
    assert answer.status_code == 200, answer.text[:300]
    assert work.statements, "the store was asked"
    most = STEPS_LONG_MAX if "/machines" in path else STEPS_MAX
    assert work.steps <= most, f"{path}: {work.steps:,} steps"
    assert len(work.statements) <= STATEMENTS_MAX
    engine = client.app.state.console.store.engine
    with engine.connect() as connection:
        raw = connection.connection.dbapi_connection
        for statement, given in list(work.statements):
            if statement.startswith(("SELECT", "WITH")):
                plan = [r[3] for r in raw.execute(f"EXPLAIN QUERY PLAN {statement}", given)]
                read = [p.split()[1] for p in plan if p.startswith("SCAN")]
                assert not set(read) & set(_WIDE), f"{path}: {plan} of {statement}"


def test_the_pulse_costs_the_same_however_many_rows_there_are(big: tuple[Any, Work]):
    client, work = big
    with work.watched():
        client.app.state.console.pulse.beat()
    assert work.steps <= STEPS_LONG_MAX, f"{work.steps:,} steps"
