"""Errors of a forecast, their gates, and a machine's own threshold: pure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fieldloop_contract.manifest import (
    CalibrationRule,
    Channel,
    FileRef,
    Golden,
    Input,
    Manifest,
    Normalisation,
    Output,
    Residuals,
)
from fieldloop_models.whitening import UNSCORED
from fieldloop_scoring import calibrating
from fieldloop_training.anomalies import machine_threshold
from fieldloop_training.forecasts import forecast_errors
from fieldloop_training.gates import Evidence, judge
from fieldloop_training.statistics import Trials

RNG = np.random.default_rng(3)
RECORDINGS, PER_RECORDING, WINDOW, HORIZON = 12, 6, 20, 4


def manifest(against: Any = "input_end", centre: float = 0.0, scale: float = 1.0) -> Manifest:
    rule = Residuals(against=against, statistics=["mean"], centre=[0.0, 0.0], scale=[1.0, UNSCORED])
    affine = Normalisation(centre=[centre] * 2, scale=[scale] * 2)
    names = [Channel(name=n, unit="bar") for n in ("a", "b")]
    return Manifest(
        name="m", version=1, task="anomaly",
        files={"model.tflite": FileRef.of(b"m"), "golden.npz": FileRef.of(b"g")},
        inputs=[Input(name="s", channels=names, rate_hz=1.0, window_samples=WINDOW, hop_samples=4,
                      normalisation=affine)],
        outputs=[Output(name="d", kind="residual", threshold=3.0, residuals=rule)],
        golden=Golden(count=1, tolerance=1.0),
    )  # fmt: skip


def signal() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Sines of any phase: what comes follows from what was, and is not the last value."""
    n = RECORDINGS * PER_RECORDING
    phase = RNG.uniform(0, 6, (n, 1, 1)) + 0.6 * np.arange(WINDOW)[None, :, None]
    return np.sin(phase + np.arange(2)).astype(np.float32), np.repeat(np.arange(RECORDINGS), 6)


def noisy(samples: NDArray[np.float32], sd: float) -> NDArray[np.float32]:
    came = samples[:, -HORIZON:]
    return (came + RNG.normal(0, sd, came.shape)).astype(np.float32)


def test_errors_are_in_one_unit_whatever_the_normalisation_and_count_scored_channels_only():
    samples, recordings = signal()
    said = noisy(samples, 0.1)
    said[..., 1] += 100.0  # not scored
    other = (said - 5.0) / 2.0
    errors = forecast_errors(
        samples, recordings,
        {"int8": (manifest(), said), "champion": (manifest(centre=5.0, scale=2.0), other)},
    )  # fmt: skip
    assert errors is not None
    assert errors.values["int8"] == pytest.approx(errors.values["champion"], abs=1e-5)
    assert errors.share("int8") == pytest.approx(0.1, rel=0.2)
    assert errors.share("persistence") > 0.5


def test_what_foretells_nothing_has_no_errors_and_another_horizon_is_not_compared():
    samples, recordings = signal()
    said = noisy(samples, 0.1)
    assert forecast_errors(samples, recordings, {"int8": (manifest("input"), said)}) is None
    shorter = {"int8": (manifest(), said), "champion": (manifest(), said[:, :2])}
    errors = forecast_errors(samples, recordings, shorter)
    assert errors is not None
    assert set(errors.values) == {"int8", "persistence"}


def errors_of(**sd: float) -> Trials:
    """Error by window of each candidate; recordings differ from each other."""
    units = np.repeat(np.arange(RECORDINGS), PER_RECORDING)
    rng = np.random.default_rng(1)
    level = rng.uniform(0.8, 1.2, RECORDINGS)[units]
    return Trials(
        units, {k: level * v * rng.uniform(0.95, 1.05, len(units)) for k, v in sd.items()}
    )


def outcomes(errors: Trials) -> dict[str, str]:
    verdict = judge(Evidence("regression", {}, 1.0, [], errors=errors))
    return {g.name: g.outcome for g in verdict.gates} | {"": verdict.conclusion}


def test_a_forecast_better_than_persistence_and_no_worse_than_the_champion_is_approved():
    first = outcomes(errors_of(int8=0.2, float=0.2, persistence=0.5))
    assert (first["forecast"], first["champion"], first[""]) == ("passed", "passed", "approved")
    later = outcomes(errors_of(int8=0.2, float=0.2, persistence=0.5, champion=0.2))
    assert (later["champion, forecast"], later[""]) == ("passed", "approved")


@pytest.mark.parametrize(
    ("gate", "changed"),
    [
        ("forecast", {"persistence": 0.1}),
        ("forecast int8", {"float": 0.15}),
        ("champion, forecast", {"champion": 0.15}),
    ],
)
def test_each_gate_of_a_forecast_rejects_alone(gate: str, changed: dict[str, float]):
    good = {"int8": 0.2, "float": 0.2, "persistence": 0.5, "champion": 0.2}
    told = outcomes(errors_of(**(good | changed)))
    assert [k for k, v in told.items() if v == "failed"] == [gate]
    assert told[""] == "rejected"


def test_a_forecast_is_compared_by_recording_and_few_recordings_show_nothing():
    whole = errors_of(int8=0.2, float=0.2, persistence=0.5, champion=0.15)
    few = whole.where(whole.units < 4)
    told = outcomes(few)
    assert told["forecast"] == "insufficient evidence"
    assert told["champion, forecast"] == "insufficient evidence"
    assert told[""] == "insufficient evidence"


def test_an_anomaly_model_that_foretells_worse_than_its_champion_is_rejected():
    units = np.repeat(np.arange(RECORDINGS), PER_RECORDING)
    good = np.ones(len(units))
    sets = {
        "healthy": Trials(units, dict.fromkeys(("int8", "float", "baseline", "champion"), good)),
        "faults": Trials(units, dict.fromkeys(("int8", "float", "baseline", "champion"), good)),
    }
    for champion, conclusion in ((0.2, "approved"), (0.15, "rejected")):
        errors = errors_of(int8=0.2, float=0.2, persistence=0.5, champion=champion)
        verdict = judge(Evidence("anomaly", sets, 1.0, [], errors=errors))
        assert verdict.conclusion == conclusion, verdict.words


def test_a_machine_is_judged_by_the_threshold_that_its_device_would_find():
    rule = CalibrationRule(windows=40, factor=4.0, threshold_min=0.5, threshold_max=50.0)
    loud = RNG.normal(5.0, 0.5, 100)
    own = machine_threshold(3.0, rule, loud)
    assert own == calibrating.fit(loud[:40].tolist(), rule).threshold
    assert own > 6.0, "a loud machine does not alarm all the time"
    assert machine_threshold(3.0, None, loud) == 3.0
    assert machine_threshold(3.0, rule, loud[:31]) == 3.0
    assert machine_threshold(3.0, rule, np.full(100, np.nan)) == 3.0
