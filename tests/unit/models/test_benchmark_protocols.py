"""What the benchmarks of models count, on cases small enough to count by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from benchmarks.machines import area, conditions, record
from benchmarks.skab import CHANNELS, figures, frames, load, parts, windows_by_row

from fieldloop_contract.errors import FixConfiguration
from fieldloop_contract.manifest import Channel
from fieldloop_models.recipe import WindowPlan
from fieldloop_training.datasets import plain_input


def experiment(folder: Path, seconds: list[int], anomalous: set[int]) -> Path:
    rows = ["datetime;" + ";".join(CHANNELS) + ";anomaly;changepoint"]
    for row, second in enumerate(seconds):
        values = ";".join(str(row + i) for i in range(len(CHANNELS)))
        at = f"2020-03-09 {10 + second // 3600}:{second // 60 % 60:02}:{second % 60:02}"
        rows.append(f"{at};{values};{float(row in anomalous)};0.0")
    path = folder / "valve1" / "0.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(rows) + "\n")
    return path


def test_figures_are_those_of_the_protocol():
    anomalous = np.array([0, 0, 1, 1, 1, 1, 0, 0, 0, 0], bool)
    flagged = np.array([0, 1, 0, 1, 1, 1, 1, 0, 0, 0], bool)
    quiet = np.zeros(4, bool)
    found = figures([flagged, quiet], [anomalous, quiet])
    assert found.f1 == pytest.approx(2 * 3 / (5 + 4))
    assert found.far == pytest.approx(100 * 2 / 10)
    assert found.mar == pytest.approx(25.0)
    assert (found.recall, found.delay) == (100.0, 1.0)
    assert found.far_before == pytest.approx(100 * 1 / 6)
    assert found.far_after == pytest.approx(100 * 1 / 4)


def test_an_event_without_a_flag_is_missed():
    anomalous = np.array([1, 1, 0, 1, 1], bool)
    flagged = np.array([0, 0, 1, 0, 1], bool)
    found = figures([flagged], [anomalous])
    assert (found.recall, found.delay) == (50.0, 1.0)


def test_each_row_is_decided_by_the_window_that_ends_with_it_and_none_after_a_gap(tmp_path: Path):
    seconds = [*range(20), 21, *range(22, 30), *range(90, 110)]  # a step of two, then a pause
    (one,) = load(experiment(tmp_path, seconds, {3}).parents[1])
    assert one.anomalous.sum() == 1
    plan = WindowPlan(8, 1, 2.5, "linear")
    channels = [Channel(name=n, unit=u) for n, u in CHANNELS.items()]
    cut = windows_by_row(plain_input("rig", channels, 1.0, plan), frames(one))
    ended = [row for row, _ in cut]
    assert ended == [*range(7, 29), *range(36, 49)]
    for row, window in cut:
        assert window.samples[-1, 0] == pytest.approx(one.values[row, 0])
        assert window.seq_last == row


def test_no_training_window_crosses_a_border_of_the_parts(tmp_path: Path):
    (one,) = load(experiment(tmp_path, list(range(60)), set()).parents[1])
    plan = WindowPlan(4, 1, 2.5, "linear")
    channels = [Channel(name=n, unit=u) for n, u in CHANNELS.items()]
    cut = windows_by_row(plain_input("rig", channels, 1.0, plan), frames(one))
    use = parts(cut, 40, (0.2, 0.3))
    rows = {u: [r for r, x in zip((r for r, _ in cut), use, strict=True) if x == u] for u in use}
    assert (rows["fit"][0], rows["fit"][-1]) == (3, 19)
    assert (rows["validation"][0], rows["validation"][-1]) == (23, 27)
    assert (rows["calibration"][0], rows["calibration"][-1]) == (31, 39)


def test_a_folder_without_experiments_or_with_other_files_is_refused(tmp_path: Path):
    with pytest.raises(FixConfiguration, match="no experiment"):
        load(tmp_path)
    (tmp_path / "other.csv").write_text("a;b\n1;2\n")
    with pytest.raises(FixConfiguration, match="not of SKAB"):
        load(tmp_path)


def test_the_area_under_the_curve_is_the_share_of_pairs_in_order():
    assert area(np.array([1.0, 3.0]), np.array([0.0, 2.0])) == pytest.approx(0.75)
    assert area(np.array([1.0]), np.array([1.0])) == pytest.approx(0.5)


def test_each_condition_of_the_machine_is_another_signal():
    seen = {n: record(m, 1, 1, 3).tobytes() for n, m in conditions().items()}
    assert len(seen) == len(set(seen.values()))
