"""Datasets: named by their content, refused in words where they teach nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from fieldloop_contract.errors import Isolate, RejectedInput
from fieldloop_contract.manifest import Channel
from fieldloop_models.recipe import WindowPlan
from fieldloop_training import datasets
from fieldloop_training.datasets import Dataset, Place
from fieldloop_training.labels import Recording

SPEC = datasets.plain_input(
    "imu", [Channel(name="ax", unit="g"), Channel(name="ay", unit="g")], 50.0, WindowPlan(8, 4)
)


def dataset(windows: int = 20) -> Dataset:
    rng = np.random.default_rng(1)
    recordings = [Recording("a", "imu", 0, 10**9, "run"), Recording("b", "imu", 0, 10**9, "walk")]
    places = [Place(2 * i // windows, "e", i + 1, i + 2, i, i + 8) for i in range(windows)]
    samples = rng.normal(size=(windows, 8, 2)).astype(np.float32)
    return Dataset(SPEC, recordings, places, samples)


def test_a_dataset_reads_back_as_it_was_written(tmp_path: Path):
    one = dataset()
    digest, path = datasets.write(one, tmp_path, {"stream": "imu"})
    again = datasets.read(path)
    assert path.name == f"{digest}.parquet"
    assert np.array_equal(again.samples, one.samples)
    assert (again.spec, again.recordings, again.places) == (one.spec, one.recordings, one.places)


def test_writing_again_leaves_the_file_alone(tmp_path: Path):
    _, path = datasets.write(dataset(), tmp_path, {})
    before = path.stat()
    assert datasets.write(dataset(), tmp_path, {"other": "query"})[1] == path
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("what", ["sample", "label", "window", "place"])
def test_any_change_of_content_changes_the_digest(what: str):
    one = dataset()
    if what == "sample":
        samples = one.samples.copy()
        samples[3, 2, 1] = np.nextafter(samples[3, 2, 1], np.float32(9))
        other = dataclasses.replace(one, samples=samples)
    elif what == "label":
        first = dataclasses.replace(one.recordings[0], label="rest")
        other = dataclasses.replace(one, recordings=[first, one.recordings[1]])
    elif what == "window":
        spec = one.spec.model_copy(update={"hop_samples": 8})
        other = dataclasses.replace(one, spec=spec)
    else:
        places = [dataclasses.replace(one.places[0], seq_last=99), *one.places[1:]]
        other = dataclasses.replace(one, places=places)
    assert other.digest() != one.digest()
    assert dataset().digest() == one.digest()


def test_a_file_that_was_changed_is_not_read(tmp_path: Path):
    _, path = datasets.write(dataset(), tmp_path, {})
    moved = path.with_name("0" * 64 + ".parquet")
    path.rename(moved)
    with pytest.raises(Isolate) as other_name:
        datasets.read(moved)
    assert other_name.value.code == "dataset.digest"
    moved.write_bytes(moved.read_bytes()[:-100])
    with pytest.raises(Isolate) as torn:
        datasets.read(moved)
    assert torn.value.code == "dataset.damaged"


def test_a_sound_dataset_passes():
    datasets.check(dataset())


def test_nan_is_refused_and_names_the_device():
    bad = dataset()
    bad.samples[-1, 0, 0] = np.nan
    with pytest.raises(RejectedInput, match=r"1 windows hold NaN or infinity, of b"):
        datasets.check(bad)


def test_a_constant_channel_is_refused_by_name():
    bad = dataset()
    bad.samples[..., 1] = 1.5
    with pytest.raises(RejectedInput, match="channel ay is constant"):
        datasets.check(bad)


def test_one_class_is_refused_by_name():
    one = dataset()
    same = [dataclasses.replace(r, label="run") for r in one.recordings]
    with pytest.raises(RejectedInput, match="only one class is labelled: run"):
        datasets.check(dataclasses.replace(one, recordings=same))


def test_too_few_windows_and_none_are_refused():
    with pytest.raises(RejectedInput) as few:
        datasets.check(dataset(windows=10))
    assert few.value.code == "dataset.too-few"
    with pytest.raises(RejectedInput) as none:
        datasets.check(dataset(windows=0))
    assert none.value.code == "dataset.empty"
