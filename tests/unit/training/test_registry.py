"""The registry, on a real SQLite file: all or nothing, and never another content."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from fieldloop_contract.errors import Isolate, LimitExceeded, MalformedMessage, RejectedInput
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
from fieldloop_store import artefacts, registry, runqueue, runs
from fieldloop_store.engine import Store
from fieldloop_store.schema import blobs, models


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(f"sqlite:///{tmp_path}/store.sqlite")
    yield opened
    opened.close()


def files(version: int) -> dict[str, bytes]:
    return {"model.tflite": b"model %d" % version, "golden.npz": b"golden"}


def manifest(version: int, name: str = "activity") -> Manifest:
    return Manifest(
        name=name,
        version=version,
        task="classification",
        files={k: FileRef.of(v) for k, v in files(version).items()},
        inputs=[
            Input(
                name="imu", channels=[Channel(name="ax", unit="g")], rate_hz=50,
                window_samples=8, hop_samples=4,
                normalisation=Normalisation(centre=[0.0], scale=[1.0]),
            )
        ],
        outputs=[Output(name="activity", kind="probabilities", labels=["a", "b"])],
        golden=Golden(count=1, tolerance=0.1),
        lineage=Lineage(dataset="ab" * 32),
    )  # fmt: skip


def register(store: Store, version: int, **changes: object) -> Manifest:
    given = manifest(version)
    values = {
        "fleet": "demo", "manifest": given, "files": files(version), "run": "r" * 32,
        "metrics": {"int8": {"accuracy": 0.9}}, "now_ns": version,
    }  # fmt: skip
    registry.register_model(store, **(values | changes))  # type: ignore[arg-type]
    return given


def count(store: Store) -> tuple[int, int]:
    with store.read() as connection:
        rows = [connection.execute(select(func.count()).select_from(t)) for t in (models, blobs)]
        return rows[0].scalar_one(), rows[1].scalar_one()


def test_a_bundle_reads_back_as_it_was_registered(store: Store):
    given = register(store, 1)
    read, read_files = registry.load_bundle(store, given.digest())
    assert read == given
    assert read_files == files(1)
    row = registry.approved_models(store, "demo")[0]
    assert (row.version, row.digest, row.dataset) == (1, given.digest(), "ab" * 32)
    assert row.metrics["int8"]["accuracy"] == 0.9


def test_versions_rise_whatever_became_of_the_last_one(store: Store):
    assert registry.next_version(store, "demo", "activity") == 1
    register(store, 1)
    register(store, 2, state="rejected")
    assert registry.next_version(store, "demo", "activity") == 3
    assert registry.next_version(store, "demo", "other") == 1
    assert registry.next_version(store, "elsewhere", "activity") == 1
    assert [m.version for m in registry.approved_models(store, "demo")] == [1]


def test_registering_the_same_again_changes_nothing(store: Store):
    register(store, 1)
    before = count(store)
    register(store, 1, now_ns=99)
    assert count(store) == before
    assert registry.approved_models(store, "demo")[0].created_ns == 1


def test_a_version_that_is_taken_is_refused_and_nothing_of_it_stays(store: Store):
    register(store, 1)
    other = manifest(1).model_copy(
        update={"files": {k: FileRef.of(v) for k, v in files(7).items()}}
    )
    with pytest.raises(RejectedInput) as refused:
        register(store, 1, manifest=other, files=files(7))
    assert refused.value.code == "registry.version-taken"
    assert count(store) == (1, 2)


def test_files_that_are_not_the_manifests_are_refused(store: Store):
    with pytest.raises(MalformedMessage):
        register(store, 1, files=files(2))
    with pytest.raises(MalformedMessage):
        register(store, 1, files={"model.tflite": files(1)["model.tflite"]})
    assert count(store) == (0, 0)


def test_files_that_two_versions_share_are_kept_once(store: Store):
    register(store, 1)
    register(store, 2)
    assert count(store) == (2, 3)


def test_a_damaged_blob_is_not_handed_out(store: Store):
    given = register(store, 1)
    with store.begin() as connection:
        connection.execute(
            update(blobs)
            .where(blobs.c.sha256 == given.files["golden.npz"].sha256)
            .values(data=b"x")
        )
    with pytest.raises(Isolate):
        registry.load_bundle(store, given.digest())


def test_an_unknown_digest_is_refused(store: Store):
    with pytest.raises(RejectedInput):
        registry.load_bundle(store, "0" * 64)


def test_a_recalled_version_is_no_longer_approved(store: Store):
    register(store, 1)
    assert registry.set_model_state(store, "demo", "activity", 1, "recalled")
    assert registry.approved_models(store, "demo") == []
    assert not registry.set_model_state(store, "demo", "activity", 9, "recalled")


def claimed(store: Store, created_ns: int = 1) -> str:
    """A run that the worker `w` holds."""
    run = runqueue.enqueue(
        store, fleet="demo", model="activity", recipe="activity_cnn", settings={},
        trigger={"kind": "hand"}, now_ns=created_ns,
    )  # fmt: skip
    assert runqueue.claim(store, "w", fleet="demo", lease_ns=10, now_ns=100, run=run) is not None
    return run


def result(run: str, owner: str = "w") -> registry.Result:
    plot = {"confusion.png": ("image/png", b"png")}
    return registry.Result(run, owner, {"words": "approved"}, plot, 1, {"stage": "done"})


def test_a_version_and_the_end_of_its_run_are_one_transaction(store: Store):
    run, given = claimed(store), manifest(1)
    values = {
        "fleet": "demo", "manifest": given, "files": files(1), "metrics": {}, "state": "approved",
        "now_ns": 101,
    }  # fmt: skip
    assert not registry.publish(store, result(run, "late"), **values)  # type: ignore[arg-type]
    assert count(store) == (0, 0)
    assert registry.publish(store, result(run), **values)  # type: ignore[arg-type]
    row = runs.find_run(store, run)
    assert row is not None
    assert (row.state, row.progress) == ("approved", {"stage": "done"})
    assert [a.name for a in artefacts.list_artefacts(store, run)] == ["confusion.png"]
    # a version that is taken leaves the other run as it was
    other = claimed(store, 2)
    taken = values | {"manifest": given.model_copy(update={"lineage": Lineage(run=other)})}
    with pytest.raises(RejectedInput, match="taken"):
        registry.publish(store, result(other), **taken)  # type: ignore[arg-type]
    row = runs.find_run(store, other)
    assert row is not None
    assert row.state == "running"
    assert artefacts.list_artefacts(store, other) == []


def test_recall_of_a_dataset_retires_its_models_and_what_began_from_them(store: Store):
    registry.add_dataset(store, registry.DatasetRow("ab" * 32, "demo", {}, {}, "/x", 1))
    first = register(store, 1)
    clean = manifest(2).model_copy(update={"lineage": Lineage(dataset="cd" * 32)})
    register(store, 2, manifest=clean, files=files(2))
    warm = manifest(3).model_copy(update={"lineage": Lineage(dataset="cd" * 32)})
    metrics = {"warm_from": first.digest()}
    register(store, 3, manifest=warm, files=files(3), metrics=metrics, now_ns=3)
    with pytest.raises(RejectedInput, match="no dataset"):
        registry.recall_dataset(store, "demo", "ef" * 32, reason="x", now_ns=9)
    gone = registry.recall_dataset(store, "demo", "ab" * 32, reason="wrong labels", now_ns=9)
    assert gone == [("activity", 1), ("activity", 3)]
    assert [m.version for m in registry.approved_models(store, "demo")] == [2]
    assert registry.recall_dataset(store, "demo", "ab" * 32, reason="y", now_ns=10) == gone
    row = registry.find_dataset(store, "ab" * 32)
    assert row is not None
    assert (row.recalled_ns, row.recall_reason) == (9, "wrong labels")


def test_runs_come_newest_first_and_by_state(store: Store):
    made = [claimed(store, created_ns=i) for i in range(3)]
    assert runqueue.finish(store, made[2], "w", "failed", {"words": "x"}, now_ns=101)
    assert [r.id for r in runs.list_runs(store, "demo")] == made[::-1]
    assert [r.id for r in runs.list_runs(store, "demo", states=["failed"])] == [made[2]]
    assert len(runs.list_runs(store, "demo", limit=2)) == 2
    with pytest.raises(LimitExceeded):
        runs.list_runs(store, "demo", limit=10_000)


def test_a_dataset_stays_as_it_was_first_recorded(store: Store):
    row = registry.DatasetRow("ab" * 32, "demo", {"q": 1}, {"windows": 2}, "/x", 1)
    registry.add_dataset(store, row)
    registry.add_dataset(store, registry.DatasetRow("ab" * 32, "demo", {}, {}, "/y", 2))
    assert registry.find_dataset(store, "ab" * 32) == row
    assert registry.find_dataset(store, "cd" * 32) is None
