"""Recording ended runs in MLflow, where its URI is set (extra `mlflow`).

A run becomes an MLflow run with its parameters, curves, figures and files; a model becomes a
version of the registered model `{fleet}.{name}`, with the alias `champion` on the newest approved
version and `challenger` on the newest of all. The store stays the truth: MLflow being away or
absent is logged and costs nothing else. Recording a run again finds its tag and adds nothing.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from fieldloop_contract.manifest import MODEL_FILE
from fieldloop_runtime.journal import Journal
from fieldloop_store import artefacts, registry, runs
from fieldloop_store.engine import Store
from fieldloop_training.settings import TrainingSettings

RUN_TAG = "fieldloop.run"
VALUE_CHARS_MAX = 500
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""MLflow's own waits minutes for a server that is away, seven times."""
_HINT = "install fieldloop-training[mlflow]"


def record(store: Store, settings: TrainingSettings, run: str, journal: Journal) -> bool:
    """Record an ended run; False where MLflow is not set, absent or away."""
    if not settings.mlflow_uri:
        return False
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow import MlflowClient  # noqa: PLC0415 - an extra

        _record(MlflowClient(settings.mlflow_uri, settings.mlflow_uri), store, run)
    except ImportError as error:
        journal.warning("mlflow.absent", error=str(error), hint=_HINT)
        return False
    except Exception as error:  # noqa: BLE001 - another's service must not cost a run
        journal.warning("mlflow.failed", run=run, error=f"{type(error).__name__}: {error!s:.300}")
        return False
    return True


def _record(client: Any, store: Store, run: str) -> None:
    row = runs.find_run(store, run)
    if row is None or row.state not in runs.ENDED_STATES:
        return
    name = f"fieldloop.{row.fleet}"
    experiment = client.get_experiment_by_name(name)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(name)
    tagged = f"tags.`{RUN_TAG}` = '{row.id}'"
    found = client.search_runs([experiment_id], tagged, max_results=1)
    if found:
        return
    tags = {RUN_TAG: row.id, "fieldloop.state": row.state, "fieldloop.model": row.model}
    begun_ms = (row.started_ns or row.created_ns) // 1_000_000
    made = client.create_run(
        experiment_id, start_time=begun_ms, tags=tags, run_name=f"{row.model} {row.id[:8]}"
    )
    mine = made.info.run_id
    _log(client, store, row, mine)
    model = next((m for m in registry.list_models(store, row.fleet, name=row.model)
                  if m.run == row.id), None)  # fmt: skip
    if model is not None:
        _register(client, store, row, model, mine)
    status = "FINISHED" if row.state != "failed" else "FAILED"
    client.set_terminated(mine, status, end_time=(row.ended_ns or row.updated_ns) // 1_000_000)


def _log(client: Any, store: Store, row: runs.RunRow, mine: str) -> None:
    """Parameters, figures, curves and files."""
    given = {"recipe": row.recipe, "dataset": row.dataset, **(row.options or {}), **row.settings}
    for key, value in given.items():
        client.log_param(mine, key, str(value)[:VALUE_CHARS_MAX])
    verdict = row.verdict or {}
    client.set_tag(mine, "fieldloop.verdict", str(verdict.get("words"))[:VALUE_CHARS_MAX])
    for candidate, figures in (verdict.get("metrics") or {}).items():
        for figure, value in figures.items():
            client.log_metric(mine, f"{candidate}.{figure}", float(value))
    for epoch in runs.epochs_of(store, row.id):
        for figure, value in epoch.figures.items():
            client.log_metric(
                mine, figure, float(value), timestamp=epoch.at_ns // 1_000_000, step=epoch.epoch
            )
    with tempfile.TemporaryDirectory(prefix="fieldloop-mlflow-") as folder:
        for item in artefacts.list_artefacts(store, row.id):
            loaded = artefacts.load_artefact(store, row.id, item.name)
            if loaded is not None:
                (Path(folder) / item.name).write_bytes(loaded[1])
        client.log_artifacts(mine, folder)


def _register(
    client: Any, store: Store, row: runs.RunRow, model: registry.ModelRow, mine: str
) -> None:
    """The version and its bundle, and who is champion and challenger now."""
    name = f"{row.fleet}.{row.model}"
    manifest, files = registry.load_bundle(store, model.digest)
    with tempfile.TemporaryDirectory(prefix="fieldloop-mlflow-") as folder:
        for file, data in {**files, "manifest.json": manifest.encode()}.items():
            (Path(folder) / file).write_bytes(data)
        client.log_artifacts(mine, folder, "bundle")
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    source = f"{client.get_run(mine).info.artifact_uri}/bundle/{MODEL_FILE}"
    tags = {"fieldloop.version": str(model.version), "fieldloop.state": model.state}
    version = client.create_model_version(name, source, mine, tags=tags).version
    client.set_registered_model_alias(name, "challenger", version)
    if model.state == "approved":
        client.set_registered_model_alias(name, "champion", version)
