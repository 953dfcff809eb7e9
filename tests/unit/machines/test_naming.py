"""What an alarm looks like, on the simulated machine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from fieldloop_ingestion.sources.machinery import Defect, Duty, Machine, Severity, Simulation
from fieldloop_machines.naming import name

RATE_HZ, SHAFT_HZ, WINDOW = 3_200.0, 30.0, 512
LOADS = [0.8, 1.0, 1.15, 0.9, 1.1]


def machine(times: float = 1.0, knocks: float = 0.0) -> Machine:
    """A pump whose load and speed vary."""
    schedule = [
        Duty(for_s=100, load=min(2.0, times * load), speed=0.95 + 0.1 * i / len(LOADS))
        for i, load in enumerate(LOADS)
    ]
    defect = Defect(fault="outer", amplitude=knocks, severity=Severity(kind="constant"))
    return Machine(
        shaft_hz=SHAFT_HZ, imbalance=0.2, misalignment=0.08, noise=0.015, schedule=schedule,
        defects=[defect] if knocks else [],
    )  # fmt: skip


def record(of: Machine, count: int = 40, seed: int = 1) -> list[NDArray[np.float32]]:
    simulation = Simulation(of, rate_hz=RATE_HZ, columns=("horizontal", "vertical"), seed=seed)
    state, found = simulation.begin(), []
    for i in range(count):
        state = replace(state, sample=round(i * 17 * RATE_HZ))
        state, values = simulation.block(state, WINDOW)
        found.append(np.frombuffer(values, np.float32).reshape(WINDOW, 2))
    return found


HEALTHY = record(machine())


@pytest.mark.parametrize("shaft_hz", [SHAFT_HZ, None])
def test_a_bearing_rings_above_the_orders_of_the_shaft(shaft_hz: float | None) -> None:
    found = name(HEALTHY, record(machine(knocks=0.3), 6, seed=2), RATE_HZ, shaft_hz)
    assert found.kind == "bearing", found
    assert 500 < found.hz < 1_600


def test_another_load_is_called_one_where_the_speed_is_known() -> None:
    found = name(HEALTHY, record(machine(times=1.8), 40, seed=2), RATE_HZ, SHAFT_HZ)
    assert found.kind == "load", found
    assert "load" in found.words


def test_a_healthy_machine_is_called_nothing() -> None:
    assert name(HEALTHY, record(machine(), 40, seed=5), RATE_HZ, SHAFT_HZ).kind == "unknown"


@pytest.mark.parametrize("stands", [0.0, 4.0])
def test_a_sensor_that_stands_still_is_lost(stands: float) -> None:
    now = [np.full((WINDOW, 2), stands, np.float32)] * 3
    found = name(HEALTHY, now, RATE_HZ, SHAFT_HZ)
    assert found.kind == "sensor"
    assert f"stands still at {stands:g}" in found.words


def test_one_lost_channel_of_two_is_named() -> None:
    now = [x.copy() for x in HEALTHY[:3]]
    for x in now:
        x[:, 1] = 2.0
    assert "channel 1" in name(HEALTHY, now, RATE_HZ).words


def test_a_machine_that_stands_still_has_a_sensor_all_the_same() -> None:
    rng = np.random.default_rng(1)
    still = [rng.normal(0, 0.015, (WINDOW, 2)).astype(np.float32) for _ in range(5)]
    assert name(HEALTHY, still, RATE_HZ, SHAFT_HZ).kind != "sensor"


@pytest.mark.parametrize("now", [[], [np.zeros((8, 2), np.float32)], [np.zeros((512, 3), "f4")]])
def test_too_little_signal_or_another_one_names_nothing(now: list[NDArray[np.float32]]) -> None:
    assert name(HEALTHY, now, RATE_HZ).kind == "unknown"
    assert name(HEALTHY[:2], HEALTHY, RATE_HZ).kind == "unknown"
