"""What people bring: dataset files, good and bad, and `.tflite` files that were made elsewhere.

Nothing here trains, so that nothing here needs TensorFlow in this process.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fieldloop_contract.errors import FieldloopError
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
from fieldloop_store import artefacts, registry, runqueue, runs
from fieldloop_store.engine import Store
from fieldloop_training import carrying, datasets
from fieldloop_training.fitting import IMPORTED_MANIFEST, IMPORTED_MODEL
from fieldloop_training.local import FLEET, read_dataset, run_local
from fieldloop_training.settings import TrainingSettings
from support.models import CHANNELS, LABELS, RATE_HZ, WINDOW, model, windows

SETTINGS: dict[str, Any] = {"window_samples": WINDOW, "hop_samples": WINDOW, "epochs": 1}


def arrays(count: int = 60) -> dict[str, Any]:
    """Good windows: three labels, four recordings of each."""
    labels = np.array([LABELS[i % 3] for i in range(count)])
    return {
        "samples": windows(count), "labels": labels,
        "recordings": np.array([f"{i % 3}-{i % 4}" for i in range(count)]),
        "channels": np.array(["ax:g", "ay:g", "az:g"]), "rate_hz": RATE_HZ,
    }  # fmt: skip


def with_nan(given: dict[str, Any]) -> None:
    given["samples"][7, 3, 1] = np.nan


def of_one_class(given: dict[str, Any]) -> None:
    given["labels"][:] = LABELS[0]


def with_a_constant_channel(given: dict[str, Any]) -> None:
    given["samples"][:, :, 2] = 1.0


def of_too_few_windows(given: dict[str, Any]) -> None:
    for name in ("samples", "labels", "recordings"):
        given[name] = given[name][:9]


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (with_nan, "dataset.not-finite"),
        (of_one_class, "dataset.one-class"),
        (with_a_constant_channel, "dataset.constant"),
        (of_too_few_windows, "dataset.too-few"),
    ],
)
def test_windows_that_teach_nothing_are_refused_before_any_epoch(
    spoil: Any, code: str, tmp_path: Path
):
    given = arrays()
    spoil(given)
    np.savez(tmp_path / "w.npz", **given)
    row = run_local(
        tmp_path / "w.npz", tmp_path / "out", recipe="activity_cnn", settings=SETTINGS, options={}
    )
    assert row.state == "refused"
    assert (row.verdict or {})["code"] == code
    assert (tmp_path / "out" / "verdict.json").exists()
    assert "epoch" not in row.progress
    assert "tensorflow" not in sys.modules


def no_labels(path: Path) -> None:
    np.savez(path, samples=windows(20))


def another_count(path: Path) -> None:
    np.savez(path, samples=windows(20), labels=np.array(["a"] * 19))


def flat(path: Path) -> None:
    np.savez(path, samples=np.zeros(20), labels=np.array(["a"] * 20))


def cut_off(path: Path) -> None:
    np.savez(path, **arrays())
    path.write_bytes(path.read_bytes()[:5_000])


def pickled(path: Path) -> None:
    np.savez(path, samples=windows(4), labels=np.array([{"a": 1}] * 4, object))


def wrong_channels(path: Path) -> None:
    np.savez(path, **(arrays() | {"channels": np.array(["ax:g"])}))


@pytest.mark.parametrize(
    "spoil", [no_labels, another_count, flat, cut_off, pickled, wrong_channels]
)
def test_files_that_are_no_dataset_are_refused_in_words(spoil: Any, tmp_path: Path):
    spoil(tmp_path / "w.npz")
    with pytest.raises(FieldloopError, match=r"w\.npz"):
        run_local(
            tmp_path / "w.npz", tmp_path / "out", recipe="activity_cnn", settings=SETTINGS,
            options={},
        )  # fmt: skip


def test_a_file_that_is_not_there_or_of_another_kind_says_what_to_give(tmp_path: Path):
    (tmp_path / "w.csv").write_text("a,b\n", encoding="utf-8")
    for name in ("none.npz", "w.csv"):
        with pytest.raises(FieldloopError, match=r"\.npz"):
            run_local(
                tmp_path / name, tmp_path / "out", recipe="activity_cnn", settings=SETTINGS,
                options={},
            )  # fmt: skip


class Bench:
    """A store with a dataset, and the settings to judge files on it."""

    def __init__(self, folder: Path) -> None:
        from fieldloop_models.recipe import load_recipe  # noqa: PLC0415 - by entry point

        self.settings = TrainingSettings(
            fleet=FLEET, model="activity", store_url=f"sqlite:///{folder}/store.sqlite",
            datasets_dir=str(folder / "datasets"), work_dir=str(folder / "work"),
        )  # fmt: skip
        self.store = Store.open(self.settings.store_url)
        np.savez(folder / "w.npz", **arrays(240))
        plan = load_recipe("activity_cnn", SETTINGS).window_plan()
        dataset = read_dataset(folder / "w.npz", plan)
        self.digest, path = datasets.write(dataset, folder / "datasets", {})
        registry.add_dataset(
            self.store,
            registry.DatasetRow(self.digest, FLEET, {}, dataset.summary(), str(path), 1),
        )

    def judge(self, file: bytes, manifest: bytes) -> runs.RunRow:
        run = runqueue.enqueue(
            self.store, fleet=FLEET, model="activity", recipe="activity_cnn", settings=SETTINGS,
            options={"stream": "signal", "dataset": self.digest, "imported": True},
            trigger={"kind": "hand"}, now_ns=time.time_ns(),
        )  # fmt: skip
        files = {
            IMPORTED_MODEL: ("application/octet-stream", file),
            IMPORTED_MANIFEST: ("application/json", manifest),
        }
        with self.store.begin() as connection:
            artefacts.add_artefacts(connection, run, files, 1)
        row = carrying.claim(self.store, self.settings, "w", run)
        assert row is not None
        carrying.carry_out(self.store, self.settings, row, "w", Journal("test"))
        ended = runs.find_run(self.store, run)
        assert ended is not None
        return ended


def described(file: bytes, labels: list[str] | None = None, window: int = WINDOW) -> bytes:
    names = ["ax", "ay", "az"][:CHANNELS]
    return Manifest(
        name="theirs", version=7, task="classification",
        files={"model.tflite": FileRef.of(file), "golden.npz": FileRef.of(b"x")},
        inputs=[
            Input(
                name="signal", channels=[Channel(name=n, unit="g") for n in names],
                rate_hz=RATE_HZ, window_samples=window, hop_samples=window,
                normalisation=Normalisation(centre=[0.0] * CHANNELS, scale=[1.0] * CHANNELS),
            )
        ],
        outputs=[Output(name="activity", kind="probabilities", labels=labels or LABELS)],
        golden=Golden(count=1, tolerance=0.1),
    ).encode()  # fmt: skip


def test_a_file_made_elsewhere_goes_through_the_same_gates(tmp_path: Path):
    bench = Bench(tmp_path)
    file = model("good")
    row = bench.judge(file, described(file))
    # It names other things than these labels, so it is kept for inspection and not published.
    assert row.state == "rejected", row.verdict
    gates = {g["name"]: g["outcome"] for g in (row.verdict or {})["gates"]}
    assert gates["learned"] == "failed"
    assert {"int8", "baseline", "champion", "size", "latency", "memory"} <= set(gates)
    kept = registry.list_models(bench.store, FLEET)[0]
    manifest, files = registry.load_bundle(bench.store, kept.digest)
    assert files["model.tflite"] == file
    assert (manifest.name, manifest.version) == ("activity", 1)
    assert manifest.lineage.recipe == "imported"
    assert manifest.golden.count > 1
    bench.store.close()


def test_files_that_cannot_be_judged_are_refused_and_nothing_is_kept(tmp_path: Path):
    bench = Bench(tmp_path)
    good = model("good")
    cases = [
        (good[:2_000], described(good[:2_000]), "edge"),
        (model("unknown-op"), described(model("unknown-op")), "edge"),
        (good, b"{}", "import.manifest"),
        (good, described(good, window=16), "import.unlike"),
        (good, described(good, labels=["rest", "walk"]), "edge"),
    ]
    for file, manifest, code in cases:
        row = bench.judge(file, manifest)
        assert row.state == "refused", row.verdict
        assert (row.verdict or {})["code"].startswith(code), row.verdict
    assert registry.list_models(bench.store, FLEET) == []
    bench.store.close()
