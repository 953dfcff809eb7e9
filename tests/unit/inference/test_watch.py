"""What counts as a fault on probation, and as agreement in shadow."""

from __future__ import annotations

import pytest

from fieldloop_inference.watch import CONSTANT_WINDOWS, Watch, agree
from fieldloop_scoring.scorer import Scored


def said(top: float, label: str = "a") -> Scored:
    probabilities = {"a": top, "b": 1 - top}
    return Scored("classification", label=label, probabilities=probabilities, score=top)


def test_one_slow_window_is_the_machines_doing_three_of_ten_are_the_models() -> None:
    watch = Watch(1.0)
    verdicts = [watch.judge(said(0.5 + i / 100), us) for i, us in enumerate([9e3, 10, 9e3, 10])]
    assert verdicts == [""] * 4
    assert "3 of 5 windows" in watch.judge(said(0.9), 9e3)


def test_output_that_is_not_finite_is_a_fault_at_once() -> None:
    assert Watch(1.0).judge(Scored("anomaly", valid=False), 1.0)


def test_unsure_constant_output_is_a_fault_and_a_sure_one_or_a_still_input_is_not() -> None:
    unsure, sure, still = Watch(1.0), Watch(1.0), Watch(1.0)
    for i in range(CONSTANT_WINDOWS):
        last = unsure.judge(said(0.6), 1.0)
        assert sure.judge(said(0.99), 1.0) == ""
        assert still.judge(said(0.6), 1.0, changed=i == 0) == ""
    assert "same output" in last


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (said(0.9), said(0.6), True),
        (said(0.9), said(0.9, "b"), False),
        (said(0.9), Scored("classification", valid=False), False),
        (Scored("anomaly", score=1, alarm=True), Scored("anomaly", score=9, alarm=True), True),
        (Scored("anomaly", score=1.0), Scored("anomaly", score=1.05), True),
        (Scored("anomaly", score=1.0), Scored("anomaly", score=1.2), False),
        (Scored("regression", values={"x": 1}), Scored("regression", values={"x": 1.01}), True),
        (Scored("regression", values={"x": 1}), Scored("regression", values={"y": 1}), False),
    ],
)
def test_agreement(one: Scored, other: Scored, same: bool) -> None:
    assert agree(one, other) is same
