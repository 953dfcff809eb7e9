"""The examples of docs/subscribers.md, run as they stand; the dashboard's metrics exist."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from fieldloop_contract.messages import ModelRef, Reported, SlotState, Status
from fieldloop_telemetry.fleetmetrics import FleetMetrics
from fieldloop_telemetry.metrics import Metrics
from support.broker import Mosquitto
from support.telemetry import DIGEST, Device, TelemetryProcess, event, result, rows

DOCS = Path(__file__).resolve().parents[3] / "docs"
_PAGE = (DOCS / "subscribers.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ (mosquitto_sub .*)$", _PAGE, re.MULTILINE)


def test_every_example_prints_a_message(
    tmp_path: Path, mosquitto: Mosquitto, device: Device, url: str
) -> None:
    if shutil.which("mosquitto_sub") is None:
        pytest.skip("mosquitto_sub is not installed (Debian: apt-get install mosquitto-clients)")
    settings = {
        "FIELDLOOP_HOME_ASSISTANT_MODE": "on",
        "FIELDLOOP_HOME_ASSISTANT_INTERVAL_S": "0.2",
    }
    service = TelemetryProcess(tmp_path, mosquitto.port, url, **settings).start()
    active = ModelRef(name="activity", version=1, digest=DIGEST)
    slot = SlotState(slot="main", state="ACTIVE", active=active)
    device.send("inference", "status", Status(state="online", session="s").encode(), retain=True)
    device.send("inference", "reported", Reported(session="s", slots=[slot]).encode(), retain=True)
    assert len(COMMANDS) >= 7
    readers = []
    for command in COMMANDS:
        words = shlex.split(command.replace("-p 1883", f"-p {mosquitto.port}"))
        readers.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
    for seq in range(1, 200):
        device.send("inference", "results", rows([(2 * seq, result(2 * seq))]))
        device.send("inference", "events", rows([(2 * seq + 1, event(2 * seq + 1))]))
        if all(reader.poll() is not None for reader in readers):
            break
        try:
            readers[-1].wait(0.1)
        except subprocess.TimeoutExpired:
            continue
    for command, reader in zip(COMMANDS, readers, strict=True):
        out, _ = reader.communicate(timeout=20)
        assert reader.returncode == 0, command
        payload = out[out.index("{") :]
        document = json.loads(payload)
        if "/events" in command:
            attributes = {"specversion", "id", "source", "type", "time"}
            assert attributes <= document["rows"][0].keys()
        if "/results" in command:
            assert document["rows"][0]["label"] == "PEN"
    assert service.stop() == 0


def test_every_metric_of_the_dashboard_and_of_the_page_is_exported() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    FleetMetrics(registry)
    known = set()
    for family in registry.collect():
        ends = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}
        known |= {family.name + end for end in ends.get(family.type, [""])}
    dashboard = (DOCS / "grafana" / "fleet.json").read_text(encoding="utf-8")
    used = set(re.findall(r"fieldloop_(?:fleet|telemetry)_\w*[a-z]\b", dashboard + _PAGE))
    used -= {"fieldloop_telemetry", "fieldloop_telemetry_", "fieldloop_fleet_"}
    assert len(used) > 12
    assert used - known <= {"fieldloop_telemetry"}
    panels = json.loads(dashboard)["panels"]
    assert all(panel["targets"] for panel in panels)
