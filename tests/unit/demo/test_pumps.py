"""The plant of the pumps, and how its figures are counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fieldloop_contract.manifest import Input, RunningWhen
from fieldloop_demo.pumps import report
from fieldloop_demo.pumps.judging import Detection
from fieldloop_demo.pumps.learning import OPTIONS
from fieldloop_demo.pumps.plant import (
    ARMED_DAY,
    CHANNELS,
    DAY_S,
    DAYS,
    RAIL,
    RATE_HZ,
    SENSOR_AWAY_DAYS,
    WINDOW,
    Measuring,
    Pump,
    plant,
)
from fieldloop_demo.pumps.scenario import Changed, Outcome, Raised
from fieldloop_ingestion.sources.machinery import duty_at
from fieldloop_scoring.regimes import Regimes

SEEDS = (1, 4, 9)


def pump(outcome: Outcome, story: str) -> Pump:
    return next(p for p in outcome.pumps if p.story == story)


@pytest.mark.parametrize("seed", SEEDS)
def test_six_pumps_differ_and_three_of_them_are_befallen_each_by_something_else(seed: int) -> None:
    pumps = plant(seed)
    assert sorted(p.story for p in pumps) == sorted(["fault", "load", "sensor"] + 3 * ["healthy"])
    assert len({p.machine.shaft_hz for p in pumps}) == 6
    assert len({p.machine.noise for p in pumps}) == 6
    assert pumps == plant(seed)
    assert pumps != plant(seed + 1)
    fault = next(p for p in pumps if p.story == "fault")
    assert fault.at_day > ARMED_DAY
    assert DAYS - fault.at_day >= 59
    assert all(p.machine.check_rate(RATE_HZ) is None for p in pumps)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_running_pump_is_told_from_one_that_stands_still(seed: int) -> None:
    spec = Input.model_validate({
        "name": "v", "channels": [{"name": c, "unit": "g"} for c in CHANNELS], "rate_hz": RATE_HZ,
        "window_samples": WINDOW, "hop_samples": WINDOW,
        "normalisation": {"centre": [0.0] * 2, "scale": [1.0] * 2},
    })  # fmt: skip
    rule = Regimes(RunningWhen.model_validate(OPTIONS["running_when"]), [spec])
    for one in plant(seed):
        sensor = Measuring(one)
        for day in np.arange(0.01, 7, 0.31):
            duty = duty_at(one.machine.schedule, float(day) * DAY_S)
            level = rule.level(sensor.window(float(day)))
            runs = rule.running(level, was_running=False)
            assert runs == (duty is not None and duty.speed > 0), (one.name, day, level)


def test_a_lost_sensor_reads_its_supply_until_it_is_replaced() -> None:
    one = pump(Outcome(plant(1)), "sensor")
    sensor = Measuring(one)
    assert np.ptp(sensor.window(one.at_day - 0.1)) > 0
    assert np.all(sensor.window(one.at_day + 0.1) == RAIL)
    assert np.ptp(sensor.window(one.at_day + SENSOR_AWAY_DAYS + 0.1)) > 0


def outcome(**changes: Any) -> Outcome:
    """All is as it should be."""
    found = Outcome(plant(1))
    fault, load, sensor = (pump(found, s) for s in ("fault", "load", "sensor"))
    found.armed_days = {p.name: 18.0 for p in found.pumps}
    found.raised = [
        Raised(fault, fault.at_day + 20, "bearing", 1),
        Raised(sensor, sensor.at_day + 0.1, "sensor", 2),
    ]
    found.changes = [Changed(load, load.at_day + 1.5, "load")]
    found.published = {1: 7.0, 2: 35.0}
    found.detections = [Detection(1, 2.0, 20.0, 0), Detection(2, 2.0, 19.5, 0)]
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def summary(of: Outcome) -> dict[str, Any]:
    found = report.document(of, 1, 1.0)
    found["ledger"]["balanced"] = True
    return {**found, "succeeded": report.succeeded(found)}


def test_a_run_in_which_all_was_shown_has_succeeded() -> None:
    found = summary(outcome())
    assert found["faults"] == {
        "injected": 1, "detected": 1, "days_from_onset_to_alarm": [20.0],
    }  # fmt: skip
    assert found["named"] == {"load": "load", "sensor": "sensor"}
    assert found["false_alarms"] == 0
    assert found["most_later_days"] == -0.5
    assert found["succeeded"]


@pytest.mark.parametrize(
    "changes",
    [
        {"raised": []},
        {"changes": []},
        {"detections": [Detection(1, 2.0, 20.0, 0), Detection(2, 2.0, 20.2, 0)]},
        {"detections": [Detection(1, 2.0, 20.0, 0), Detection(2, 2.0, None, 0)]},
        {"detections": [Detection(1, 2.0, None, 0)]},
    ],
)
def test_what_was_not_shown_is_no_success(changes: dict[str, Any]) -> None:
    assert not summary(outcome(**changes))["succeeded"]


def test_an_alarm_with_nothing_behind_it_or_under_another_name_is_false() -> None:
    of = outcome()
    fault, load, sensor, well = (pump(of, s) for s in ("fault", "load", "sensor", "healthy"))
    told = [
        (Raised(well, 30.0, "bearing", 1), True),
        (Raised(fault, fault.at_day - 1, "bearing", 1), True),
        (Raised(fault, fault.at_day + 1, "unknown", 1), False),
        (Raised(load, load.at_day + 1, "load", 1), False),
        (Raised(load, load.at_day + 1, "bearing", 1), True),
        (Raised(load, load.at_day - 1, "load", 1), True),
        (Raised(sensor, sensor.at_day + 1, "sensor", 1), False),
        (Raised(sensor, sensor.at_day + 1, "unknown", 1), True),
        (Raised(sensor, sensor.at_day + SENSOR_AWAY_DAYS + 1, "sensor", 1), True),
    ]
    assert [report.is_false(one) for one, _ in told] == [false for _, false in told]
    of.raised += [one for one, _ in told]
    found = summary(of)
    assert found["false_alarms"] == 6
    assert found["false_alarms_per_machine_week"] == pytest.approx(
        6 / sum(p["weeks"] for p in found["pumps"]), abs=1e-3
    )
