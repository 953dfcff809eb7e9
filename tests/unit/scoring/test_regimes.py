"""Running or idle by a declared level, with hysteresis; regimes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from fieldloop_contract.manifest import Input, RunningWhen
from fieldloop_scoring.regimes import Regimes
from support.bundles import make_input, make_manifest


def regimes(**rule: Any) -> Regimes:
    return Regimes(RunningWhen(**rule), [Input.model_validate(make_input())])


def window(*levels: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.tile(np.array(levels, np.float32), (32, 1))


@pytest.mark.parametrize(
    ("feature", "level"),
    [("rms", (3 + 4 + 0) / 3), ("mean", 1 / 3), ("mean_abs", 7 / 3), ("deviation", 0.0)],
)
def test_each_feature_is_what_it_says(feature: str, level: float) -> None:
    assert regimes(feature=feature, above=0).level(window(-3, 4, 0)) == pytest.approx(level)


def test_deviation_is_that_of_numpy_and_channels_are_chosen_by_name() -> None:
    x = np.random.default_rng(1).normal(5, 2, (32, 3)).astype(np.float32)
    rule = regimes(feature="deviation", above=0, channels=["az"])
    assert rule.level(x) == pytest.approx(float(x[:, 2].std()), rel=1e-5)


def test_a_machine_near_the_level_does_not_flicker() -> None:
    rule = regimes(feature="mean", above=1.0, idle_below=0.5)
    levels = [0.9, 1.1, 0.9, 0.6, 0.4, 0.9, 1.01]
    windows = np.stack([window(v, v, v) for v in levels])
    assert rule.running_mask(windows).tolist() == [False, True, True, True, False, False, True]


def test_a_window_with_nan_is_idle() -> None:
    rule = regimes(above=0.0)
    level = rule.level(window(float("nan"), 1, 1))
    assert not rule.running(level, was_running=True)


def test_the_regime_is_the_last_one_whose_level_is_passed() -> None:
    rule = regimes(
        feature="mean",
        above=0.1,
        regimes=[{"name": "low", "above": 0.5}, {"name": "high", "above": 2.0}],
    )
    assert [rule.regime(v) for v in (0.2, 0.6, 2.0, 2.1)] == [None, "low", "low", "high"]


def test_rules_that_speak_of_nothing_are_refused() -> None:
    for rule in (
        {"above": 1, "channels": ["pressure"]},
        {"above": 1, "input": "sound"},
        {"above": 1, "idle_below": 2},
        {"above": 1, "regimes": [{"name": "b", "above": 2}, {"name": "a", "above": 1}]},
    ):
        with pytest.raises(ValidationError):
            make_manifest(b"x", b"y", running_when=rule)


def test_a_manifest_without_these_rules_has_the_digest_it_always_had() -> None:
    """New optional fields are not in the encoded document, or every version would be another."""
    text = make_manifest(b"x", b"y").encode()
    for word in (b"running_when", b"alarm", b"top_k", b"regimes"):
        assert word not in text
