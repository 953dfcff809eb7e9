"""The trigger rule: enough, quiet, once; in round 50 as in round 1."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from fieldloop_training.triggers import (
    History,
    LogMark,
    Rule,
    Watch,
    decide,
    marks_from_object,
    marks_to_object,
    newly,
)

RULE = Rule(min_new=10, quiet_s=5.0)
marks_strategy = st.dictionaries(
    st.text("abc/", min_size=1, max_size=5),
    st.builds(LogMark, st.integers(0, 1000), st.integers(0, 10_000)),
    max_size=5,
)


def desk(count: int, seq: int | None = None) -> dict[str, LogMark]:
    return {"desk/labels/e": LogMark(count, count if seq is None else seq)}


def test_nothing_happens_without_labels():
    assert decide(RULE, Watch(), {}, History(), 100.0)[1].action == "idle"


def test_too_few_labels_gather_however_long_it_is_quiet():
    watch, first = decide(RULE, Watch(), desk(9), History(), 0.0)
    _, later = decide(RULE, watch, desk(9), History(), 1e6)
    assert (first.action, later.action) == ("gather", "gather")


def test_enough_labels_wait_for_quiet_and_each_new_one_starts_the_wait_again():
    watch, decision = decide(RULE, Watch(), desk(10), History(), 0.0)
    assert decision.action == "gather"
    watch, decision = decide(RULE, watch, desk(11), History(), 4.9)
    assert decision.action == "gather"
    watch, decision = decide(RULE, watch, desk(11), History(), 9.8)
    assert decision.action == "gather"
    _, decision = decide(RULE, watch, desk(11), History(), 9.9)
    assert (decision.action, decision.new, decision.kind) == ("start", 11, "labels")


def test_a_run_that_waits_or_is_under_way_lets_no_other_start():
    watch = Watch(desk(50), 0.0)
    assert decide(RULE, watch, desk(50), History(open=True), 100.0)[1].action == "idle"


def test_fires_once_a_round_for_fifty_rounds_with_restarts_between():
    past, now_s, fired = History(), 0.0, []
    for round_ in range(1, 51):
        watch = Watch()  # the service was restarted
        starts = 0
        for _ in range(20):
            now_s += 1.0
            watch, decision = decide(RULE, watch, desk(10 * round_), past, now_s)
            if decision.action == "start":
                starts += 1
                past = History(marks=desk(10 * round_), age_s=0.0, ended_s=0.0, today=1)
        fired.append(starts)
    assert fired == [1] * 50


def test_a_schedule_fires_with_little_new_and_never_with_nothing_new():
    rule = dataclasses.replace(RULE, every_s=3600.0)
    watch, old = Watch(desk(12), 0.0), History(marks=desk(11), age_s=3601.0, ended_s=3500.0)
    decision = decide(rule, watch, desk(12), old, 100.0)[1]
    assert (decision.action, decision.kind) == ("start", "schedule")
    young = dataclasses.replace(old, age_s=3599.0)
    assert decide(rule, watch, desk(12), young, 100.0)[1].action == "gather"
    nothing = dataclasses.replace(old, marks=desk(12))
    assert decide(rule, watch, desk(12), nothing, 100.0)[1].action == "idle"


def test_cool_down_and_budget_hold_back_what_would_start():
    rule = dataclasses.replace(RULE, cool_down_s=600.0, runs_per_day_max=3)
    watch, past = Watch(desk(50), 0.0), History(marks=desk(10), age_s=700.0, ended_s=599.0)
    decision = decide(rule, watch, desk(50), past, 100.0)[1]
    assert (decision.action, decision.reason) == ("idle", "cooling down for 1 s more")
    past = dataclasses.replace(past, ended_s=601.0, today=3)
    assert "budget" in decide(rule, watch, desk(50), past, 100.0)[1].reason
    past = dataclasses.replace(past, today=2)
    assert decide(rule, watch, desk(50), past, 100.0)[1].action == "start"


def test_a_log_whose_old_labels_were_pruned_still_counts_its_new_ones():
    assert newly(desk(40, seq=120), {"desk/labels/e": LogMark(100, 100)}) == 20


def test_a_log_of_a_new_epoch_counts_from_nothing():
    assert newly({**desk(10), "desk/labels/f": LogMark(4, 4)}, desk(10)) == 4


@given(marks_strategy)
def test_what_was_counted_is_never_new_again(marks: dict[str, LogMark]):
    assert newly(marks, marks) == 0


@given(marks_strategy)
def test_marks_survive_the_run_row(marks: dict[str, LogMark]):
    assert marks_from_object(marks_to_object(marks)) == marks


def test_marks_that_are_damaged_are_left_out():
    assert marks_from_object({"a": [1], "b": "x", "c": [1, 2]}) == {"c": LogMark(1, 2)}
    assert marks_from_object(None) == {}
