"""Fixtures for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from support.broker import Mosquitto

# How long an example takes says more of the machine than of the code.
hypothesis.settings.register_profile(
    "fieldloop",
    hypothesis.settings.get_profile("ci" if os.environ.get("CI") else "default"),
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("fieldloop")


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """A mosquitto of the test's own."""
    broker = Mosquitto(tmp_path / "mosquitto").start()
    yield broker
    broker.kill()
