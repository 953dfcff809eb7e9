"""A look at the sealed set: counted, audited, once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fieldloop_contract.errors import RejectedInput
from fieldloop_contract.manifest import (
    Channel,
    FileRef,
    Golden,
    Input,
    Manifest,
    Normalisation,
    Output,
)
from fieldloop_models.recipe import WindowPlan
from fieldloop_store import frozensets, registry, runs
from fieldloop_store.engine import Store
from fieldloop_store.trail import trail
from fieldloop_training import datasets
from fieldloop_training.local import read_dataset
from fieldloop_training.sealed import Look, look
from support.models import CHANNELS, LABELS, RATE_HZ, WINDOW, model, windows

FLEET, MODEL = "acme", "limbs"


def manifest(file: bytes, version: int, window: int = WINDOW) -> Manifest:
    channels = [Channel(name=n, unit="g") for n in ("ax", "ay", "az")[:CHANNELS]]
    affine = Normalisation(centre=[0.0] * CHANNELS, scale=[1.0] * CHANNELS)
    return Manifest(
        name=MODEL, version=version, task="classification",
        files={"model.tflite": FileRef.of(file), "golden.npz": FileRef.of(b"g%d" % version)},
        inputs=[Input(name="signal", channels=channels, rate_hz=RATE_HZ, window_samples=window,
                      hop_samples=window, normalisation=affine)],
        outputs=[Output(name="activity", kind="probabilities", labels=LABELS)],
        golden=Golden(count=1, tolerance=0.1),
    )  # fmt: skip


class Shelf:
    """A store with two versions, and a dataset of which three recordings in twelve are sealed."""

    def __init__(self, folder: Path, sealed: int = 3) -> None:
        self.url = f"sqlite:///{folder}/store.sqlite"
        self.store = Store.open(self.url)
        labels = np.array([LABELS[i % 3] for i in range(120)])
        np.savez(
            folder / "w.npz", samples=windows(120), labels=labels, rate_hz=RATE_HZ,
            recordings=np.array([f"{i % 3}-{i % 4}" for i in range(120)]),
            channels=np.array(["ax:g", "ay:g", "az:g"]),
        )  # fmt: skip
        dataset = read_dataset(folder / "w.npz", WindowPlan(WINDOW, WINDOW))
        self.digest, path = datasets.write(dataset, folder / "datasets", {})
        keys = [r.key for r in dataset.recordings]
        self.sealed = keys[:sealed]
        parts = {k: "sealed" if k in self.sealed else "train" for k in keys}
        registry.add_dataset(
            self.store,
            registry.DatasetRow(self.digest, FLEET, {}, {"parts": parts}, str(path), 1),
        )
        runs.record_run(
            self.store,
            runs.RunRow(
                id="e" * 32, fleet=FLEET, recipe="activity_cnn", model=MODEL, state="approved",
                trigger={}, settings={}, dataset=self.digest, progress={}, verdict=None,
                created_ns=1, updated_ns=1,
            ),
        )  # fmt: skip
        file = model("good")
        for version, window in ((1, WINDOW), (2, WINDOW), (3, WINDOW // 2)):
            registry.register_model(
                self.store, fleet=FLEET, manifest=manifest(file, version, window), run="e" * 32,
                files={"model.tflite": file, "golden.npz": b"g%d" % version}, metrics={}, now_ns=1,
            )  # fmt: skip

    def look(self, version: int = 1, **changes: Any) -> Look:
        given = {"by": "ann", "reason": "before it goes to all sites", "now_ns": 5} | changes
        return look(self.store, FLEET, MODEL, version, **given)


@pytest.fixture
def shelf(tmp_path: Path) -> Any:
    made = Shelf(tmp_path)
    yield made
    made.store.close()


def test_a_look_is_told_counted_and_audited_and_comes_once(shelf: Shelf):
    told = shelf.look()
    assert (told.recordings, told.windows, told.look) == (3, 30, 1)
    assert 0 <= told.low <= told.figure <= told.high <= 1
    (entry,) = trail(shelf.store, action="training.sealed")
    assert (entry.actor, entry.fleet, entry.target) == ("ann", FLEET, "limbs/1")
    assert entry.detail["reason"] == "before it goes to all sites"
    assert entry.detail["figure"] == told.figure
    with pytest.raises(RejectedInput, match="looked at already") as caught:
        shelf.look()
    assert caught.value.code == "sealed.looked"
    assert shelf.look(insist=True).look == 2
    assert shelf.look(2).look == 3
    assert len(trail(shelf.store, action="training.sealed")) == 3
    assert frozensets.current_set(shelf.store, FLEET, MODEL) is None, "these are no frozen set"


def test_a_look_that_cannot_be_is_refused_and_counts_for_nothing(shelf: Shelf, tmp_path: Path):
    cases: list[tuple[dict[str, Any], str]] = [
        ({"version": 9}, "registry.unknown"),
        ({"by": " "}, "sealed.reason"),
        ({"reason": ""}, "sealed.reason"),
        ({"version": 3}, "sealed.unlike"),
    ]
    for changes, code in cases:
        with pytest.raises(RejectedInput) as caught:
            shelf.look(**changes)
        assert caught.value.code == code
    # What was opened as a frozen set is sealed no more.
    frozensets.add_set(shelf.store, FLEET, MODEL, 1, shelf.sealed, 2)
    with pytest.raises(RejectedInput, match="no recording of limbs is sealed"):
        shelf.look()
    assert frozensets.sealed_looks(shelf.store, FLEET, MODEL) == []
    assert trail(shelf.store) == []


def test_the_command_looks_once_and_says_who_has(shelf: Shelf):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FIELDLOOP_")}
    environment |= {"FIELDLOOP_FLEET": FLEET, "FIELDLOOP_STORE_URL": shelf.url}

    def command(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "fieldloop_training", "sealed", MODEL, "1", "--by", "ann",
             "--reason", "audit of the year", *more],
            env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    said = command("--json")
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["look"] == 1
    assert "looked at already" in command().stderr
