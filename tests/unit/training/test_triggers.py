"""The trigger rule: enough, quiet, once; in round 50 as in round 1."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fieldloop_training.triggers import (
    ATTEMPTS_MAX,
    LastRun,
    LogMark,
    Rule,
    Watch,
    decide,
    marks_from_object,
    marks_to_object,
    newly_labelled,
)

RULE = Rule(min_annotations=10, quiet_s=5.0)
marks_strategy = st.dictionaries(
    st.text("abc/", min_size=1, max_size=5),
    st.builds(LogMark, st.integers(0, 1000), st.integers(0, 10_000)),
    max_size=5,
)


def desk(count: int, seq: int | None = None) -> dict[str, LogMark]:
    return {"desk/labels/e": LogMark(count, count if seq is None else seq)}


def done(count: int, state: str = "approved", attempt: int = 1) -> LastRun:
    return LastRun(state, attempt, desk(count))


def test_nothing_happens_without_labels():
    assert decide(RULE, Watch(), {}, None, 100.0)[1].action == "idle"


def test_too_few_labels_gather_however_long_it_is_quiet():
    watch, first = decide(RULE, Watch(), desk(9), None, 0.0)
    _, later = decide(RULE, watch, desk(9), None, 1e6)
    assert (first.action, later.action) == ("gather", "gather")


def test_enough_labels_wait_for_quiet_and_each_new_one_starts_the_wait_again():
    watch, decision = decide(RULE, Watch(), desk(10), None, 0.0)
    assert decision.action == "gather"
    watch, decision = decide(RULE, watch, desk(11), None, 4.9)
    assert decision.action == "gather"
    watch, decision = decide(RULE, watch, desk(11), None, 9.8)
    assert decision.action == "gather"
    _, decision = decide(RULE, watch, desk(11), None, 9.9)
    assert decision.action == "start"
    assert decision.new_annotations == 11


def test_a_run_under_way_lets_no_other_start():
    watch = Watch(desk(50), 0.0)
    decision = decide(RULE, watch, desk(50), LastRun("running", 1, {}), 100.0)[1]
    assert decision.action == "idle"


def test_fires_once_a_round_for_fifty_rounds_with_restarts_between():
    last, now_s, fired = None, 0.0, []
    for round_ in range(1, 51):
        watch = Watch()  # the service was restarted
        starts = 0
        for _ in range(20):
            now_s += 1.0
            watch, decision = decide(RULE, watch, desk(10 * round_), last, now_s)
            if decision.action == "start":
                starts += 1
                last = LastRun("rejected" if round_ % 3 else "approved", 1, desk(10 * round_))
        fired.append(starts)
    assert fired == [1] * 50


def test_a_failed_run_is_repeated_twice_and_then_its_labels_are_used_up():
    watch = Watch(desk(10), 0.0)
    attempts = []
    last = done(10, "failed", 1)
    while (decision := decide(RULE, watch, desk(10), last, 100.0)[1]).action == "start":
        attempts.append(decision.attempt)
        last = done(10, "failed", decision.attempt)
    assert attempts == list(range(2, ATTEMPTS_MAX + 1))


def test_labels_that_came_since_a_final_failure_start_a_run_again():
    watch = Watch(desk(20), 0.0)
    decision = decide(RULE, watch, desk(20), done(10, "failed", ATTEMPTS_MAX), 100.0)[1]
    assert (decision.action, decision.attempt) == ("start", 1)


def test_a_log_whose_old_labels_were_pruned_still_counts_its_new_ones():
    assert newly_labelled(desk(40, seq=120), {"desk/labels/e": LogMark(100, 100)}) == 20


def test_a_log_of_a_new_epoch_counts_from_nothing():
    now = {**desk(10), "desk/labels/f": LogMark(4, 4)}
    assert newly_labelled(now, desk(10)) == 4


@given(marks_strategy)
def test_what_was_counted_is_never_new_again(marks: dict[str, LogMark]):
    assert newly_labelled(marks, marks) == 0


@given(marks_strategy)
def test_marks_survive_the_run_row(marks: dict[str, LogMark]):
    assert marks_from_object(marks_to_object(marks)) == marks


def test_marks_that_are_damaged_are_left_out():
    assert marks_from_object({"a": [1], "b": "x", "c": [1, 2]}) == {"c": LogMark(1, 2)}
    assert marks_from_object(None) == {}
