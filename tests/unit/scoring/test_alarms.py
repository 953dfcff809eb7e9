"""Alarms: k of n to raise, m in a row below a lower level to clear."""

from __future__ import annotations

import doctest
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fieldloop_contract.manifest import AlarmRule, Output
from fieldloop_scoring import alarms
from fieldloop_scoring.alarms import Alarm, step


def states(scores: list[float], rule: AlarmRule, threshold: float = 1.0) -> list[bool]:
    alarm, raised = Alarm(), []
    for score in scores:
        alarm = step(alarm, score, threshold, rule)
        raised.append(alarm.raised)
    return raised


def test_the_example_in_the_module_is_true() -> None:
    assert doctest.testmod(alarms) == (0, 4)


def test_without_a_rule_an_alarm_is_the_crossing_itself() -> None:
    scores = [0.0, 1.0, 1.1, 0.9, 2.0, 2.0, 1.0]
    assert states(scores, AlarmRule()) == [s > 1.0 for s in scores]


def test_noise_around_the_threshold_does_not_chatter() -> None:
    noise = [0.95, 1.05] * 200
    raw = states(noise, AlarmRule())
    calm = states(noise, AlarmRule(clear_below=0.8, raise_count=2, raise_of=4, clear_count=3))

    def changes(values: list[bool]) -> int:
        return sum(a != b for a, b in itertools.pairwise(values))

    assert changes(raw) == 399
    assert changes(calm) == 1


def test_one_outlier_raises_nothing_and_one_good_window_clears_nothing() -> None:
    rule = AlarmRule(raise_count=2, raise_of=3, clear_count=2)
    assert not any(states([9, 0, 0, 9, 0, 0], rule))
    assert states([9, 9, 0, 9, 0, 0], rule) == [False, True, True, True, True, False]


@given(
    st.lists(st.floats(0, 2), max_size=60),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(1, 4),
    st.floats(0, 1),
)
def test_the_rule_as_it_is_written_down(
    scores: list[float], count: int, of: int, clear_count: int, clear: float
) -> None:
    """Against a direct reading of the definition, with the whole history at hand."""
    of = max(count, of)
    rule = AlarmRule(clear_below=clear, raise_count=count, raise_of=of, clear_count=clear_count)
    raised, since = False, 0
    for index, got in enumerate(states(scores, rule)):
        seen = scores[since : index + 1]
        if not raised and sum(s > 1.0 for s in seen[-of:]) >= count:
            raised, since = True, index + 1
        elif raised and len(seen) >= clear_count and all(s <= clear for s in seen[-clear_count:]):
            raised, since = False, index + 1
        assert got is raised


def test_a_rule_that_can_never_be_or_clears_above_its_threshold_is_refused() -> None:
    with pytest.raises(ValidationError):
        AlarmRule(raise_count=3, raise_of=2)
    with pytest.raises(ValidationError):
        Output(name="s", kind="score", threshold=1.0, alarm=AlarmRule(clear_below=1.1))
    with pytest.raises(ValidationError):
        Output(name="s", kind="score", alarm=AlarmRule(clear_below=1.1))
