"""The demo's arithmetic, and its refusal to read a pickle that is not the known one."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from fieldloop_contract.errors import FieldloopError, FixConfiguration
from fieldloop_demo import measure, recordings
from fieldloop_demo.fleet import choose
from fieldloop_demo.measure import Scored, mean_accuracy, paired, score


def scored(name: str, correct: int, windows: int = 10) -> Scored:
    return Scored(name, "subject-1", (1,), windows, correct)


def test_examples_in_the_documentation_are_true():
    assert doctest.testmod(measure).failed == 0


def test_accuracy_counts_each_recording_the_same():
    assert mean_accuracy([scored("a", 10), scored("b", 0, 1)]) == 0.5
    assert mean_accuracy([]) is None


def test_a_window_without_a_label_is_a_wrong_one():
    assert score("a", "d", "PEN", [("PEN", 1), (None, 1), ("ROW", 2)]).correct == 1


def test_a_difference_is_taken_recording_by_recording():
    before = {n: scored(n, c) for n, c in (("a", 5), ("b", 5), ("c", 9))}
    after = {n: scored(n, c) for n, c in (("a", 8), ("b", 6), ("d", 1))}
    result = paired(before, after)
    assert result.n == 2
    assert result.difference == pytest.approx(0.2)
    assert result.low <= result.difference <= result.high
    assert (result.low, result.high) == pytest.approx((0.1, 0.3))


def test_nothing_in_common_is_no_measurement():
    with pytest.raises(ValueError, match="before and after"):
        paired({"a": scored("a", 1)}, {"b": scored("b", 1)})


def test_the_recordings_are_all_there_and_both_arms_of_each_subject_differ():
    found = recordings.load()
    assert len(found) == 140
    assert sum(len(r.samples) for r in found) == 244_102
    assert len({r.name for r in found}) == 140
    assert all(r.samples.dtype == np.float32 and r.samples.shape[1] == 6 for r in found)


def test_no_recording_is_both_learnt_and_held_out(tmp_path):
    devices = choose(recordings.load(), [1, 2], [3, 4], tmp_path)
    for device in devices:
        assert len(device.train) == len(device.held_out) == 7
        assert not {r.name for r in device.train} & {r.name for r in device.held_out}
    assert [d.train[0].arm for d in devices] == ["right", "right", "right", "left"]
    assert [d.held_out[0].arm for d in devices] == ["left", "left", "left", "right"]


def test_a_subject_without_recordings_is_refused(tmp_path):
    with pytest.raises(FieldloopError, match="subject 11"):
        choose(recordings.load(), [11], [], tmp_path)


def test_another_pickle_is_refused_and_not_read(tmp_path):
    trap = tmp_path / "watch_dataset.npy"
    marker = tmp_path / "executed"
    payload = f"import pathlib; pathlib.Path({str(marker)!r}).touch()"

    class Trap:
        def __reduce__(self):
            return (exec, (payload,))

    np.save(trap, np.array(Trap(), dtype=object), allow_pickle=True)
    with pytest.raises(FixConfiguration, match="sha256"):
        recordings.load(trap)
    assert not marker.exists()
