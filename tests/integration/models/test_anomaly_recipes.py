"""The anomaly recipes learn on physical data: their files, scored by the device's own code, tell
faults from health. Trained in a process of its own, so that TensorFlow meets no other runtime."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fieldloop_contract.manifest import (
    GOLDEN_FILE,
    MODEL_FILE,
    FileRef,
    Golden,
    Input,
    Manifest,
    Normalisation,
    Output,
)
from fieldloop_models.recipe import Scores, load_recipe
from fieldloop_models.thresholds import check_saturation, largest_score
from fieldloop_scoring.runners import open_runner
from fieldloop_scoring.scorer import Scorer

pytestmark = pytest.mark.timeout(1_000)
SCRIPT = Path(__file__).with_name("train_anomaly.py")
RECIPES = {"dense": "autoencoder", "convolutional": "autoencoder", "forecaster": "forecaster",
           "spectral": "spectral_autoencoder"}  # fmt: skip
FRONT = {"RFFT2D", "COMPLEX_ABS", "LOG", "TRANSPOSE", "SQUARE", "MINIMUM", "SUB", "ADD", "RELU"}
BODY = {"FULLY_CONNECTED", "CONV_2D", "TRANSPOSE_CONV", "RESHAPE", "TANH", "MUL", "QUANTIZE",
        "STRIDED_SLICE", "DEQUANTIZE", "DELEGATE", "EXPAND_DIMS"}  # fmt: skip


class Found:
    """What the training process left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told: dict[str, Any] = json.loads((folder / "told.json").read_text())

    def file(self, name: str, variant: str = "int8") -> bytes:
        return (self.folder / f"{name}-{variant}.tflite").read_bytes()

    def data(self, name: str) -> dict[str, NDArray[np.float32]]:
        with np.load(self.folder / f"{name}.npz") as archive:
            return {key: archive[key] for key in archive.files}

    def scorer(self, name: str, variant: str = "int8", threshold: float | None = None) -> Scorer:
        told, model = self.told[name], self.file(name, variant)
        outputs = [Output.model_validate(o) for o in told["outputs"]]
        outputs[0] = outputs[0].model_copy(update={"threshold": threshold})
        spec = Input(
            name="process", channels=[{"name": n, "unit": "1"} for n in told["channels"]],
            rate_hz=1.0, window_samples=told["window"], hop_samples=told["hop"],
            normalisation=Normalisation.model_validate(told["normalisation"]),
        )  # fmt: skip
        manifest = Manifest(
            name="m", version=1, task="anomaly", inputs=[spec], outputs=outputs,
            files={MODEL_FILE: FileRef.of(model), GOLDEN_FILE: FileRef.of(b"-")},
            golden=Golden(count=1, tolerance=1.0),
        )  # fmt: skip
        return Scorer(manifest, open_runner(model))

    def decide(self, name: str, variant: str = "int8") -> Any:
        scores = values(self.scorer(name, variant), self.data(name)["calibration"])
        nowhere = np.zeros(len(scores), np.int64)
        recipe: Any = load_recipe(RECIPES[name], {})
        told = self.told[name]
        return recipe.decide(Scores(scores, nowhere, told["window"], told["hop"]))


def values(scorer: Scorer, windows: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.array([scorer.score(w).score for w in windows], np.float64)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("trained")
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)],
        env=environment, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return Found(folder)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("dense", "valve"), ("dense", "wear"), ("convolutional", "valve"),
        ("convolutional", "wear"), ("forecaster", "controller"), ("spectral", "bearing"),
    ],
)  # fmt: skip
def test_its_int8_file_tells_a_fault_from_health(found: Found, name: str, fault: str):
    data, decision = found.data(name), found.decide(name)
    judge = found.scorer(name, threshold=decision.threshold)
    alarms = {k: [judge.score(w).alarm for w in data[k]] for k in ("healthy", fault)}
    assert np.mean(alarms["healthy"]) < 0.05
    assert np.mean(alarms[fault]) > 0.8
    spec = judge.manifest.inputs[0]
    check_saturation(
        decision.threshold,
        largest_score(judge.manifest.outputs[0], clip=spec.normalisation.clip),
    )


@pytest.mark.parametrize("name", list(RECIPES))
def test_int8_and_float_scores_agree(found: Found, name: str):
    windows = found.data(name)["healthy"]
    a, b = (values(found.scorer(name, v), windows) for v in ("int8", "float32"))
    assert np.median(np.abs(a - b) / b) < 0.05


@pytest.mark.parametrize("name", ["dense", "spectral"])
@pytest.mark.parametrize("variant", ["int16", "float16"])
def test_the_other_variants_score_as_the_float_file_does(found: Found, name: str, variant: str):
    windows = found.data(name)["healthy"]
    a, b = (values(found.scorer(name, v), windows) for v in (variant, "float32"))
    assert np.median(np.abs(a - b) / b) < 0.03
    assert len(found.file(name, variant)) < len(found.file(name, "float32"))


@pytest.mark.parametrize("name", list(RECIPES))
def test_files_are_small_and_of_built_in_operators(found: Found, name: str):
    runner = open_runner(found.file(name))
    ops = {op.name for op in runner.ops()}
    assert ops <= (BODY | FRONT if name == "spectral" else BODY)
    assert runner.outputs[0].dtype == "int8"
    assert len(found.file(name)) < 100_000


def test_the_spectrum_is_float32_in_every_variant(found: Found):
    window = found.data("spectral")["healthy"][0]
    features = {v: found.scorer("spectral", v).raw(window)[1]
                for v in ("int8", "int16", "float16", "float32")}  # fmt: skip
    for variant, seen in features.items():
        assert np.allclose(seen, features["float32"], atol=1e-4), variant
    assert open_runner(found.file("spectral")).inputs[0].dtype == "float32"
    assert "QUANTIZE" in {op.name for op in open_runner(found.file("spectral")).ops()}


def test_a_training_that_was_killed_ends_as_one_that_was_not(found: Found):
    assert found.told["resumed"] is True


def test_retraining_the_head_changes_the_head_only_and_few_bytes(found: Found):
    assert {path.split("/")[-2] for path in found.told["changed"]} == {"says"}
    old, new = found.file("dense"), (found.folder / "head.tflite").read_bytes()
    assert len(old) == len(new)
    assert np.mean(np.frombuffer(old, np.uint8) != np.frombuffer(new, np.uint8)) < 0.5
