"""A run of an anomaly recipe on machines with confirmed healthy days and a confirmed fault."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fieldloop_contract.errors import RejectedInput
from fieldloop_contract.manifest import RunningWhen
from fieldloop_store import registry, runqueue, runs
from fieldloop_store.engine import Store
from fieldloop_training import datasets, healthy
from fieldloop_training.options import RunOptions
from support.training import FLEET, RATE_HZ, Field

RECIPE = {"window_samples": 32, "hop_samples": 16, "epochs": 15}
DAY_S = 86_400.0
TIMEOUT_S = 280


def pump(seconds: float, rng: np.random.Generator, fault: float = 0.0) -> NDArray[np.float32]:
    """float32[n, 3]: speed, and two pressures that follow it; a fault breaks what they share."""
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    speed = np.sin(2 * np.pi * 0.7 * t + rng.uniform(0, 6)) + 0.1 * rng.normal(size=len(t))
    inlet = 0.8 * speed + 0.1 * rng.normal(size=len(t))
    outlet = -0.5 * speed + 0.1 * rng.normal(size=len(t)) + fault
    return np.stack([speed, inlet, outlet], axis=1).astype(np.float32)


RUNNING = {"channels": ["ax"], "feature": "deviation", "above": 0.4}


def machines(field: Field, days: int) -> None:
    """Two pumps, a minute a day, each day confirmed; one has a fault on a day of its own.

    For the last of each minute a pump stands still, with what noise its sensors have.
    """
    for k in range(2):
        rng = np.random.default_rng(k)
        field.announce(f"pump-{k}")
        for _ in range(days):
            still = rng.normal(0, 0.02, (round(5 * RATE_HZ), 3)).astype(np.float32)
            whole = np.concatenate([pump(40, rng), still])
            span = field.record(f"pump-{k}", whole, pause_s=DAY_S)
            field.annotate(f"pump-{k}", span, "healthy")
    span = field.record("pump-0", pump(20, np.random.default_rng(9), 3.0), pause_s=DAY_S)
    field.annotate("pump-0", span, "blocked outlet")


def carry(folder: Path, run: str) -> None:
    """Carry the run out in a process of its own, as TensorFlow has to have one."""
    settings: dict[str, Any] = {
        "fleet": FLEET, "store_url": f"sqlite:///{folder}/store.sqlite",
        "datasets_dir": str(folder / "datasets"), "work_dir": str(folder / "work"),
    }  # fmt: skip
    code = (
        "import json, sys; from fieldloop_training import carrying; "
        "from fieldloop_training.settings import TrainingSettings; "
        "from fieldloop_store.engine import Store; from fieldloop_runtime.journal import Journal; "
        "s = TrainingSettings.model_validate(json.loads(sys.argv[1])); "
        "store = Store.open(s.store_url); row = carrying.claim(store, s, 'w', sys.argv[2]); "
        "carrying.carry_out(store, s, row, 'w', Journal('run'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(settings), run],
        capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def enqueue(
    store: Store, recipe: str = "autoencoder", settings: dict[str, Any] = RECIPE, **options: Any
) -> str:
    return runqueue.enqueue(
        store, fleet=FLEET, model="pumps", recipe=recipe, settings=settings,
        options={"stream": "imu", "running_when": RUNNING, **options}, trigger={"kind": "hand"},
        now_ns=time.time_ns(),
    )  # fmt: skip


@pytest.mark.timeout(1_000)
def test_an_anomaly_model_is_trained_on_healthy_days_and_judged_on_faults(tmp_path: Path):
    field = Field.at(tmp_path)
    machines(field, days=5)
    run = enqueue(field.store, false_alarms_max=0.05)
    carry(tmp_path, run)
    row = runs.find_run(field.store, run)
    assert row is not None
    assert row.state in ("approved", "rejected"), row.verdict
    verdict = row.verdict or {}
    gates = {g["name"]: g for g in verdict["gates"]}
    assert gates["learned"]["outcome"] == "passed", verdict["words"]
    assert gates["false alarms"]["outcome"] == "passed", verdict["words"]
    assert set(verdict["metrics"]) == {"int8", "float", "baseline"}
    assert verdict["metrics"]["int8"]["auc"] > 0.8
    model = registry.list_models(field.store, FLEET, name="pumps")[0]
    assert model.metrics["detected"]["blocked outlet"] == 1.0
    manifest, _ = registry.load_bundle(field.store, model.digest)
    assert manifest.task == "anomaly"
    assert manifest.outputs[0].threshold is not None
    assert manifest.calibration is not None
    assert manifest.running_when == RunningWhen.model_validate(RUNNING)
    assert "Threshold" in manifest.lineage.model_card
    dataset = registry.find_dataset(field.store, str(row.dataset))
    assert dataset is not None
    assert dataset.summary["windows_by_label"]["blocked outlet"] > 0
    uses = dataset.summary["windows_by_use"]
    assert min(uses["fit"], uses["calibration"], uses["held"]) > 0
    running = datasets.read(Path(dataset.path)).samples[..., 0].std(axis=1) > 0.4
    assert running.all(), "idle windows teach and prove nothing"
    # the same windows never train again by themselves
    again = enqueue(field.store, false_alarms_max=0.05)
    carry(tmp_path, again)
    row = runs.find_run(field.store, again)
    assert row is not None
    assert row.state == "skipped", row.verdict
    # A forecaster of the same machines is judged by its errors as well.
    ahead = enqueue(
        field.store, "forecaster", {**RECIPE, "horizon_samples": 8}, false_alarms_max=0.05
    )
    carry(tmp_path, ahead)
    row = runs.find_run(field.store, ahead)
    assert row is not None
    gates = {g["name"]: g for g in (row.verdict or {})["gates"]}
    # Two recordings are too few to pass, whatever they say.
    assert gates["forecast"]["outcome"] == "insufficient evidence", row.verdict
    assert "persistence by +" in gates["forecast"]["words"]
    assert gates["forecast int8"]["outcome"] == "passed", row.verdict
    assert "learned" in gates
    field.store.close()


def test_what_nobody_confirmed_and_is_young_teaches_nothing_and_says_so(tmp_path: Path):
    field = Field.at(tmp_path)
    field.announce("pump-0")
    field.record("pump-0", pump(20, np.random.default_rng(0)))
    from fieldloop_models.recipe import load_recipe  # noqa: PLC0415 - after the store's fixtures

    plan = load_recipe("autoencoder", RECIPE).window_plan()
    options = RunOptions(stream="imu", hold_back_s=1e9)
    with pytest.raises(RejectedInput, match="held back") as caught:
        healthy.take(field.store, fleet=FLEET, options=options, plan=plan, now_ns=time.time_ns())
    assert caught.value.code == "dataset.no-healthy"
    field.store.close()
