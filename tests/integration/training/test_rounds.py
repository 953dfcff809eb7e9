"""Round after round on a real store: triggers with restarts between, drift that asks once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fieldloop_contract.manifest import (
    Channel,
    FileRef,
    Golden,
    Input,
    Lineage,
    Manifest,
    Normalisation,
    Output,
)
from fieldloop_contract.messages import Event, from_object
from fieldloop_runtime.journal import Journal
from fieldloop_scoring.drift import Policy, Report
from fieldloop_scoring.sketch import Reference, Sketch
from fieldloop_store import questions, registry, runqueue, runs
from fieldloop_store.engine import Store
from fieldloop_store.ingest import Intake, store_intake
from fieldloop_store.rows import LogKey, event_row
from fieldloop_training.fleetdrift import FleetDrift
from fieldloop_training.service import Watcher
from fieldloop_training.settings import TrainingSettings
from support.training import FLEET, Field, swing

CHANNELS = ["ax", "ay", "az"]


@pytest.fixture
def field(tmp_path: Path) -> Iterator[Field]:
    made = Field.at(tmp_path)
    yield made
    made.store.close()


def settings_in(folder: Path, **changes: Any) -> TrainingSettings:
    values = {
        "fleet": FLEET, "store_url": f"sqlite:///{folder}/store.sqlite", "min_annotations": 3,
        "quiet_s": 0.0, "runs_per_day_max": 1_000,
    }  # fmt: skip
    return TrainingSettings.model_validate(values | changes)


class Ending:
    """A carrier whose runs end at once: what is tried is the watcher."""

    busy = False

    def __init__(self, store: Store) -> None:
        self.store = store

    def prepare(self, now_s: float) -> None:
        pass

    def close(self) -> None:
        pass

    def step(self, now_s: float) -> None:
        now_ns = time.time_ns()
        while (row := runqueue.claim(
            self.store, "w", fleet=FLEET, lease_ns=10**9, now_ns=now_ns)) is not None:  # fmt: skip
            runqueue.finish(self.store, row.id, "w", "rejected", {"words": "x"}, now_ns=now_ns)


def test_new_labels_start_one_run_a_round_over_fifty_rounds_with_restarts_between(
    field: Field, tmp_path: Path
):
    settings, rng = settings_in(tmp_path), np.random.default_rng(0)
    signal = swing("walk", 4, rng)
    for round_ in range(1, 51):
        for _ in range(3):
            field.annotate("subject-0", field.record("subject-0", signal), "walk")
        # the service starts anew and knows nothing but the store
        watcher = Watcher(field.store, settings, Journal("test"), Ending(field.store))
        for _ in range(4):
            watcher.step(time.monotonic())
        assert len(runs.list_runs(field.store, FLEET, limit=200)) == round_
    assert {r.trigger["kind"] for r in runs.list_runs(field.store, FLEET)} == {"labels"}


def serve(store: Store, version: int = 1) -> tuple[Manifest, Reference]:
    """An approved model with a drift reference of 2,000 windows."""
    rng = np.random.default_rng(1)
    reference = Reference.of(rng.normal(size=(2_000, 3)).astype(np.float32))
    policy = Policy(1, 200, 0.5, 1, 1)
    files = {"model.tflite": b"model %d" % version, "golden.npz": b"golden"}
    manifest = Manifest(
        name="activity", version=version, task="classification",
        files={k: FileRef.of(v) for k, v in files.items()},
        inputs=[
            Input(
                name="imu", channels=[Channel(name=c, unit="g") for c in CHANNELS], rate_hz=50,
                window_samples=8, hop_samples=4,
                normalisation=Normalisation(centre=[0.0] * 3, scale=[1.0] * 3),
            )
        ],
        outputs=[Output(name="activity", kind="probabilities", labels=["a", "b"])],
        golden=Golden(count=1, tolerance=0.1),
        drift_reference={**reference.to_object(), "policy": policy.to_object()},
        lineage=Lineage(counts={"windows_fit": 2_000}),
    )  # fmt: skip
    registry.register_model(
        store, fleet=FLEET, manifest=manifest, files=files, run=None, metrics={},
        now_ns=version,
    )  # fmt: skip
    return manifest, reference


class Devices:
    """Devices that report: what inference says of a report and of confirmed drift."""

    def __init__(self, store: Store, manifest: Manifest, reference: Reference) -> None:
        self.store, self.manifest, self.reference = store, manifest, reference
        self.rng, self.seq = np.random.default_rng(2), 0

    def report(self, device: str, shift: float = 0.0, windows: int = 200) -> None:
        sketch = Sketch(self.reference)
        values = self.rng.normal(size=(windows, 3))
        values[:, 1] += shift
        sketch.add(values.astype(np.float32))
        psi = {c: float(v) for c, v in zip(CHANNELS, sketch.psi(), strict=True)}
        report = Report(sketch, windows=windows, t0_ns=1, t1_ns=2)
        self.say(device, "drift.report", {"psi": psi, **report.to_object()})
        if max(psi.values()) > 0.5:
            self.say(device, "drift.detected", {"psi": psi})

    def say(self, device: str, type_: str, data: dict[str, Any]) -> None:
        self.seq += 1
        ref = self.manifest.ref().model_dump(mode="json")
        document = {
            "specversion": "1.0", "id": str(self.seq), "source": f"fieldloop/{device}",
            "type": type_, "time": "2026-01-01T00:00:00Z",
            "data": {"stream": "imu", "slot": "main", "model": ref, **data},
        }  # fmt: skip
        event = from_object(Event, document)
        log = LogKey(FLEET, device, "inference", "ab" * 16)
        row = event_row(log, self.seq, event, document, self.seq)
        store_intake(self.store, Intake(rows={"events": [row]}, received_ns=self.seq))


def test_drift_is_asked_about_once_with_its_evidence_and_restarts_ask_nothing_again(
    field: Field, tmp_path: Path
):
    store, settings = field.store, settings_in(tmp_path)
    devices = Devices(store, *serve(store))
    for round_ in range(10):
        for k in range(6):
            devices.report(f"d{k}", shift=1.5 if k == 3 else 0.0)
        asked = FleetDrift(store, settings).look(round_)
        assert len(asked) == (1 if round_ == 0 else 0)
    question = questions.list_questions(store, FLEET)[0]
    assert question.evidence["nature"] == "sensor"
    assert [f["device"] for f in question.evidence["findings"]] == ["d3"]
    assert [f["channel"] for f in question.evidence["findings"]] == ["ay"]
    assert runs.list_runs(store, FLEET) == []
    questions.answer(store, question.id, accept=False, by="ada", what="sensor", now_ns=99)
    devices.report("d3", shift=1.5)
    assert FleetDrift(store, settings).look(100) == []


def test_fifty_rounds_of_a_healthy_fleet_ask_nothing(field: Field, tmp_path: Path):
    store, settings = field.store, settings_in(tmp_path)
    devices = Devices(store, *serve(store))
    asked = []
    for round_ in range(50):
        for k in range(5):
            devices.report(f"d{k}")
        asked += FleetDrift(store, settings).look(round_)
    assert asked == []


def test_drift_of_a_classification_may_be_set_to_start_the_run_that_it_proposes(
    field: Field, tmp_path: Path
):
    store = field.store
    devices = Devices(store, *serve(store))
    for k in range(6):
        devices.report(f"d{k}", shift=1.5)
    settings = settings_in(tmp_path, drift_starts_runs=True)
    for _ in range(3):
        Watcher(store, settings, Journal("test"), Ending(store)).step(time.monotonic())
    rows = runs.list_runs(store, FLEET)
    assert [r.trigger["kind"] for r in rows] == ["drift"]
    assert "6 of 6 devices" in rows[0].trigger["reason"]
    assert [q.state for q in questions.list_questions(store, FLEET)] == ["started"]
