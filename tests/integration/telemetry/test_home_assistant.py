"""Home Assistant's discovery and the fleet's metrics, over a real broker."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fieldloop_contract.messages import ModelRef, Reported, SlotState, Status
from fieldloop_runtime.mqtt import Received, Session
from fieldloop_runtime.settings import MqttSettings
from fieldloop_store.devices import retire_device
from fieldloop_store.engine import Store
from support.broker import Mosquitto, free_port
from support.telemetry import DIGEST, Device, TelemetryProcess, result, rows, wait_until

CONFIG = "homeassistant/device/fieldloop_demo_subject-1/config"
STATE = "fieldloop-ha/demo/subject-1"
FOREIGN = "homeassistant/device/zigbee/config"


class Home:
    """Home Assistant's side: what stands on its topics."""

    def __init__(self, port: int) -> None:
        self.session = Session(
            MqttSettings(port=port),
            "home-assistant",
            subscriptions=["homeassistant/#", "fieldloop-ha/#"],
        )
        self.standing: dict[str, bytes] = {}
        self.came: list[str] = []
        self.session.start()
        wait_until(lambda: self.session.connected)

    def look(self) -> dict[str, bytes]:
        while (event := self.session.poll()) is not None:
            if isinstance(event, Received):
                self.came.append(event.topic)
                self.standing[event.topic] = event.payload
                if not event.payload:
                    del self.standing[event.topic]
        return self.standing

    def state(self) -> dict[str, Any]:
        return dict(json.loads(self.look().get(STATE, b'{"slots": {}}'))["slots"].get("main", {}))


@pytest.fixture
def home(mosquitto: Mosquitto) -> Iterator[Home]:
    """Home Assistant."""
    made = Home(mosquitto.port)
    yield made
    made.session.stop()


def report(device: Device, version: int) -> None:
    active = ModelRef(name="activity", version=version, digest=DIGEST)
    slot = SlotState(slot="main", state="ACTIVE", active=active)
    device.send("inference", "status", Status(state="online", session="s").encode(), retain=True)
    device.send("inference", "reported", Reported(session="s", slots=[slot]).encode(), retain=True)


def test_a_device_appears_follows_its_model_and_is_cleaned_up(
    tmp_path: Path, mosquitto: Mosquitto, home: Home, device: Device, url: str
) -> None:
    port = free_port()
    settings = {
        "FIELDLOOP_HOME_ASSISTANT_MODE": "on",
        "FIELDLOOP_HOME_ASSISTANT_INTERVAL_S": "0.2",
        "FIELDLOOP_CARE_FIGURES_INTERVAL_S": "0.2",
        "FIELDLOOP_CARE_AUDIT_INTERVAL_S": "0.2",
        "FIELDLOOP_HEALTH_PORT": str(port),
    }
    home.session.publish(FOREIGN, b'{"o": {"name": "other"}}', retain=True)
    service = TelemetryProcess(tmp_path, mosquitto.port, url, **settings).start()
    report(device, 1)
    wait_until(lambda: home.state().get("installed") == "1")
    device.send("inference", "results", rows([(1, result(1))]))
    wait_until(lambda: home.state().get("label") == "PEN")
    wait_until(lambda: "main_label" in json.loads(home.look()[CONFIG])["cmps"])
    report(device, 2)
    wait_until(lambda: home.state().get("installed") == "2")

    before = home.came.count(CONFIG)
    home.session.publish("homeassistant/status", b"online")
    wait_until(lambda: bool(home.look()) and home.came.count(CONFIG) > before)

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        told = answer.read().decode()
    assert 'fieldloop_fleet_devices_online{fleet="demo"} 1.0' in told
    assert 'fieldloop_fleet_models{fleet="demo",model="activity",slot="main",version="2"}' in told
    assert 'fieldloop_fleet_logs_unreported{fleet="demo"} 1.0' in told

    store = Store.open(url)
    retire_device(store, "demo", "subject-1", actor="anna", now_ns=1)
    wait_until(lambda: CONFIG not in home.look() and STATE not in home.look())
    store.close()
    assert FOREIGN in home.look()
    assert service.stop() == 0


def test_what_an_earlier_run_announced_is_cleared(
    tmp_path: Path, mosquitto: Mosquitto, home: Home, device: Device, url: str
) -> None:
    settings = {"FIELDLOOP_HOME_ASSISTANT_INTERVAL_S": "0.2"}
    on = {"FIELDLOOP_HOME_ASSISTANT_MODE": "on"}
    service = TelemetryProcess(tmp_path, mosquitto.port, url, **settings, **on).start()
    home.session.publish(FOREIGN, b'{"o": {"name": "other"}}', retain=True)
    report(device, 1)
    wait_until(lambda: {CONFIG, STATE} <= home.look().keys())
    service.kill()
    clear = {"FIELDLOOP_HOME_ASSISTANT_MODE": "clear"}
    service = TelemetryProcess(tmp_path, mosquitto.port, url, **settings, **clear).start()
    wait_until(lambda: home.look().keys() == {FOREIGN})
    assert service.stop() == 0
