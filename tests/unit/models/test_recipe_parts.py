"""The parts of a recipe that need no TensorFlow."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import jsonschema
import numpy as np
import pytest

from fieldloop_contract.errors import FixConfiguration, RejectedInput
from fieldloop_contract.manifest import Channel
from fieldloop_models.activity_cnn import check_classes
from fieldloop_models.augmentation import gain, triads, turn, warp
from fieldloop_models.conversion import check_resolution, representative_windows
from fieldloop_models.normalisation import fit_normalisation
from fieldloop_models.recipe import (
    AnomalyRecipe,
    Examples,
    load_recipe,
    recipe_names,
    settings_schema,
)
from fieldloop_models.spectrum import band_edges
from fieldloop_scoring.normalisation import normalise

ANOMALY = ["autoencoder", "forecaster", "spectral_autoencoder"]
IMU = [Channel(name=n, unit=u) for n, u in zip(
    ("ax", "ay", "az", "wx", "wy", "wz"), ["g"] * 3 + ["rad/s"] * 3, strict=True
)]  # fmt: skip


def windows(n: int = 40, channels: int = 6) -> np.ndarray:
    scale = np.logspace(-1, 1, channels)
    offset = np.arange(channels)
    noise = np.random.default_rng(3).normal(size=(n, 32, channels))
    return (noise * scale + offset).astype(np.float32)


def test_the_recipe_is_found_by_its_entry_point():
    assert "activity_cnn" in recipe_names()
    recipe = load_recipe("activity_cnn", {"window_samples": 32, "hop_samples": 16})
    assert recipe.window_plan().window_samples == 32


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("no_such", {}, "activity_cnn"),
        ("activity_cnn", {"epoch": 3}, "epoch"),
        ("activity_cnn", {"epochs": 0}, "epochs"),
        ("activity_cnn", {"window_samples": 32, "hop_samples": 64}, "hop"),
    ],
)
def test_wrong_recipes_and_settings_are_refused_in_words(
    name: str, settings: dict[str, int], said: str
):
    with pytest.raises(FixConfiguration, match=said):
        load_recipe(name, settings)


@pytest.mark.parametrize("name", ["activity_cnn", *ANOMALY])
def test_settings_have_titles_descriptions_and_bounds_for_a_form(name: str):
    schema = settings_schema(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    for field, rules in schema["properties"].items():
        assert rules["title"], field
        assert len(rules["description"]) > 5, field
        assert "default" in rules, field
        if rules.get("type") in ("integer", "number"):
            assert {"minimum", "exclusiveMinimum"} & set(rules), field
            assert {"maximum", "exclusiveMaximum"} & set(rules), field
    with pytest.raises(FixConfiguration):
        settings_schema("no_such")


@pytest.mark.parametrize("name", ANOMALY)
def test_anomaly_recipes_say_what_the_pipeline_needs(name: str):
    recipe = load_recipe(name, {})
    assert recipe.task == "anomaly"
    assert isinstance(recipe, AnomalyRecipe)
    assert 0 < recipe.validation_share + recipe.calibration_share <= 0.8
    assert recipe.window_plan().fill == "linear"
    assert recipe.limits().latency_ms_max > 0
    assert recipe.reuse.head
    for heading in ("## What it does", "## What it is made of", "## Where it ends"):
        assert heading in recipe.model_card(IMU, [])


@pytest.mark.parametrize("name", ANOMALY)
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"hop_samples": 64, "window_samples": 64, "raise_count": 3}, "can never be"),
        ({"window_samples": 64, "hop_samples": 65}, "hop"),
        ({"validation_share": 0.4, "calibration_share": 0.5}, "less than a fifth"),
        ({"latent": 0}, "latent"),
    ],
)
def test_settings_that_cannot_be_are_refused(name: str, settings: dict[str, int], said: str):
    with pytest.raises(FixConfiguration, match=said):
        load_recipe(name, settings)


def healthy(n: int = 100) -> Examples:
    nothing = np.zeros(n, np.int64)
    return Examples(windows(n), nothing - 1, nothing, np.zeros(n, np.bool_))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda x: x[:10], "10 healthy windows"),
        (lambda x: np.where(np.arange(32)[:, None] == 3, np.nan, x), "NaN or infinity"),
        (lambda x: x * np.array([1, 1, 0, 1, 1, 1]), "channel az is constant"),
    ],
)
def test_windows_that_teach_nothing_are_refused_before_tensorflow_is_loaded(
    spoil: Callable[[np.ndarray], np.ndarray], said: str
):
    samples = spoil(windows(100)).astype(np.float32)
    nothing = np.zeros(len(samples), np.int64)
    given = Examples(samples, nothing - 1, nothing, np.zeros(len(samples), np.bool_))
    with pytest.raises(RejectedInput, match=said):
        load_recipe("autoencoder", {}).train(
            given, channels=IMU, labels=[], rate_hz=1.0, normalise=normalise, seed=1,
            report=lambda _: None,
        )  # fmt: skip


def test_a_channel_to_leave_out_that_there_is_not_is_refused():
    with pytest.raises(FixConfiguration, match="unscored names no channel: temperature"):
        load_recipe("autoencoder", {"unscored": ["temperature"]}).train(
            healthy(), channels=IMU, labels=[], rate_hz=1.0, normalise=normalise, seed=1,
            report=lambda _: None,
        )  # fmt: skip


@pytest.mark.parametrize(("window", "bands"), [(64, 8), (512, 32), (2_048, 64), (64, 31)])
def test_bands_cover_the_spectrum_once(window: int, bands: int):
    edges = band_edges(window, bands)
    assert len(edges) == bands + 1
    assert (np.diff(edges) > 0).all()
    assert (edges[0], edges[-1]) == (2, window // 2 + 1)


def test_more_bands_than_bins_are_refused():
    with pytest.raises(FixConfiguration, match="32 bands in the 31 bins"):
        band_edges(64, 32)


def test_windows_kept_for_the_threshold_are_not_fitted():
    nothing, place = np.zeros(10, np.int64), np.arange(10)
    given = Examples(windows(10), nothing, nothing, place == 7, place > 7)
    assert given.fit.tolist() == [True] * 7 + [False] * 3


def test_choosing_a_recipe_does_not_load_tensorflow():
    code = (
        "import sys; from fieldloop_models.recipe import load_recipe; "
        "load_recipe('activity_cnn', {}); sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("method", ["standard", "robust"])
def test_normalised_channels_have_like_spread_whatever_their_unit(method: str):
    x = windows()
    z = normalise(x, fit_normalisation(x, method=method)).reshape(-1, 6)
    assert np.abs(z.mean(axis=0)).max() < 0.1
    assert np.allclose(z.std(axis=0), 1.0, atol=0.1)


def test_a_constant_channel_is_refused_by_name_even_at_a_great_offset():
    x = windows()
    x[..., 2] = 1e6
    with pytest.raises(RejectedInput, match="channel az is constant"):
        fit_normalisation(x, [c.name for c in IMU])


def test_a_value_that_is_not_finite_is_refused():
    x = windows()
    x[0, 0, 0] = np.inf
    with pytest.raises(RejectedInput, match="NaN or infinity"):
        fit_normalisation(x)


def test_a_channel_that_the_int8_input_cannot_resolve_is_refused_by_name():
    x = np.random.default_rng(0).normal(size=(50, 32, 2)).astype(np.float32)
    step = check_resolution(x, ["good", "small"])
    x[..., 1] *= 0.9 * 8 * step / x[..., 1].std()
    with pytest.raises(RejectedInput, match=r"cannot resolve small \(7\.\d steps\)"):
        check_resolution(x, ["good", "small"])


def test_representative_windows_are_bounded_and_the_same_each_time():
    x = windows(n=600)
    chosen = representative_windows(x, seed=1)
    assert len(chosen) == 256
    assert np.array_equal(chosen, representative_windows(x, seed=1))


def test_triads_are_three_channels_of_one_unit():
    assert triads(IMU) == [0, 3]
    assert triads(IMU[1:]) == [2]
    assert triads([Channel(name=n, unit="1") for n in "abc"]) == []


def test_a_turn_keeps_every_vectors_length_and_turns_the_triads_alike():
    x = windows()
    x[..., 3:] = 2 * x[..., :3]
    y = turn(x, [0, 3], 20.0, np.random.default_rng(0))
    assert np.allclose(np.linalg.norm(y[..., :3], axis=-1), np.linalg.norm(x[..., :3], axis=-1),
                       rtol=1e-4)  # fmt: skip
    assert np.allclose(y[..., 3:], 2 * y[..., :3], atol=1e-4)
    assert not np.allclose(x, y, atol=0.1)


def test_a_warp_stays_within_the_window_and_changes_its_pace():
    t = np.linspace(0, 4 * np.pi, 128, dtype=np.float32)
    x = np.repeat(np.sin(t)[None, :, None], 30, axis=0)
    y = warp(x, 0.3, np.random.default_rng(0))
    assert y.shape == x.shape
    assert np.isfinite(y).all()
    assert np.abs(y).max() <= 1.0
    crossings = (np.diff(np.sign(y[..., 0]), axis=1) != 0).sum(axis=1)
    assert crossings.min() < crossings.max()


def test_a_gain_keeps_the_mean_of_each_window():
    x = windows()
    y = gain(x, 0.3, np.random.default_rng(0))
    assert np.allclose(x.mean(axis=1), y.mean(axis=1), atol=1e-4)
    ratio = y.std(axis=1) / x.std(axis=1)
    assert np.allclose(ratio, ratio[:, :1], rtol=1e-3)
    assert ratio.std() > 0.1


def test_classes_that_cannot_be_told_apart_are_refused():
    with pytest.raises(RejectedInput, match="only one class"):
        check_classes(np.zeros(50, np.int64), ["a"])
    with pytest.raises(RejectedInput, match="labelled b"):
        check_classes(np.zeros(50, np.int64), ["a", "b"])
    with pytest.raises(RejectedInput, match="training windows"):
        check_classes(np.array([0, 1]), ["a", "b"])
