"""Commissioning: what is learnt, what is refused, and how often a healthy machine alarms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fieldloop_contract.manifest import AlarmRule
from fieldloop_machines.commissioning import Block, Peer, Plan, assess
from fieldloop_machines.tail import SECONDS_PER_WEEK, Peaks
from fieldloop_scoring import alarms

HOP_S = 10.0
RULE = AlarmRule(raise_count=3, raise_of=5, clear_count=5)
PLAN = Plan(24.0, 0.5, RULE, HOP_S, 0.0, 1e6)


def scores(n: int, seed: int, *, rho: float = 0.6, level: float = 1.0) -> np.ndarray:
    """Like the mean of squared residuals of a healthy machine: skewed and correlated."""
    rng = np.random.default_rng(seed)
    x = np.empty((n, 6))
    x[0] = rng.normal(size=6)
    noise = rng.normal(size=(n, 6)) * np.sqrt(1 - rho**2)
    for i in range(1, n):
        x[i] = rho * x[i - 1] + noise[i]
    return level * np.square(x).mean(axis=1)


def block(values: np.ndarray, hop_s: float = HOP_S) -> Block:
    return Block((np.arange(len(values)) * hop_s * 1e9).astype(np.int64) + 10**18, values)


DAY = int(24 * 3600 / HOP_S)


def events(values: np.ndarray, threshold: float, rule: AlarmRule = RULE) -> int:
    """Alarm events, by the device's own code."""
    state, count = alarms.Alarm(), 0
    for value in values.tolist():
        after = alarms.step(state, value, threshold, rule)
        count += after.raised and not state.raised
        state = after
    return count


def test_healthy_machines_keep_to_the_budget_of_alarm_events() -> None:
    total = weeks = 0.0
    for seed in range(12):
        values = scores(DAY * 15, seed)
        found = assess(block(values[: DAY + 1]), PLAN)
        assert found.state == "ready", found.words
        assert found.fitted is not None
        total += events(values[DAY + 1 :], found.fitted.threshold)
        weeks += (len(values) - DAY - 1) * HOP_S / SECONDS_PER_WEEK
    assert total / weeks <= PLAN.budget_per_week * 1.5, f"{total} events in {weeks:.0f} weeks"


def test_the_threshold_still_sees_a_fault() -> None:
    found = assess(block(scores(DAY + 1, 1)), PLAN)
    assert found.fitted is not None
    assert events(scores(600, 2, level=4.0), found.fitted.threshold) >= 1


def test_it_waits_for_running_hours_and_says_how_long() -> None:
    half = block(scores(DAY // 2, 1))
    found = assess(half, PLAN)
    assert (found.state, found.code) == ("waiting", "hours")
    assert found.words == "12.0 of 24.0 running hours"
    assert found.ready_in_s == pytest.approx(12 * 3600, rel=0.01)
    stopped = Block(half.t0_ns * 2 - half.t0_ns[0], half.scores)  # half of the time it stood still
    assert assess(stopped, PLAN).ready_in_s == pytest.approx(24 * 3600, rel=0.01)
    assert assess(block(scores(1, 1)), PLAN).ready_in_s is None


def test_three_anomalous_stretches_are_left_out_and_named() -> None:
    clean = scores(DAY + 1, 3)
    dirty = clean.copy()
    spans = ((1_000, 1_100), (4_000, 4_120), (7_000, 7_080))
    for first, last in spans:
        dirty[first:last] *= 6.0
    found, reference = assess(block(dirty), PLAN), assess(block(clean), PLAN)
    assert found.state == "ready", found.words
    assert found.fitted is not None
    assert reference.fitted is not None
    at = block(dirty).t0_ns
    assert len(found.stretches) == 3
    for stretch, (first, last) in zip(found.stretches, spans, strict=True):
        assert abs(stretch.t0_ns - at[first]) <= 15 * HOP_S * 1e9
        assert abs(stretch.t1_ns - at[last]) <= 15 * HOP_S * 1e9
    assert found.fitted.threshold == pytest.approx(reference.fitted.threshold, rel=0.25)


def test_a_block_with_too_many_anomalous_windows_is_refused() -> None:
    dirty = scores(DAY + 1, 4)
    for first in (500, 3_000, 6_000):
        dirty[first : first + 500] *= 6.0
    found = assess(block(dirty), PLAN)
    assert (found.state, found.code) == ("refused", "contaminated")
    assert len(found.stretches) == 3


def test_a_stream_that_records_now_and_then_counts_by_the_calendar() -> None:
    values = scores(961, 11)
    found = assess(block(values, hop_s=1_800.0), replace(PLAN, running_hours=480.0))
    assert found.state == "ready", found.words
    waits = assess(block(values[:240], hop_s=1_800.0), replace(PLAN, running_hours=480.0))
    assert waits.words == "120.0 of 480.0 running hours"


def test_a_level_that_moves_is_refused() -> None:
    values = scores(DAY + 1, 5) * np.linspace(1.0, 3.0, DAY + 1)
    found = assess(block(values), PLAN)
    assert (found.state, found.code) == ("refused", "drifting")
    assert "steady" in found.words


def test_a_machine_unlike_its_cohort_is_refused_until_a_person_says_so() -> None:
    peaks = Peaks(20, 2.0, 0.5, 300.0)
    peers = [Peer(f"pump-{i}", 0.9 + 0.02 * i, 0.3, peaks) for i in range(6)]
    other = block(scores(DAY + 1, 6, level=5.0))
    found = assess(other, PLAN, peers)
    assert (found.state, found.code) == ("refused", "far")
    assert assess(other, replace(PLAN, far_is_meant=True), peers).state == "ready"
    assert assess(block(scores(DAY + 1, 6)), PLAN, peers).state == "ready"


def test_few_independent_windows_are_helped_by_the_cohort() -> None:
    plan = replace(PLAN, running_hours=1.0)
    short = block(scores(361, 7, rho=0.9))
    alone = assess(short, plan)
    peaks = Peaks(60, 2.0, 0.9, 300.0)
    peers = [Peer(f"pump-{i}", 0.9, 0.5, peaks) for i in range(3)]
    together = assess(short, plan, peers)
    assert alone.code == "peaks", alone.words
    assert together.state == "ready", together.words


def test_a_threshold_beyond_the_signed_bound_is_refused() -> None:
    found = assess(block(scores(DAY + 1, 8)), replace(PLAN, threshold_max=1.5))
    assert (found.state, found.code) == ("refused", "bounds")


def test_a_score_that_never_changes_is_refused() -> None:
    found = assess(block(np.ones(DAY + 1)), PLAN)
    assert (found.state, found.code) == ("refused", "constant")


def test_the_same_rows_give_the_same_record() -> None:
    values = scores(DAY + 1, 9)
    assert assess(block(values), PLAN) == assess(block(values.copy()), PLAN)
