"""Residuals of what a model says, and the score they become; on a real interpreter's files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fieldloop_contract.errors import Isolate
from fieldloop_contract.manifest import Residuals
from fieldloop_scoring.residuals import ResidualScore, statistics_of
from fieldloop_scoring.runners import open_runner
from fieldloop_scoring.scorer import Scorer
from support.bundles import make_manifest
from support.models import CHANNELS, model, windows


def rule(statistics: list[str], **changes: Any) -> dict[str, Any]:
    n = len(statistics) * CHANNELS
    return {"statistics": statistics, "centre": [0.0] * n, "scale": [1.0] * n, **changes}


def scorer(name: str, residuals: dict[str, Any], **changes: Any) -> Scorer:
    output = {"name": "distance", "kind": "residual", "residuals": residuals, **changes}
    manifest = make_manifest(model(name), b"-", task="anomaly", outputs=[output])
    return Scorer(manifest, open_runner(model(name)))


def test_the_score_is_that_of_the_reconstructions_residuals():
    window = windows(1)[0]
    judge = scorer("autoencoder", rule(["rms"]), threshold=0.5)  # the model says 0.9 of its input
    wanted = float(np.mean(np.square(0.1 * window.astype(np.float64))))
    scored = judge.score(window)
    assert scored.score == pytest.approx(wanted, rel=1e-4)
    assert scored.alarm is (wanted > 0.5)


def test_weights_make_it_hotellings_t_squared():
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(5_000, 6)) @ rng.normal(size=(6, 6))
    centre, scale = mixed.mean(axis=0), mixed.std(axis=0)
    inverse = np.linalg.inv(np.cov(((mixed - centre) / scale).T))
    weights = np.linalg.cholesky(inverse).T
    score = ResidualScore(
        Residuals(
            statistics=["mean", "deviation"],
            centre=centre.tolist(), scale=scale.tolist(), weights=weights.tolist(),
        )
    )  # fmt: skip
    window = rng.normal(size=(32, 3)).astype(np.float32)
    seen = statistics_of(window, ["mean", "deviation"]) - centre
    said = np.zeros_like(window)
    wanted = seen @ np.linalg.inv(np.cov(mixed.T)) @ seen / 6
    assert score(window, said) == pytest.approx(wanted, rel=1e-6)


def test_the_largest_finds_one_channel_among_many():
    quiet = np.zeros((8, 3), np.float32)
    quiet[:, 1] = 3.0
    said = np.zeros_like(quiet)
    largest = rule(["mean"], aggregate="max")
    assert ResidualScore(Residuals(**rule(["mean"])))(quiet, said) == pytest.approx(3.0)
    assert ResidualScore(Residuals(**largest))(quiet, said) == pytest.approx(9.0)


def test_a_fault_that_the_model_follows_shows_in_the_context():
    shifted = np.full((8, 3), 3.0, np.float32)
    n = 2 * CHANNELS
    both = {"statistics": ["mean"], "context": ["mean"], "centre": [0.0] * n, "scale": [1.0] * n}
    assert ResidualScore(Residuals(**rule(["mean"])))(shifted, shifted) == 0.0
    assert ResidualScore(Residuals(**both))(shifted, shifted) == pytest.approx(4.5)


def test_a_forecast_is_compared_with_the_end_of_its_window():
    judge = scorer("good", rule(["mean"], against="input_end"))  # three numbers: one sample
    window = windows(1)[0]
    said = judge.raw(window)[0]
    wanted = float(np.mean(np.square(window[-1].astype(np.float64) - said)))
    assert judge.score(window).score == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "residuals"),
    [
        ("regression", rule(["mean"])),
        ("regression", rule(["mean"], against="input_end")),
        ("autoencoder", {"statistics": ["rms"], "centre": [0.0], "scale": [1.0]}),
    ],
)
def test_residuals_against_what_does_not_fit_are_refused(name: str, residuals: dict[str, Any]):
    with pytest.raises(Isolate) as caught:
        scorer(name, residuals)
    assert caught.value.code == "model.shape"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"residuals": rule(["rms"], scale=[1.0])}, "one centre, scale and weight"),
        ({"residuals": rule(["rms"], weights=[[1.0]])}, "one centre, scale and weight"),
        ({"residuals": rule(["rms"], against="output")}, "name it as their target"),
        ({"residuals": rule(["rms"], against="output", target="distance")}, "against no output"),
        ({"residuals": rule(["mean", "rms"], centre=[0.0], scale=[1.0])}, "as many channels"),
        ({"kind": "residual"}, "says how it is scored"),
        ({"kind": "score", "residuals": rule(["rms"])}, "says how it is scored"),
    ],
)
def test_a_manifest_whose_residuals_cannot_be_is_refused(changes: dict[str, Any], said: str):
    output = {"name": "distance", "kind": "residual", **changes}
    with pytest.raises(ValueError, match=said):
        make_manifest(b"TFL3", b"-", task="anomaly", outputs=[output])
