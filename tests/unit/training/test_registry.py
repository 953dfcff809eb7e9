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
from fieldloop_store import registry
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


def new_run(store: Store, run: str, created_ns: int = 1) -> None:
    registry.create_run(
        store,
        registry.RunRow(
            id=run, fleet="demo", recipe="activity_cnn", model="activity", state="running",
            trigger={"attempt": 1}, settings={}, dataset=None, progress={}, verdict=None,
            created_ns=created_ns, updated_ns=created_ns,
        ),
    )  # fmt: skip


def test_a_run_ends_once(store: Store):
    new_run(store, "a" * 32)
    assert registry.update_run(store, "a" * 32, now_ns=2, progress={"epoch": 1})
    assert registry.update_run(store, "a" * 32, now_ns=3, state="approved", verdict={"words": "x"})
    assert not registry.update_run(store, "a" * 32, now_ns=4, state="failed")
    row = registry.find_run(store, "a" * 32)
    assert row is not None
    assert (row.state, row.progress, row.updated_ns) == ("approved", {"epoch": 1}, 3)


def test_runs_come_newest_first_and_by_state(store: Store):
    for i in range(3):
        new_run(store, str(i) * 32, created_ns=i)
    registry.update_run(store, "2" * 32, now_ns=5, state="failed")
    assert [r.id[0] for r in registry.list_runs(store, "demo")] == ["2", "1", "0"]
    assert [r.id[0] for r in registry.list_runs(store, "demo", states=["failed"])] == ["2"]
    assert len(registry.list_runs(store, "demo", limit=2)) == 2
    with pytest.raises(LimitExceeded):
        registry.list_runs(store, "demo", limit=10_000)


def test_a_dataset_stays_as_it_was_first_recorded(store: Store):
    row = registry.DatasetRow("ab" * 32, "demo", {"q": 1}, {"windows": 2}, "/x", 1)
    registry.add_dataset(store, row)
    registry.add_dataset(store, registry.DatasetRow("ab" * 32, "demo", {}, {}, "/y", 2))
    assert registry.find_dataset(store, "ab" * 32) == row
    assert registry.find_dataset(store, "cd" * 32) is None
