"""`activity_cnn` learns from physical signals, stops early where told, and is refused what it
cannot express. In a process of its own, so that TensorFlow never meets another runtime here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fieldloop_scoring.runners import open_runner

SCRIPT = Path(__file__).with_name("train_activity.py")
BUILT_IN = {
    "CONV_2D", "FULLY_CONNECTED", "MEAN", "RESHAPE", "SOFTMAX", "EXPAND_DIMS", "DELEGATE",
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, object], list[bytes]]:
    folder = tmp_path_factory.mktemp("trained")
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)],
        env=environment, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads((folder / "told.json").read_text())
    return told, [(folder / name).read_bytes() for name in ("a.tflite", "b.tflite")]


def test_it_learns_signals_of_people_it_never_saw(trained: tuple[dict[str, object], list[bytes]]):
    assert trained[0]["accuracy"] > 0.85  # type: ignore[operator]


def test_it_stops_early_and_keeps_its_best_weights(trained: tuple[dict[str, object], list[bytes]]):
    told = trained[0]
    losses = told["validation_losses"]
    assert isinstance(losses, list)
    assert len(losses) < told["epochs_allowed"]  # type: ignore[operator]
    assert told["validation_loss_at_end"] == pytest.approx(min(losses), rel=1e-3)


def test_the_file_is_small_full_int8_and_of_built_in_operators(
    trained: tuple[dict[str, object], list[bytes]],
):
    runner = open_runner(trained[1][0])
    assert runner.inputs[0].shape[0] == 1
    assert (runner.inputs[0].dtype, runner.outputs[0].dtype) == ("int8", "int8")
    assert len(trained[1][0]) < 150_000
    assert {op.name for op in runner.ops()} <= BUILT_IN


def test_converting_twice_gives_the_same_model(
    trained: tuple[dict[str, object], list[bytes]],
):
    first, second = (open_runner(data) for data in trained[1])
    assert len(trained[1][0]) == len(trained[1][1])
    for window in np.random.default_rng(0).normal(size=(20, 64, 3)).astype(np.float32):
        assert np.array_equal(first.run([window])[0], second.run([window])[0])


def test_the_converter_refuses_a_channel_it_cannot_resolve(
    trained: tuple[dict[str, object], list[bytes]],
):
    assert trained[0]["refused"] == "conversion.resolution"
