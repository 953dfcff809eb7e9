"""A broker, a store and a telemetry process for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fieldloop_store.engine import Store
from support.broker import Mosquitto
from support.telemetry import Device, TelemetryProcess


@pytest.fixture
def url(tmp_path: Path) -> str:
    """URL of the test's store."""
    return f"sqlite:///{tmp_path / 'store.sqlite'}"


@pytest.fixture
def telemetry(tmp_path: Path, mosquitto: Mosquitto, url: str) -> Iterator[TelemetryProcess]:
    """The service, running."""
    process = TelemetryProcess(tmp_path, mosquitto.port, url).start()
    yield process
    process.kill()


@pytest.fixture
def store(telemetry: TelemetryProcess, url: str) -> Iterator[Store]:
    """The store that the service writes."""
    opened = Store.open(url, busy_timeout_s=10)
    yield opened
    opened.close()


@pytest.fixture
def device(mosquitto: Mosquitto) -> Iterator[Device]:
    """subject-1, connected."""
    made = Device(mosquitto.port)
    yield made
    made.stop()
