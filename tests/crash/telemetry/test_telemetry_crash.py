"""Telemetry killed where it hurts most, and killed at random."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from fieldloop_store.engine import Store
from support.broker import Mosquitto
from support.telemetry import Device, TelemetryProcess, count, frames, wait_until

_HERE = Path(__file__).parent


def _load_storm() -> ModuleType:
    spec = importlib.util.spec_from_file_location("storm", _HERE / "storm.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["storm"] = module
    spec.loader.exec_module(module)
    return module


def test_rows_survive_a_kill_between_commit_and_ack_and_are_stored_once(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    dying = TelemetryProcess(
        tmp_path, mosquitto.port, url, script=_HERE / "dies_after_commit.py"
    ).start()
    device = Device(mosquitto.port)
    device.send("ingestion", "frames", frames(range(1, 51)))
    process = dying.process
    assert process is not None
    wait_until(lambda: process.poll() is not None)
    assert process.returncode == -9
    store = Store.open(url)
    assert count(store, "frames") == 50
    assert device.ranges() == []

    service = TelemetryProcess(tmp_path, mosquitto.port, url).start()
    device.send("ingestion", "frames", frames(range(1, 51)))
    device.await_ack((1, 50))
    assert (count(store, "frames"), count(store, "dead_letters")) == (50, 0)
    assert service.stop() == 0
    device.stop()
    store.close()


@pytest.mark.parametrize(("store", "replicas"), [("sqlite", 1), ("postgresql", 3)])
def test_a_short_storm_loses_doubles_and_changes_nothing(
    tmp_path: Path, store: str, replicas: int
) -> None:
    storm = _load_storm()
    found = storm.storm(
        tmp_path, rows=12_000, devices=4, store=store, replicas=replicas, kills=4, seed=11,
        batch_rows=100,
    )  # fmt: skip
    assert storm.clean(found), found
    assert sum(found["killed"].values()) >= 3
