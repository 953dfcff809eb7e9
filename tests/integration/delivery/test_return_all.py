"""A bad model on forty machines: what the two clicks of a person bring about, and how soon.

The clicks are the console's: abort, and yes. They are one request to its API, which is what is
timed here, up to the moment at which every device's signed order names the version that it had and
the broker has it. How long a device then takes to swap is told by the tests of the device.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from fieldloop_console import passwords
from fieldloop_console.app import make_app
from fieldloop_console.console import make_console
from fieldloop_console.identity import Actor
from fieldloop_console.settings import ConsoleSettings
from fieldloop_runtime.journal import Journal
from fieldloop_store import access
from fieldloop_store.rollouts import list_documents
from support.broker import Mosquitto
from support.delivering import DeliveryProcess, UpdateDevice, wait_for
from support.signed import FLEET

MACHINES, LIMIT_S = 40, 60.0
NAMES = [f"pump-{n}" for n in range(MACHINES)]
GATES = {"windows_min": 20, "quorum": 1.0, "wait_s_max": 3_600}


@pytest.fixture
def delivery(tmp_path: Path) -> Iterator[DeliveryProcess]:
    broker = Mosquitto(tmp_path / "broker").start()
    slots = [
        {"model": "activity", "streams": {"imu": "imu"}, "waves": [{"all": True}], "gates": GATES}
    ]
    made = DeliveryProcess(tmp_path / "delivery", broker.port, slots=slots)
    yield made
    made.close()
    broker.kill()


def person(delivery: DeliveryProcess) -> TestClient:
    """An operator at the console."""
    hashed = passwords.hash_password("a long pass phrase of theirs")
    access.add_user(delivery.store, "ann", "operator", password=hashed, now_ns=1)
    console = make_console(
        delivery.store, ConsoleSettings(), url="http://console.test", journal=Journal("console")
    )
    actor = Actor("ann", "operator", "system")
    token = console.gate.issue_token(actor, "test", "operator", 1)[1]
    return TestClient(
        make_app(console, dashboard=False), base_url="http://console.test",
        headers={"Authorization": f"Bearer {token}"},
    )  # fmt: skip


def orders(delivery: DeliveryProcess) -> set[int]:
    found = {row.device: row.version for row in list_documents(delivery.store, FLEET)}
    return {found.get(name, 0) for name in NAMES}


@pytest.mark.timeout(300)
def test_two_clicks_return_forty_machines_within_a_minute(
    delivery: DeliveryProcess, tmp_path: Path
) -> None:
    good = delivery.register(1)
    for name in NAMES:
        delivery.online(name, active=good, state="ACTIVE")
    delivery.start()
    wait_for(lambda: orders(delivery) == {1}, 60, "the first orders")
    for name in NAMES:
        delivery.windows(name, good, 20)
    delivery.wait_rollout(1, "completed", 60)
    device = UpdateDevice(tmp_path / "device", delivery, NAMES[0]).start()
    try:
        device.ready(1)
        bad = delivery.register(2)
        wait_for(lambda: orders(delivery) == {2}, 60, "the bad version everywhere")
        for name in NAMES:
            delivery.online(name, active=bad, state="ACTIVE")
        device.ready(2)
        row: Any = delivery.wait_rollout(2, "running", 60)
        client = person(delivery)
        begun_s = time.monotonic()
        asked = client.post(
            f"/api/v1/fleets/{FLEET}/rollouts/{row.id}/requests",
            json={"kind": "abort", "why": "all of them alarm"},
        )
        assert asked.status_code == 202, asked.text
        wait_for(lambda: orders(delivery) == {3}, LIMIT_S, "the way back for all")
        wait_for(lambda: len(device.said("ordered")) == 3, LIMIT_S, "a device that hears it")
        took_s = time.monotonic() - begun_s
        path = f"/api/v1/fleets/{FLEET}/requests/{asked.json()['request']}"
        assert client.get(path).json()["state"] == "done"
        delivery.wait_rollout(2, "aborted")
    finally:
        device.kill()
    print(f"{MACHINES} machines ordered back in {took_s:.1f} s")  # noqa: T201 - shown with -s
    assert took_s < LIMIT_S
