"""Trains the anomaly recipes on physical data, and writes what the tests look at."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.manifest import Channel
from fieldloop_ingestion.sources.machinery import DIRECTIONS, Defect, Duty, Machine, Simulation
from fieldloop_models import weights
from fieldloop_models.conversion import VARIANTS, convert
from fieldloop_models.recipe import Examples, Start, Trained, load_recipe
from fieldloop_scoring.normalisation import normalise
from support.plant import CHANNELS, cut, pump

VIBRATION = [Channel(name=n, unit="m/s2") for n in DIRECTIONS]
RATE_HZ, LONG = 6_400.0, 512
DUTY = [Duty(for_s=2, speed=v, load=w) for v, w in ((1, 1), (0.9, 0.7), (1.1, 1.2))]
JOBS: dict[str, tuple[str, dict[str, Any]]] = {
    "dense": ("autoencoder", {"hop_samples": 16, "epochs": 30}),
    "convolutional": (
        "autoencoder",
        {"architecture": "convolutional", "hop_samples": 16, "epochs": 20, "hidden": 16},
    ),
    "forecaster": ("forecaster", {"window_samples": 40, "hop_samples": 20, "epochs": 30}),
    "spectral": (
        "spectral_autoencoder",
        {"window_samples": LONG, "hop_samples": LONG, "bands": 16, "epochs": 40},
    ),
}


def shake(windows: int, part: int, **changes: Any) -> NDArray[np.float32]:
    """Vibration of a machine, another stretch of time for each part."""
    machine = Machine(schedule=DUTY, ramp_s=0.5, **changes)
    made = Simulation(machine, rate_hz=RATE_HZ, columns=DIRECTIONS, seed=5 + part)
    state, out = made.begin(), []
    for _ in range(windows):
        state, values = made.block(state, LONG)
        out.append(np.frombuffer(values, np.float32).reshape(LONG, len(DIRECTIONS)))
    return np.stack(out)


def data(name: str, window: int, hop: int) -> dict[str, NDArray[np.float32]]:
    """Windows to learn from, healthy ones of another time, and faults."""
    if name == "spectral":
        bearing = [Defect(fault="outer", amplitude=0.3)]
        return {"learn": shake(400, 0), "healthy": shake(80, 1),
                "bearing": shake(80, 2, defects=bearing)}  # fmt: skip
    kinds: dict[str, dict[str, float]] = {"valve": {"valve": 0.8}, "wear": {"wear": 0.04}}
    if name == "forecaster":
        kinds = {"controller": {"pace": 4.0}}
    found = {"learn": cut(pump(6_000, 1), window, hop), "healthy": cut(pump(1_000, 2), window, hop)}
    return found | {k: cut(pump(1_000, 3, **v), window, hop) for k, v in kinds.items()}


def examples(samples: NDArray[np.float32]) -> Examples:
    nothing, place = np.zeros(len(samples), np.int64), np.arange(len(samples)) / len(samples)
    return Examples(samples, nothing - 1, nothing, (place >= 0.6) & (place < 0.7), place >= 0.7)


class Kept:
    """Checkpoints in memory; a training that reaches `dies_at` is killed."""

    def __init__(self) -> None:
        self.state: bytes | None = None

    def load(self) -> bytes | None:
        return self.state

    def save(self, state: bytes) -> None:
        self.state = state


def train(name: str, given: Examples, report: Any = lambda _: None, **more: Any) -> Trained:
    recipe = load_recipe(*JOBS[name])
    channels = VIBRATION if name == "spectral" else CHANNELS
    return recipe.train(
        given, channels=channels, labels=[], rate_hz=1.0, normalise=normalise, seed=1,
        report=report, **more,
    )  # fmt: skip


def killed_and_resumed(given: Examples, whole: Trained) -> bool:
    """Whether a training that was cut off and goes on ends with the very same weights."""
    kept = Kept()

    def kill(progress: dict[str, Any]) -> None:
        if progress.get("epoch") == 12:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        train("dense", given, kill, checkpoints=kept)
    assert kept.state is not None
    again = train("dense", given, checkpoints=kept)
    same = all(np.array_equal(a, b) for a, b in zip(
        whole.model.get_weights(), again.model.get_weights(), strict=True
    ))  # fmt: skip
    return same and again.history == whole.history


def main(folder: Path) -> None:
    told: dict[str, Any] = {}
    for name, (kind, settings) in JOBS.items():
        recipe: Any = load_recipe(kind, settings)
        plan = recipe.window_plan()
        sets = data(name, plan.window_samples, plan.hop_samples)
        given = examples(sets["learn"])
        trained = train(name, given)
        names = [c.name for c in (VIBRATION if name == "spectral" else CHANNELS)]
        representative = normalise(sets["learn"][given.fit][:100], trained.normalisation)
        for variant in VARIANTS if name in ("dense", "spectral") else ("int8", "float32"):
            data_ = convert(trained, representative, names, variant)
            (folder / f"{name}-{variant}.tflite").write_bytes(data_)
        np.savez(folder / f"{name}.npz", **sets, calibration=sets["learn"][given.calibration])
        told[name] = {
            "outputs": [o.model_dump(mode="json") for o in trained.outputs],
            "normalisation": trained.normalisation.model_dump(mode="json"),
            "channels": names, "rate_hz": 1.0,
            "window": plan.window_samples, "hop": plan.hop_samples,
        }  # fmt: skip
        if name == "dense":
            told["resumed"] = killed_and_resumed(given, trained)
            start = Start(weights.pack(trained.model), trained.normalisation, head_only=True)
            later = train(name, examples(cut(pump(3_000, 9), 32, 16)), start=start)
            (folder / "head.tflite").write_bytes(convert(later, representative, names))
            told["changed"] = [
                v.path for v, w in zip(later.model.weights, trained.model.weights, strict=True)
                if not np.array_equal(v.numpy(), w.numpy())
            ]  # fmt: skip
    (folder / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
