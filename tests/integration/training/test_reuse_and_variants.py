"""Warm start, head-only retraining, kept calibration and the variants, through the whole run.

One process trains them all, one after the other: TensorFlow is imported once.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fieldloop_scoring.golden import check_golden
from fieldloop_scoring.runners import open_runner
from fieldloop_store import artefacts, registry, runs
from fieldloop_store.engine import Store
from fieldloop_training.fitting import KEPT_ARTEFACT, WEIGHTS_ARTEFACT
from fieldloop_training.local import FLEET
from support.training import SWINGS_HZ, swing

WINDOW = 64
RECIPE = {
    "window_samples": WINDOW, "hop_samples": 32, "epochs": 8, "batch": 16, "filters": [8, 12, 16],
}  # fmt: skip
RUNS: list[dict[str, Any]] = [
    {},
    {"start": "champion", "head_only": True, "keep_calibration": True},
    {"variant": "int16"},
    {"variant": "float16"},
]
TIMEOUT_S = 900


def write_windows(path: Path) -> None:
    """Twelve people, each activity twice; one of them is held out whole."""
    rng = np.random.default_rng(4)
    rows: list[tuple[Any, str, str, str]] = []
    for device in range(12):
        for label in SWINGS_HZ:
            for take in range(2):
                x = swing(label, 5, rng)
                for at in range(0, len(x) - WINDOW + 1, 32):
                    rows.append((x[at : at + WINDOW], label, f"{label}-{take}", f"d-{device}"))
    samples, labels, recordings, devices = zip(*rows, strict=True)
    np.savez(
        path, samples=np.stack(samples), labels=np.array(labels), devices=np.array(devices),
        recordings=np.array(recordings), channels=np.array(["ax:g", "ay:g", "az:g"]), rate_hz=50.0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Four versions of one model, in the order of `RUNS`."""
    folder = tmp_path_factory.mktemp("reuse")
    write_windows(folder / "w.npz")
    code = (
        "import json, sys; from pathlib import Path; "
        "from fieldloop_training.local import run_local\n"
        "for o in json.loads(sys.argv[3]):\n"
        "    run_local(Path(sys.argv[1]), Path(sys.argv[2]), recipe='activity_cnn', "
        "settings=json.loads(sys.argv[4]), options=o, model='limbs')"
    )
    arguments = [str(folder / "w.npz"), str(folder / "out"), json.dumps(RUNS), json.dumps(RECIPE)]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    made = Store.open(f"sqlite:///{folder}/out/store.sqlite")
    yield made
    made.close()


def version(store: Store, number: int) -> tuple[registry.ModelRow, Any, dict[str, bytes]]:
    found = [m for m in registry.list_models(store, FLEET, name="limbs") if m.version == number]
    told = [(r.state, (r.verdict or {}).get("words")) for r in runs.list_runs(store, FLEET)]
    assert len(found) == 1, told
    return found[0], *registry.load_bundle(store, found[0].digest)


def weights(store: Store, row: registry.ModelRow) -> dict[str, Any]:
    loaded = artefacts.load_artefact(store, str(row.run), WEIGHTS_ARTEFACT)
    assert loaded is not None
    with np.load(io.BytesIO(loaded[1])) as file:
        return {name: file[name] for name in file.files}


@pytest.mark.timeout(1_000)
def test_a_head_only_run_begins_from_the_champion_and_leaves_its_body_and_calibration(store: Store):
    first, manifest_1, files_1 = version(store, 1)
    second, manifest_2, files_2 = version(store, 2)
    assert (first.state, second.state) == ("approved", "approved")
    assert second.metrics["warm_from"] == first.digest
    assert manifest_2.lineage.parent == manifest_1.ref()
    before, after = weights(store, first), weights(store, second)
    assert before.keys() == after.keys()
    changed = [name for name in before if not np.array_equal(before[name], after[name])]
    assert 0 < len(changed) <= 2, "a head's kernel and bias"
    assert manifest_2.inputs[0].normalisation == manifest_1.inputs[0].normalisation
    kept = [artefacts.load_artefact(store, str(r.run), KEPT_ARTEFACT) for r in (first, second)]
    assert kept[0] == kept[1]
    one, two = (np.frombuffer(f["model.tflite"], np.uint8) for f in (files_1, files_2))
    assert len(one) == len(two)
    assert (one != two).mean() < 0.1, "a small delta"


@pytest.mark.timeout(1_000)
def test_a_device_that_was_never_seen_has_figures_of_its_own(store: Store):
    for number in (1, 2):
        row, manifest, _ = version(store, number)
        assert row.metrics["unseen"]["devices"] == 1
        assert row.metrics["unseen"]["windows"] > 20
        assert row.metrics["unseen"]["accuracy"] > 0.8
        assert "On 1 devices of which nothing was learnt" in manifest.lineage.model_card


@pytest.mark.timeout(1_000)
@pytest.mark.parametrize(("number", "dtype"), [(3, "int16"), (4, "float32")])
def test_other_variants_go_through_conversion_gates_and_goldens(
    store: Store, number: int, dtype: str
):
    row, manifest, files = version(store, number)
    runner = open_runner(files["model.tflite"])
    assert runner.inputs[0].dtype == dtype
    assert check_golden(manifest, files["golden.npz"], runner).passed
    assert row.metrics["agreement"] > 0.98
    assert row.metrics["int8"]["accuracy"] > 0.8
    assert row.metrics["warm_from"] is None
    if dtype == "float32":  # half precision is stored, not computed with
        count = sum(v.size for v in weights(store, row).values())
        assert len(files["model.tflite"]) < 4 * count + 8_000
    assert {g["name"]: g["outcome"] for g in row.metrics["gates"]}["int8"] == "passed"
