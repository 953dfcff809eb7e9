"""Settings of the service, and the arithmetic of the evaluation."""

from __future__ import annotations

import numpy as np
import pytest

from fieldloop_contract.errors import FixConfiguration
from fieldloop_contract.manifest import Channel
from fieldloop_runtime.settings import load
from fieldloop_training.evaluation import confusion, figures, pick_golden
from fieldloop_training.settings import TrainingSettings


def read(**values: str) -> TrainingSettings:
    environment = {f"FIELDLOOP_{k.upper()}": v for k, v in values.items()}
    return load(TrainingSettings, {"FIELDLOOP_FLEET": "demo", **environment})


def test_recipe_settings_are_a_json_object():
    assert read(recipe_settings='{"epochs": 3}').recipe_object() == {"epochs": 3}
    for wrong in ("[1]", "{", "3"):
        with pytest.raises(FixConfiguration, match="FIELDLOOP_RECIPE_SETTINGS"):
            read(recipe_settings=wrong)


def test_channels_can_be_given_by_hand():
    assert read(channels="ax:g, wx:rad/s").declared_channels() == [
        Channel(name="ax", unit="g"),
        Channel(name="wx", unit="rad/s"),
    ]
    assert read().declared_channels() == []
    with pytest.raises(FixConfiguration, match="FIELDLOOP_CHANNELS"):
        read(channels="ax,ay")


def test_a_label_that_is_not_known_is_wrong():
    named, wanted = np.array([-1, 1, 1, 0]), np.array([0, 1, 1, 0])
    got = figures(named, wanted, np.array([0, 1, 1, 2]), 2)
    assert got["accuracy"] == 0.75
    assert got["recall_mean"] == 0.75
    assert got["windows"] == 4


def test_a_recording_is_what_most_of_its_windows_say():
    named, wanted = np.array([0, 0, 1, 1, 1, 0]), np.zeros(6, np.int64)
    got = figures(named, wanted, np.array([0, 0, 0, 1, 1, 1]), 2)
    assert got["recording_accuracy"] == 0.5


def test_confusion_has_the_truth_in_rows():
    table = confusion(np.array([1, 1, 0]), np.array([0, 1, 0]), ["a", "b"])
    assert table["rows"] == [[1, 1], [0, 1]]


def test_golden_windows_are_spread_over_the_labels():
    wanted = np.array([0] * 50 + [1] * 3 + [2] * 20)
    chosen = pick_golden(wanted, 8)
    assert len(set(chosen.tolist())) == 8
    assert set(wanted[chosen].tolist()) == {0, 1, 2}
    assert len(pick_golden(np.array([0, 1]), 8)) == 2
