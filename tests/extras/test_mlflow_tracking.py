"""Ended runs in a real MLflow on SQLite: parameters, curves, files, aliases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from fieldloop_contract.manifest import (
    Channel,
    FileRef,
    Golden,
    Input,
    Manifest,
    Normalisation,
    Output,
)
from fieldloop_runtime.journal import Journal
from fieldloop_store import registry, runqueue
from fieldloop_store.engine import Store
from fieldloop_store.runs import Epoch
from fieldloop_training.settings import TrainingSettings
from fieldloop_training.tracking import RUN_TAG, record


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(f"sqlite:///{tmp_path}/store.sqlite")
    yield opened
    opened.close()


def settings(tmp_path: Path, **changes: Any) -> TrainingSettings:
    return TrainingSettings(
        fleet="demo", mlflow_uri=f"sqlite:///{tmp_path}/mlflow.sqlite", **changes
    )


def ended(store: Store, version: int, state: str) -> str:
    """A run that made a version, with two epochs and a plot."""
    run = runqueue.enqueue(
        store, fleet="demo", model="activity", recipe="activity_cnn",
        settings={"epochs": 2}, options={"seed": version}, trigger={"kind": "hand"},
        now_ns=version * 10**9,
    )  # fmt: skip
    held = runqueue.claim(store, "w", fleet="demo", lease_ns=10**12, now_ns=10**10, run=run)
    assert held is not None
    curve = [Epoch(n, {"loss": 1.0 / n}, 10**10 + n * 10**6) for n in (1, 2)]
    assert runqueue.update_run(store, run, "w", now_ns=10**10, epochs=curve)
    files = {"model.tflite": b"model %d" % version, "golden.npz": b"golden"}
    manifest = Manifest(
        name="activity", version=version, task="classification",
        files={k: FileRef.of(v) for k, v in files.items()},
        inputs=[
            Input(
                name="imu", channels=[Channel(name="ax", unit="g")], rate_hz=50,
                window_samples=8, hop_samples=4,
                normalisation=Normalisation(centre=[0.0], scale=[1.0]),
            )
        ],
        outputs=[Output(name="activity", kind="probabilities", labels=["a", "b"])],
        golden=Golden(count=1, tolerance=0.1),
    )  # fmt: skip
    verdict = {"words": f"{state}: because", "metrics": {"int8": {"accuracy": 0.9}}}
    plot = {"confusion.png": ("image/png", b"png")}
    assert registry.publish(
        store, registry.Result(run, "w", verdict, plot), fleet="demo", manifest=manifest,
        files=files, metrics={}, state=state, now_ns=10**11,  # type: ignore[arg-type]
    )  # fmt: skip
    return run


def test_runs_models_and_aliases_are_in_mlflow_once(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)  # where MLflow puts its files
    given, journal = settings(tmp_path), Journal("test")
    first, second = ended(store, 1, "approved"), ended(store, 2, "rejected")
    for run in (first, second, second):
        assert record(store, given, run, journal)
    client = MlflowClient(given.mlflow_uri, given.mlflow_uri)
    experiment = client.get_experiment_by_name("fieldloop.demo")
    assert experiment is not None
    found = {r.data.tags[RUN_TAG]: r for r in client.search_runs([experiment.experiment_id])}
    assert set(found) == {first, second}
    one = found[first]
    assert one.info.status == "FINISHED"
    assert one.data.params["epochs"] == "2"
    assert one.data.params["seed"] == "1"
    assert one.data.metrics["int8.accuracy"] == 0.9
    history = client.get_metric_history(one.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(1, 1.0), (2, 0.5)]
    files = {f.path for f in client.list_artifacts(one.info.run_id)}
    assert {"confusion.png", "bundle"} <= files
    champion = client.get_model_version_by_alias("demo.activity", "champion")
    challenger = client.get_model_version_by_alias("demo.activity", "challenger")
    assert champion.tags["fieldloop.version"] == "1"
    assert challenger.tags["fieldloop.version"] == "2"
    assert champion.run_id == one.info.run_id


def test_an_mlflow_that_is_away_costs_a_warning_and_nothing_else(store: Store):
    run = ended(store, 1, "approved")
    away = TrainingSettings(fleet="demo", mlflow_uri="http://127.0.0.1:9")
    assert not record(store, away, run, Journal("test"))
    assert not record(store, TrainingSettings(fleet="demo"), run, Journal("test"))
