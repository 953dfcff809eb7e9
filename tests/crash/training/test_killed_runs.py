"""Runs killed at every stage: gone on with, ended once, nothing half published."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from fieldloop_store import artefacts, registry, runqueue, runs
from fieldloop_store.schema import blobs, models
from fieldloop_store.schema import runs as runs_table
from fieldloop_training import datasets
from support.training import FLEET, Field

CHILD = Path(__file__).with_name("stopping_child.py")
RECIPE = {
    "window_samples": 64, "hop_samples": 32, "epochs": 6, "batch": 16, "filters": [8, 12],
}  # fmt: skip
TIMEOUT_S = 250
pytestmark = pytest.mark.timeout(1_200)


@pytest.fixture
def field(tmp_path: Path) -> Iterator[Field]:
    made = Field.at(tmp_path)
    for number in range(2):
        made.subject(f"subject-{number}", seed=number)
    yield made
    made.store.close()


def enqueue(field: Field) -> str:
    return runqueue.enqueue(
        field.store, fleet=FLEET, model="activity", recipe="activity_cnn", settings=RECIPE,
        options={"stream": "imu"}, trigger={"kind": "hand"}, now_ns=1,
    )  # fmt: skip


def carry(folder: Path, run: str, point: str) -> int:
    """One attempt in a process; its exit status."""
    settings: dict[str, Any] = {
        "fleet": FLEET, "store_url": f"sqlite:///{folder}/store.sqlite",
        "datasets_dir": str(folder / "datasets"), "work_dir": str(folder / "work"),
    }  # fmt: skip
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, str(CHILD), point, json.dumps(settings), run],
        env=environment, capture_output=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()[-2000:]
    return done.returncode


def lapse(field: Field, run: str) -> None:
    """The lease of the killed owner runs out; its attempt is forgiven, as many follow."""
    gone = {"lease_ns": 1, "attempt": 0}
    with field.store.begin() as connection:
        connection.execute(update(runs_table).where(runs_table.c.id == run).values(**gone))


def published(field: Field) -> int:
    with field.store.read() as connection:
        return connection.execute(select(func.count()).select_from(models)).scalar_one()


def test_a_run_killed_at_each_stage_in_turn_goes_on_and_publishes_once(
    field: Field, tmp_path: Path
):
    """One run, killed at eight points one after the other: each attempt begins where it can."""
    run = enqueue(field)
    dataset = None
    points = ["dataset", "training", "epoch 3", "conversion", "evaluation", "registration",
              "before-commit"]  # fmt: skip
    for point in points:
        assert carry(tmp_path, run, point) == -signal.SIGKILL, point
        row = runs.find_run(field.store, run)
        assert row is not None
        assert row.state == "running"
        assert published(field) == 0
        assert artefacts.list_artefacts(field.store, run) == []
        if point == "epoch 3":
            # One epoch was checkpointed at least: the next attempt begins after it.
            assert (tmp_path / "work" / run / "training.state").exists()
            assert [e.epoch for e in runs.epochs_of(field.store, run)] == [1, 2, 3]
        if row.dataset is not None:
            dataset = dataset or row.dataset
            assert row.dataset == dataset, "an attempt goes on with the dataset that it had"
        lapse(field, run)
    # What was converted before the kill is what is evaluated now: no epoch is trained again.
    before = {e.epoch: e.at_ns for e in runs.epochs_of(field.store, run)}
    assert carry(tmp_path, run, "after-commit") == -signal.SIGKILL
    assert {e.epoch: e.at_ns for e in runs.epochs_of(field.store, run)} == before
    row = runs.find_run(field.store, run)
    assert row is not None
    assert row.state in ("approved", "rejected")
    assert published(field) == 1
    version = registry.list_models(field.store, FLEET)[0]
    manifest, _ = registry.load_bundle(field.store, version.digest)
    assert manifest.lineage.dataset == dataset
    with field.store.read() as connection:
        stored = connection.execute(select(func.count()).select_from(blobs)).scalar_one()
    wanted = {a.sha256 for a in artefacts.list_artefacts(field.store, run)}
    wanted |= {ref.sha256 for ref in manifest.files.values()}
    wanted |= {a.sha256 for a in artefacts.list_artefacts(field.store, str(dataset))}
    assert stored == len(wanted)
    found = registry.find_dataset(field.store, str(dataset))
    assert found is not None
    assert datasets.read(Path(found.path)).digest() == dataset
    # It has ended: nobody can claim it, and its late owner is refused.
    assert runqueue.claim(field.store, "w", fleet=FLEET, lease_ns=1, now_ns=1 << 62) is None


def test_a_damaged_dataset_file_refuses_the_run_that_goes_on_before_any_epoch(
    field: Field, tmp_path: Path
):
    run = enqueue(field)
    assert carry(tmp_path, run, "training") == -signal.SIGKILL
    row = runs.find_run(field.store, run)
    assert row is not None
    stored = registry.find_dataset(field.store, str(row.dataset))
    assert stored is not None
    path = Path(stored.path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    lapse(field, run)
    assert carry(tmp_path, run, "never") == 0
    row = runs.find_run(field.store, run)
    assert row is not None
    assert row.state == "refused"
    assert (row.verdict or {})["code"] in ("dataset.damaged", "dataset.digest")
    assert runs.epochs_of(field.store, run) == []
    assert published(field) == 0
