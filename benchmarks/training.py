"""Training: what the pipeline costs over a bare fit and convert, and many models at once on Ray.

The yardstick is `benchmarks/training_bare.py`: the same recipe and data, `train` and `convert` and
nothing else, in a process of its own as the pipeline's is. Ray is measured where it is installed
(`make extras`, then `.venv-extras/bin/python -m benchmarks training`). Data is a simulated limb.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from fieldloop_runtime.journal import Journal
from fieldloop_store import registry, runqueue, runs
from fieldloop_store.engine import Store
from fieldloop_training import datasets
from fieldloop_training.local import FLEET, read_dataset
from fieldloop_training.service import make_carrier
from fieldloop_training.settings import TrainingSettings

RECIPE = {"window_samples": 64, "hop_samples": 32, "epochs": 20}
MODELS, ROUNDS = 20, 3
BARE = Path(__file__).with_name("training_bare.py")
RATE_HZ = 50.0


def measure(*, quick: bool) -> list[dict[str, Any]]:
    """Rows: seconds, and the ratio to the yardstick above them."""
    models, rounds = (3, 1) if quick else (MODELS, ROUNDS)
    with tempfile.TemporaryDirectory(prefix="fieldloop-bench-") as name:
        folder = Path(name)
        windows = folder / "windows.npz"
        make_windows(windows, seconds=6 if quick else 30)
        bare, whole = [], []
        for index in range(rounds):
            bare.append(bare_seconds(windows))
            whole.append(queue_seconds(folder / f"one-{index}", windows, 1, "local"))
        rows = [
            row("bare fit and convert, one model", min(bare), min(bare)),
            row("pipeline, one model", min(whole), min(bare)),
        ]
        alone = queue_seconds(folder / "alone", windows, models, "local")
        rows.append(row(f"{models} models, one local worker", alone, alone))
        if importlib.util.find_spec("ray") is not None:
            many = queue_seconds(folder / "ray", windows, models, "ray")
            rows.append(row(f"{models} models, Ray, {os.cpu_count()} at once", many, alone))
    return rows


def row(what: str, seconds: float, yardstick: float) -> dict[str, Any]:
    return {"what": what, "seconds": seconds, "times the yardstick": seconds / yardstick}


def make_windows(path: Path, seconds: float) -> None:
    """Six devices, three movements, four recordings of each."""
    rng = np.random.default_rng(0)
    samples, labels, recordings, devices = [], [], [], []
    for device in range(6):
        for label, frequency in (("rest", 0.0), ("walk", 1.0), ("run", 2.8)):
            for take in range(4):
                t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
                phase = 2 * np.pi * frequency * rng.uniform(0.9, 1.1) * t
                x = np.stack([np.sin(phase), 0.3 * np.sin(phase + 1), np.cos(phase)], axis=1)
                x = (x + rng.normal(0, 0.1, x.shape)).astype(np.float32)
                for k in range(0, len(x) - 64 + 1, 32):
                    samples.append(x[k : k + 64])
                    labels.append(label)
                    recordings.append(f"{label}-{take}")
                    devices.append(f"device-{device}")
    np.savez(
        path, samples=np.stack(samples), labels=np.array(labels),
        recordings=np.array(recordings), devices=np.array(devices),
        channels=np.array(["ax:g", "ay:g", "az:g"]), rate_hz=RATE_HZ,
    )  # fmt: skip


def bare_seconds(windows: Path) -> float:
    """Fit and convert with nothing around it, the start of the process included."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    begun_s = time.monotonic()
    subprocess.run(
        [sys.executable, str(BARE), str(windows), json.dumps(RECIPE)],
        env=environment, check=True, capture_output=True,
    )  # fmt: skip
    return time.monotonic() - begun_s


def queue_seconds(folder: Path, windows: Path, models: int, workers: str) -> float:
    """From the first enqueued run to the end of the last."""
    folder.mkdir()
    settings = TrainingSettings.model_validate(
        {
            "fleet": FLEET, "store_url": f"sqlite:///{folder}/store.sqlite", "stream": "signal",
            "datasets_dir": str(folder / "datasets"), "work_dir": str(folder / "work"),
            "recipe_settings": json.dumps(RECIPE), "workers": workers,
            "workers_max": os.cpu_count() or 1, "log_level": "ERROR",
        }
    )  # fmt: skip
    store = Store.open(settings.store_url, checkpoints=True)
    digest = put_dataset(store, settings, windows)
    carrier = make_carrier(store, settings, Journal("bench"))
    try:
        begun_s = time.monotonic()
        for number in range(models):
            runqueue.enqueue(
                store, fleet=FLEET, model=f"model-{number}", recipe="activity_cnn",
                settings=RECIPE, options={"stream": "signal", "dataset": digest, "seed": number},
                trigger={"kind": "hand"}, now_ns=time.time_ns(),
            )  # fmt: skip
        while True:
            carrier.step(time.monotonic())
            rows = runs.list_runs(store, FLEET)
            if all(r.state in runs.ENDED_STATES for r in rows):
                break
            time.sleep(0.05)
        taken_s = time.monotonic() - begun_s
    finally:
        carrier.close()
        store.close()
    ended = {r.state for r in rows}
    if not ended <= {"approved", "rejected"}:
        raise SystemExit(f"runs ended as {ended}: {rows[0].verdict}")
    return taken_s


def put_dataset(store: Store, settings: TrainingSettings, windows: Path) -> str:
    from fieldloop_models.recipe import load_recipe  # noqa: PLC0415 - after the process began

    dataset = read_dataset(windows, load_recipe("activity_cnn", RECIPE).window_plan())
    digest, file = datasets.write(dataset, Path(settings.datasets_dir), {})
    registry.add_dataset(
        store,
        registry.DatasetRow(digest, FLEET, {}, dataset.summary(), str(file), time.time_ns()),
    )
    return digest
