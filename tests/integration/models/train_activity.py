"""Trains `activity_cnn` on swings and writes what the tests look at. Run as a process."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.errors import RejectedInput
from fieldloop_contract.manifest import Channel
from fieldloop_models.conversion import to_int8
from fieldloop_models.recipe import Examples, load_recipe
from fieldloop_scoring.normalisation import normalise
from support.training import SWINGS_HZ, swing

WINDOW, EPOCHS = 64, 40
CHANNELS = [Channel(name=n, unit="g") for n in ("ax", "ay", "az")]
SETTINGS = {
    "window_samples": WINDOW, "hop_samples": 32, "epochs": EPOCHS, "batch": 16,
    "filters": [8, 12, 16], "validation_share": 0.2, "patience_epochs": 2,
}  # fmt: skip


def windows(each: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    made = [(swing(label, WINDOW / 50, rng), k)
            for _ in range(each) for k, label in enumerate(SWINGS_HZ)]  # fmt: skip
    return np.stack([m[0] for m in made]), np.array([m[1] for m in made], np.int64)


def main(folder: Path) -> None:
    samples, labels = windows(40, seed=1)
    validation = np.arange(len(labels)) >= len(labels) * 4 // 5
    recipe = load_recipe("activity_cnn", SETTINGS)
    trained = recipe.train(
        Examples(samples, labels, np.arange(len(labels)), validation),
        channels=CHANNELS, labels=list(SWINGS_HZ), rate_hz=50.0, normalise=normalise,
        seed=3, report=lambda _: None,
    )  # fmt: skip
    held, wanted = windows(20, seed=2)
    inputs = normalise(held, trained.normalisation)
    named = np.asarray(trained.model(inputs, training=False)).argmax(axis=1)
    watched = normalise(samples[validation], trained.normalisation)
    said = np.asarray(trained.model(watched, training=False))
    chosen = said[np.arange(len(watched)), labels[validation]]
    representative = normalise(samples[~validation], trained.normalisation)
    names = [c.name for c in CHANNELS]
    for file in ("a.tflite", "b.tflite"):
        (folder / file).write_bytes(to_int8(trained.model, representative, names))
    faint = representative.copy()
    faint[..., 1] *= 0.01
    try:
        to_int8(trained.model, faint, names)
        refused = ""
    except RejectedInput as error:
        refused = error.code
    told = {
        "accuracy": float((named == wanted).mean()),
        "validation_losses": [h["validation_loss"] for h in trained.history],
        "validation_loss_at_end": float(-np.log(np.maximum(chosen, 1e-7)).mean()),
        "epochs_allowed": EPOCHS,
        "refused": refused,
    }
    (folder / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
