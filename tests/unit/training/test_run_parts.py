"""Parts of a run: its folder, slices, simulated faults, label report, options, T squared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fieldloop_contract.errors import FixConfiguration
from fieldloop_contract.manifest import AlarmRule, Channel
from fieldloop_models.recipe import WindowPlan
from fieldloop_training.baseline import Hotelling
from fieldloop_training.datasets import Dataset, Place, plain_input
from fieldloop_training.evaluation import area_under_curve, raised
from fieldloop_training.labels import Recording
from fieldloop_training.options import RunOptions, parse_options
from fieldloop_training.quality import label_report
from fieldloop_training.slices import masks, slice_names
from fieldloop_training.superposed import KINDS, superpose
from fieldloop_training.workplace import TrainingState, Workplace


def test_a_file_of_a_run_is_what_was_written_or_nothing(tmp_path: Path):
    place = Workplace(tmp_path, "r1")
    assert place.load("a") is None
    place.save("a", b"first")
    place.save("a", b"second")
    assert place.load("a") == b"second"
    path = tmp_path / "r1" / "a"
    path.write_bytes(path.read_bytes()[:-1])
    assert place.load("a") is None
    path.write_bytes(b"")
    assert place.load("a") is None
    state = TrainingState(place)
    state.save(b"epoch 3")
    assert TrainingState(Workplace(tmp_path, "r1")).load() == b"epoch 3"
    place.remove()
    assert not (tmp_path / "r1").exists()


def test_slices_are_by_device_machine_site_and_month_and_all_is_no_slice():
    day_ns = 86_400 * 10**9
    names = [slice_names("d1", 0, "m1", "Ulm"), slice_names("d2", 40 * day_ns, "d2", "Ulm")]
    found = masks(names)
    assert set(found) == {"device d1", "device d2", "machine m1", "month 1970-01", "month 1970-02"}
    assert found["device d1"].tolist() == [True, False]


@pytest.mark.parametrize("kind", KINDS)
def test_a_simulated_fault_changes_its_channel_only_and_is_the_same_again(kind: str):
    windows = np.random.default_rng(0).normal(5, 2, (6, 32, 3)).astype(np.float32)
    faulty = superpose(windows, kind, 1, 3.0, seed=7)
    assert faulty.dtype == np.float32
    assert np.array_equal(faulty[:, :, [0, 2]], windows[:, :, [0, 2]])
    assert not np.array_equal(faulty[:, :, 1], windows[:, :, 1])
    assert np.array_equal(faulty, superpose(windows, kind, 1, 3.0, seed=7))


def dataset(labels: list[str], samples: np.ndarray, each: int) -> Dataset:
    spec = plain_input("imu", [Channel(name="a", unit="g")], 10.0, WindowPlan(8, 8))
    recordings = [Recording(f"d{k % 2}", "imu", k * 100, k * 100 + 99, label)
                  for k, label in enumerate(labels)]  # fmt: skip
    places = [Place(k // each, "e", 1, 1, k, k + 1) for k in range(len(labels) * each)]
    return Dataset(spec, recordings, places, samples.astype(np.float32))


def test_a_recording_with_the_wrong_label_is_suspect():
    rng = np.random.default_rng(0)
    truth = ["still", "shaken"] * 6
    rows = [rng.normal(0, 0.1 if t == "still" else 3.0, (5, 8, 1)) for t in truth]
    given = list(truth)
    given[3] = "still"  # it was shaken
    report = label_report(dataset(given, np.concatenate(rows), 5), {"unsure": 2})
    assert [s["looks_like"] for s in report["suspects"]] == ["shaken"]
    assert report["suspects"][0]["t0_ns"] == 300
    assert report["left_out"] == {"unsure": 2}
    assert report["labels"]["still"] == {"windows": 35, "recordings": 7, "devices": 2}
    assert report["duplicates"] == 0


def test_options_of_a_run_stand_on_the_service_and_unknown_ones_are_refused():
    base = RunOptions(stream="imu", seed=3)
    assert parse_options({"variant": "float16"}, base).seed == 3
    for wrong in ({"varient": "int8"}, {"variant": "int4"}, {"false_alarms_max": 0}):
        with pytest.raises(FixConfiguration, match="options of the run"):
            parse_options(wrong, base)


def test_t_squared_scores_what_is_unlike_the_fitted_windows_higher():
    rng = np.random.default_rng(0)
    plain = Hotelling(rng.normal(size=(200, 16, 3)).astype(np.float32))
    healthy = plain.scores(rng.normal(size=(100, 16, 3)).astype(np.float32))
    shifted = plain.scores((rng.normal(size=(100, 16, 3)) + 1.0).astype(np.float32))
    assert area_under_curve(healthy, shifted) > 0.95
    assert area_under_curve(healthy, healthy) == pytest.approx(0.5)


def test_an_alarm_begins_anew_in_each_recording_and_a_missing_score_moves_nothing():
    rule = AlarmRule(raise_count=2, raise_of=2)
    scores = np.array([3.0, np.nan, 3.0, 3.0, 0.0])
    of = np.array([0, 0, 0, 1, 1])
    assert raised(scores, of, 1.0, rule).tolist() == [False, False, True, False, False]
