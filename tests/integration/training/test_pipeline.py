"""The whole run: a store with labelled signals in, a signed-ready bundle and its lineage out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from sqlalchemy import func, select

from fieldloop_runtime.journal import Journal
from fieldloop_scoring.golden import check_golden
from fieldloop_scoring.runners import open_runner
from fieldloop_scoring.scorer import Scorer
from fieldloop_store import artefacts, registry, runqueue, runs
from fieldloop_store.engine import Store
from fieldloop_store.schema import models
from fieldloop_training import datasets
from fieldloop_training.lineage import lineage
from fieldloop_training.marks import usable_marks
from fieldloop_training.service import LocalCarrier, Watcher
from fieldloop_training.settings import TrainingSettings
from fieldloop_training.worker import Worker
from support.training import FLEET, SWINGS_HZ, Field, swing

RECIPE = {
    "window_samples": 64, "hop_samples": 32, "epochs": 12, "batch": 16, "filters": [8, 12, 16],
}  # fmt: skip
DEADLINE_S = 260.0


@pytest.fixture
def field(tmp_path: Path) -> Iterator[Field]:
    made = Field.at(tmp_path)
    yield made
    made.store.close()


def settings_in(folder: Path, **changes: Any) -> TrainingSettings:
    values = {
        "fleet": FLEET, "store_url": f"sqlite:///{folder}/store.sqlite",
        "datasets_dir": str(folder / "datasets"), "work_dir": str(folder / "work"),
        "recipe_settings": json.dumps(RECIPE),
        "min_annotations": 3, "quiet_s": 0.0, "poll_s": 0.05,
    }  # fmt: skip
    return TrainingSettings.model_validate(values | changes)


class Service:
    """The watcher without its process: the test drives its steps."""

    def __init__(self, store: Store, settings: TrainingSettings):
        journal = Journal("test")
        self.worker = Worker(journal, run_seconds_max=settings.run_seconds_max)
        self.watcher = Watcher(
            store, settings, journal, LocalCarrier(store, settings, journal, self.worker)
        )
        self.store = store

    def until_ended(self, count: int) -> runs.RunRow:
        """Step until that many runs have ended and none is under way; the newest."""
        deadline_s = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline_s:
            self.watcher.step(time.monotonic())
            rows = runs.list_runs(self.store, FLEET)
            if len(rows) >= count and rows[0].state in runs.ENDED_STATES and not self.worker.busy:
                return rows[0]
            time.sleep(0.02)
        raise AssertionError("no run ended in time")


@pytest.fixture
def service(field: Field, tmp_path: Path) -> Iterator[Service]:
    made = Service(field.store, settings_in(tmp_path))
    yield made
    made.watcher.close()


@pytest.mark.timeout(600)
def test_the_loop_from_labels_to_a_second_and_better_version(
    field: Field, service: Service, tmp_path: Path
):
    for number in range(2):
        field.subject(f"subject-{number}", seed=number)
    run = service.until_ended(1)
    assert run.state == "approved", run.verdict
    assert run.verdict is not None
    assert run.progress["stage"] == "done"
    curve = runs.epochs_of(field.store, run.id)
    assert [e.epoch for e in curve] == list(range(1, 13))
    assert all({"loss", "accuracy"} <= set(e.figures) for e in curve)
    files = {a.name: a for a in artefacts.list_artefacts(field.store, run.id)}
    assert {"card.md", "confusion.png", "roc.png", "precision-recall.png", "curves.png",
            "float-int8.png", "slices.png", "weights.npz"} <= set(files)  # fmt: skip
    plot = artefacts.load_artefact(field.store, run.id, "confusion.png")
    assert plot is not None
    assert plot[1].startswith(b"\x89PNG")
    assert {a.name for a in artefacts.list_artefacts(field.store, str(run.dataset))} == {
        "labels.png",
        "devices.png",
        "windows.png",
    }
    assert set(run.progress["seconds"]) >= {"dataset", "training", "conversion", "evaluation"}

    # the bundle: int8, small, right in the edge runtime on people it never saw
    model = registry.approved_models(field.store, FLEET)[0]
    manifest, files = registry.load_bundle(field.store, model.digest)
    runner = open_runner(files["model.tflite"])
    assert (runner.inputs[0].dtype, runner.outputs[0].dtype) == ("int8", "int8")
    assert len(files["model.tflite"]) < 150_000
    assert [(c.name, c.unit) for c in manifest.inputs[0].channels] == [
        ("ax", "g"), ("ay", "g"), ("az", "g"),
    ]  # fmt: skip
    assert manifest.drift_reference is not None
    assert "policy" in manifest.drift_reference
    assert manifest.golden.tolerance == pytest.approx(3 * runner.outputs[0].scale)
    assert check_golden(manifest, files["golden.npz"], runner).passed
    scorer, rng = Scorer(manifest, runner), np.random.default_rng(99)
    tried = [label for label in SWINGS_HZ for _ in range(10)]
    named = [scorer.score(swing(label, 64 / 50, rng)).label for label in tried]
    assert np.mean([a == b for a, b in zip(tried, named, strict=True)]) > 0.8

    # lineage: what made it
    line = lineage(field.store, FLEET, "activity", 1)
    assert line["made_by"]["run"] == run.id
    assert line["made_by"]["dataset"] == run.dataset
    assert line["made_by"]["code"]
    assert set(line["made_by"]["metrics"]) == {"int8", "float", "baseline"}
    stored = datasets.read(Path(line["dataset"]["path"]))
    assert stored.digest() == run.dataset
    assert "Where it ends" in line["model_card"]
    uses = line["dataset"]["summary"]["windows_by_use"]
    assert uses["held"] > 0
    assert sum(uses.values()) == len(stored.places)

    # nothing new, nothing happens; new labels, a second version against the first
    for _ in range(5):
        service.watcher.step(time.monotonic())
    assert len(runs.list_runs(field.store, FLEET)) == 1
    field.subject("subject-2", seed=2)
    second = service.until_ended(2)
    assert second.verdict is not None
    assert second.verdict["version"] == 2
    assert "champion" in second.verdict["metrics"]
    manifest_2, _ = registry.load_bundle(field.store, second.verdict["digest"])
    assert manifest_2.lineage.parent == manifest.ref()
    # what a rollout judges its shadow by
    recent = manifest_2.lineage.metrics["recent"]
    assert 0 <= recent["disagreement"] <= 1
    assert recent["windows"] > 0
    first_parts = registry.find_dataset(field.store, str(run.dataset))
    second_parts = registry.find_dataset(field.store, str(second.dataset))
    assert first_parts is not None
    assert second_parts is not None
    assert first_parts.summary["parts"].items() <= second_parts.summary["parts"].items()


def one_class(field: Field) -> None:
    rng = np.random.default_rng(0)
    field.announce("subject-0")
    for _ in range(3):
        field.annotate("subject-0", field.record("subject-0", swing("walk", 12, rng)), "walk")


def constant_channel(field: Field) -> None:
    rng = np.random.default_rng(0)
    field.announce("subject-0")
    for label in SWINGS_HZ:
        signal = swing(label, 12, rng)
        signal[:, 1] = 0.25
        field.annotate("subject-0", field.record("subject-0", signal), label)


def too_little(field: Field) -> None:
    field.subject("subject-0", seed=0, seconds=3.0)


def undeclared(field: Field) -> None:
    field.channels = field.units = []
    field.subject("subject-0", seed=0)


def unlike_units(field: Field) -> None:
    field.subject("subject-0", seed=0)
    field.units = ["m/s2"] * 3
    field.subject("subject-1", seed=1)


def shorter_than_a_window(field: Field) -> None:
    field.subject("subject-0", seed=0, seconds=1.0)


def test_data_that_teach_nothing_are_refused_before_an_epoch_and_the_service_goes_on(
    tmp_path: Path,
):
    cases = [
        (one_class, "dataset.one-class", "only one class is labelled: walk"),
        (constant_channel, "dataset.constant", "channel ay is constant"),
        (too_little, "dataset.too-few", "labelled windows"),
        (undeclared, "dataset.channels", "FIELDLOOP_CHANNELS"),
        (unlike_units, "dataset.streams", "differ"),
        (shorter_than_a_window, "dataset.empty", "no labelled window"),
    ]
    for case, code, said in cases:
        folder = tmp_path / case.__name__
        folder.mkdir()
        field = Field.at(folder)
        case(field)
        settings = settings_in(folder)
        row = run_here(field.store, settings)
        assert row.state == "refused", (case.__name__, row.verdict)
        assert row.verdict is not None
        assert row.verdict["code"] == code
        assert said in row.verdict["words"]
        assert "epoch" not in row.progress
        with field.store.read() as connection:
            assert connection.execute(select(func.count()).select_from(models)).scalar() == 0
        field.store.close()


def run_here(store: Store, settings: TrainingSettings) -> runs.RunRow:
    """One run in this process; only for runs that end before TensorFlow is needed."""
    from fieldloop_training import carrying  # noqa: PLC0415 - imported as late as a child does

    run_id = runqueue.enqueue(
        store, fleet=FLEET, model=settings.model, recipe=settings.recipe,
        settings=settings.recipe_object(), trigger={"kind": "hand"}, now_ns=time.time_ns(),
    )  # fmt: skip
    row = carrying.claim(store, settings, "test", run_id)
    assert row is not None
    carrying.carry_out(store, settings, row, "test", Journal("test"))
    found = runs.find_run(store, run_id)
    assert found is not None
    assert "tensorflow" not in sys.modules
    return found


def test_wrong_recipe_settings_are_refused_in_words(field: Field, tmp_path: Path):
    field.subject("subject-0", seed=0)
    row = run_here(field.store, settings_in(tmp_path, recipe_settings='{"epoch": 3}'))
    assert row.state == "refused"
    assert row.verdict is not None
    assert "epoch" in row.verdict["words"]


def test_a_label_counts_only_once_its_signal_has_arrived(field: Field):
    rng = np.random.default_rng(0)
    span = field.record("subject-0", swing("walk", 10, rng))
    field.annotate("subject-0", (span[0], span[1] + 60 * 10**9), "walk")
    assert usable_marks(field.store, FLEET, "imu") == {}
    field.annotate("subject-0", span, "walk")
    field.annotate("subject-0", (span[0], span[0] + 10**9), "unknown")
    marks = usable_marks(field.store, FLEET, "imu")
    assert [m.count for m in marks.values()] == [1]


def test_a_dataset_never_trains_twice_with_the_same_recipe(field: Field, tmp_path: Path):
    one_class(field)
    settings = settings_in(tmp_path)
    rng = np.random.default_rng(1)
    for label in ("rest", "run"):
        field.annotate("subject-0", field.record("subject-0", swing(label, 12, rng)), label)
    from fieldloop_models.recipe import load_recipe  # noqa: PLC0415
    from fieldloop_training.snapshot import take  # noqa: PLC0415 - imported as late as a child does

    recipe = load_recipe(settings.recipe, settings.recipe_object())
    snap = take(field.store, fleet=FLEET, stream="imu", plan=recipe.window_plan(), fallback=[])
    runs.record_run(
        field.store,
        runs.RunRow(
            id="e" * 32, fleet=FLEET, recipe=settings.recipe, model=settings.model,
            state="rejected", trigger={}, settings=settings.recipe_object(),
            dataset=snap.dataset.digest(), progress={}, verdict=None, created_ns=1, updated_ns=1,
        ),
    )  # fmt: skip
    row = run_here(field.store, settings)
    assert row.state == "skipped"
    assert row.verdict is not None
    assert "e" * 12 in row.verdict["words"]


def start_process(folder: Path) -> subprocess.Popen[bytes]:
    settings = settings_in(folder, recipe_settings=json.dumps({**RECIPE, "epochs": 500}))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FIELDLOOP_")}
    for name, value in settings.model_dump(mode="json", exclude={"health"}).items():
        environment[f"FIELDLOOP_{name.upper()}"] = str(value)
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "fieldloop_training", "run"], env=environment, stdout=log
        )


def wait_for(check: Any, what: str) -> Any:
    deadline_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline_s:
        if found := check():
            return found
        time.sleep(0.05)
    raise AssertionError(f"no {what} in time")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_child_outlives_the_service_and_the_run_waits_to_be_gone_on_with(
    field: Field, tmp_path: Path, number: int
):
    field.subject("subject-0", seed=0)
    process = start_process(tmp_path)

    def child() -> list[psutil.Process]:
        rows = runs.list_runs(field.store, FLEET, states=["running"])
        return psutil.Process(process.pid).children() if rows else []

    children = wait_for(child, "run")
    process.send_signal(number)
    status = process.wait(20)
    assert status == (0 if number == signal.SIGTERM else -signal.SIGKILL)
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert (len(gone), alive) == (len(children), [])
    row = runs.list_runs(field.store, FLEET)[0]
    if number == signal.SIGTERM:
        assert (row.state, row.attempt) == ("queued", 0)
    else:
        assert row.state == "running"
        late_ns = time.time_ns() + 3_600 * 10**9
        again = runqueue.claim(field.store, "next", fleet=FLEET, lease_ns=1, now_ns=late_ns)
        assert again is not None
        assert (again.id, again.attempt) == (row.id, 2)
    assert registry.approved_models(field.store, FLEET) == []


def test_a_running_run_that_is_cancelled_ends_and_the_queue_goes_on(field: Field, tmp_path: Path):
    field.subject("subject-0", seed=0)
    long = settings_in(tmp_path, recipe_settings=json.dumps({**RECIPE, "epochs": 500}))
    service = Service(field.store, long)
    try:
        service.watcher.step(time.monotonic())
        run = runs.list_runs(field.store, FLEET)[0].id
        wait_for(lambda: runs.epochs_of(field.store, run), "first epoch")
        next_ = runqueue.enqueue(
            field.store, fleet=FLEET, model="activity", recipe="activity_cnn",
            settings={"epoch": 1}, trigger={"kind": "hand"}, now_ns=time.time_ns(),
        )  # fmt: skip
        assert runqueue.cancel(field.store, run, by="ada", now_ns=time.time_ns()) == "asked"
        service.until_ended(2)
    finally:
        service.watcher.close()
    rows = {r.id: r for r in runs.list_runs(field.store, FLEET)}
    assert rows[run].state == "cancelled"
    assert (rows[run].verdict or {})["words"] == "cancelled by ada"
    assert rows[next_].state == "refused"
    assert registry.list_models(field.store, FLEET) == []


def test_a_run_that_takes_too_long_is_killed_and_tried_at_most_three_times(
    field: Field, tmp_path: Path
):
    field.subject("subject-0", seed=0)
    service = Service(field.store, settings_in(tmp_path, run_seconds_max=0.2))
    try:
        row = service.until_ended(1)
        for _ in range(5):
            service.watcher.step(time.monotonic())
    finally:
        service.watcher.close()
    assert (row.state, row.attempt) == ("failed", 3)
    assert "longer than 0.2 s" in (row.verdict or {})["words"]
    assert len(runs.list_runs(field.store, FLEET)) == 1


def test_the_command_shows_status_and_lineage_and_refuses_what_is_not_there(tmp_path: Path):
    Store.open(f"sqlite:///{tmp_path}/store.sqlite").close()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FIELDLOOP_")}
    environment |= {
        "FIELDLOOP_FLEET": FLEET, "FIELDLOOP_STORE_URL": f"sqlite:///{tmp_path}/store.sqlite",
    }  # fmt: skip

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "fieldloop_training", *arguments],
            env=environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    shown = command("status", "--json")
    assert json.loads(shown.stdout) == {"models": [], "runs": [], "questions": []}
    run = command("enqueue", "--priority", "3").stdout.strip()
    assert run[:12] in command("status").stdout
    assert "cancelled" in command("cancel", run[:8]).stdout
    assert command("cancel", run).returncode == 1
    assert json.loads(command("watch", run, "--json").stdout)["state"] == "cancelled"
    missing = command("lineage", "activity", "7")
    assert missing.returncode == 1
    assert "no activity version 7" in missing.stderr
