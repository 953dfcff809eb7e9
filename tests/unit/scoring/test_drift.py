"""Drift: what is counted, confirmed and sent; and the limit keeps its budget on correlated data."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from fieldloop_contract.errors import FixConfiguration, MalformedMessage
from fieldloop_scoring.drift import Policy, Report, Watch, merge, parse, score_bin
from fieldloop_scoring.driftlimit import (
    SECONDS_PER_YEAR,
    Budget,
    decorrelation_windows,
    drift_reference,
    fit_limit,
    share_beyond,
)
from fieldloop_scoring.sketch import Reference, Sketch

SAMPLES = 8


def walk(count: int, rho: float, seed: int, channels: int = 2) -> np.ndarray[Any, Any]:
    """Windows whose level is an AR(1) process: float32[count, 8, channels], variance about 1."""
    rng = np.random.default_rng(seed)
    shocks = rng.normal(0, math.sqrt(1 - rho**2), (count, channels))
    level = np.empty((count, channels))
    level[0] = rng.normal(0, 1, channels)
    for i in range(1, count):
        level[i] = rho * level[i - 1] + shocks[i]
    noise = rng.normal(0, 0.5, (count, SAMPLES, channels))
    return (level[:, None] + noise).astype(np.float32)


def reports(windows: np.ndarray[Any, Any], watch: Watch) -> list[Any]:
    out = []
    for index, window in enumerate(windows):
        if watch.due():
            judged = watch.push(window, 10 * index + 1, 10 * index + 11, score=1.0, label="a")
            out += [judged] if judged is not None else []
    return out


def test_one_window_is_counted_in_each_decorrelation_time() -> None:
    data = walk(600, 0.0, 1)
    watch = Watch(Reference.of(data), Policy(decorrelation_windows=5, count_windows=30))
    done = reports(data, watch)
    assert watch.counted == 120
    assert [j.report.windows for j in done] == [30] * 4
    assert done[0].report.scores == {"0": 30}
    assert done[0].report.labels == {"a": 30}
    assert done[0].report.sketch.counts[0].sum() == 30 * SAMPLES


def test_drift_is_confirmed_by_k_of_n_reports_and_ends_again() -> None:
    data = walk(1000, 0.0, 2)
    policy = Policy(1, 50, limit=0.4, raise_count=2, raise_of=3)
    watch = Watch(Reference.of(data), policy)
    changes = [j.changed for j in reports(data[:300], watch)]
    assert changes == [None] * 6
    changes = [j.changed for j in reports(data[300:500] + np.float32(2), watch)]
    assert changes == [None, True, None, None]
    assert watch.drifting
    assert [j.changed for j in reports(data[500:650], watch)] == [None, False, None]


def test_one_odd_report_confirms_nothing() -> None:
    data = walk(1000, 0.0, 2)
    watch = Watch(Reference.of(data), Policy(1, 50, limit=0.4, raise_count=2, raise_of=3))
    odd = np.concatenate([data[:200], data[200:250] + 3, data[250:]])
    assert all(j.changed is None for j in reports(odd, watch))


def test_reports_add_up_and_a_watch_goes_on_where_it_was() -> None:
    data = walk(400, 0.3, 3)
    reference = Reference.of(data)
    policy = Policy(1, 100, limit=1.0)
    whole = reports(data, Watch(reference, policy))
    first = Watch(reference, policy)
    done = reports(data[:150], first)
    again = Watch(reference, policy)
    again.resume(json.loads(json.dumps(first.to_object())))
    done += reports(data[150:], again)
    for a, b in zip(whole, done, strict=True):
        assert np.array_equal(a.report.sketch.counts, b.report.sketch.counts)
    total = merge([j.report for j in whole])
    assert total.windows == 400
    assert total.sketch.counts.sum() == 400 * SAMPLES * 2
    sent = json.loads(json.dumps(whole[0].report.to_object()))
    assert np.array_equal(
        Report.from_object(sent, reference).sketch.counts, whole[0].report.sketch.counts
    )
    assert len(json.dumps(sent)) < 600


def test_a_state_of_another_reference_is_refused() -> None:
    watch = Watch(Reference.of(walk(100, 0, 1)), Policy(1, 10))
    other = Watch(Reference.of(walk(100, 0, 1, channels=3)), Policy(1, 10))
    for document in (other.to_object(), {}, None, {"raised": 1}):
        with pytest.raises(MalformedMessage):
            watch.resume(document)


def test_a_policy_is_read_from_the_manifest_or_refused() -> None:
    document = Reference.of(walk(100, 0, 1)).to_object()
    assert parse(None) is None
    assert parse(document) is None
    policy = Policy(4, 200, limit=0.3)
    parsed = parse({**document, "policy": policy.to_object()})
    assert parsed is not None
    assert parsed[1] == policy
    for bad in (
        {},
        {"decorrelation_windows": 0, "count_windows": 5},
        {"decorrelation_windows": 1, "count_windows": 5, "limit": -1.0},
        {"decorrelation_windows": 1, "count_windows": 5, "raise_count": 6},
        {"decorrelation_windows": 1.5, "count_windows": 5},
    ):
        with pytest.raises(MalformedMessage):
            parse({**document, "policy": bad})


def test_scores_fall_into_logarithmic_bins() -> None:
    assert [score_bin(s) for s in (0.0, 1e-3, 0.999, 1.0, 9.99, 1e12, math.nan)] == [
        "under",
        "-24",
        "-1",
        "0",
        "7",
        "over",
        "nan",
    ]


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
def test_the_decorrelation_time_is_that_of_the_process(rho: float) -> None:
    """Of an AR(1) process it is (1 + rho) / (1 - rho)."""
    rng = np.random.default_rng(4)
    x = np.zeros((20_000, 1))
    for i in range(1, len(x)):
        x[i] = rho * x[i - 1] + rng.normal()
    assert decorrelation_windows(x) == pytest.approx((1 + rho) / (1 - rho), rel=0.25, abs=1)


def test_the_share_of_single_reports_is_that_of_the_binomial() -> None:
    assert share_beyond(1, 1, 0.01) == pytest.approx(0.01)
    assert share_beyond(2, 2, 0.01) == pytest.approx(0.1)
    p = share_beyond(2, 3, 0.01)
    assert 3 * p**2 * (1 - p) + p**3 == pytest.approx(0.01)


def false_triggers(block: int, seeds: range) -> tuple[float, int]:
    """Expected and seen false triggers on data without drift, correlated from window to window."""
    policy = Policy(2, 100, raise_count=2, raise_of=3)
    wanted, length = 5.0, 30_000
    seen = 0
    years = length / SECONDS_PER_YEAR  # a window each second
    for seed in seeds:
        fitted = walk(4_000, 0.9, seed)
        counted = fitted[:: policy.decorrelation_windows]
        budget = wanted / len(seeds) / years
        limit = fit_limit(
            counted,
            policy,
            window_period_s=1.0,
            triggers_per_year=budget,
            block=block,
            replicates=120,
            seed=seed,
        )
        watch = Watch(Reference.of(counted), Policy(2, 100, limit, 2, 3))
        live = walk(length, 0.9, 1_000 + seed)
        seen += sum(j.changed is True for j in reports(live, watch))
    return wanted, seen


def test_the_limit_keeps_the_budget_on_autocorrelated_data() -> None:
    wanted, seen = false_triggers(block=100, seeds=range(4))
    # 97.5 % of a Poisson variable of mean 5 is at most 10.
    assert seen <= 2 * wanted, f"{seen} triggers, {wanted} were allowed"
    _, naive = false_triggers(block=1, seeds=range(4))
    assert naive > 2 * wanted, "blocks of one window take the data for independent"


def test_a_budget_that_the_data_cannot_tell_is_refused() -> None:
    data = walk(200, 0, 1)
    policy = Policy(1, 50, raise_count=1, raise_of=1)
    with pytest.raises(FixConfiguration, match="replicates"):
        fit_limit(data, policy, window_period_s=1, triggers_per_year=0.1, block=10)
    with pytest.raises(FixConfiguration, match="too few"):
        fit_limit(data[:10], policy, window_period_s=1, triggers_per_year=1e6, block=10)


def test_training_writes_a_reference_that_a_device_watches_by() -> None:
    runs = [walk(700, 0.8, seed) for seed in range(5)]
    document = drift_reference(
        runs,
        window_period_s=1.0,
        budget=Budget(triggers_per_year=2.0, count_windows=40),
        replicates=200,
    )
    parsed = parse(json.loads(json.dumps(document)))
    assert parsed is not None
    reference, policy = parsed
    assert policy.limit is not None
    assert policy.decorrelation_windows > 3  # (1 + rho) / (1 - rho) = 9 for the level
    same = Watch(reference, policy)
    assert not any(j.changed for j in reports(walk(9_000, 0.8, 90), same))
    other = Watch(reference, policy)
    assert any(j.changed for j in reports(walk(9_000, 0.8, 91) + np.float32(1.5), other))


def test_without_data_enough_a_device_reports_and_the_reference_says_why() -> None:
    document = drift_reference([walk(30, 0.0, 1)], window_period_s=1.0, budget=Budget(1e-6))
    parsed = parse(document)
    assert parsed is not None
    assert parsed[1].limit is None
    assert "replicates" in document["no_limit"]
    with pytest.raises(FixConfiguration, match="no windows"):
        drift_reference([np.empty((0, 8, 2), np.float32)], window_period_s=1.0)


def two_inputs(count: int, seed: int, far: float = 0.0) -> list[np.ndarray[Any, Any]]:
    """Windows of two channels and 8 samples, and of one channel and 3 samples moved by `far`."""
    other = walk(count, 0.0, seed + 500, channels=1)[:, :3] + np.float32(far)
    return [walk(count, 0.0, seed), other]


def watched(inputs: list[np.ndarray[Any, Any]], watch: Watch) -> list[Any]:
    judged = []
    for index, (first, second) in enumerate(zip(*inputs, strict=True)):
        if watch.due():
            judged.append(watch.push(first, index + 1, index + 2, further=[second]))
    return [one for one in judged if one is not None]


def test_a_further_input_that_drifts_is_seen_while_the_first_does_not() -> None:
    reference = Reference.of(*two_inputs(1000, 2))
    watch = Watch(reference, Policy(1, 50, limit=0.6, raise_count=2, raise_of=3))
    assert not any(j.changed for j in watched(two_inputs(300, 3), watch))
    far = watched(two_inputs(200, 4, far=2.0), watch)
    assert [j.changed for j in far] == [None, True, None, None]
    assert all(j.psi.shape == (3,) for j in far)
    assert all(j.psi[2] > 0.6 > j.psi[:2].max() for j in far)


def test_reports_of_several_inputs_keep_them_apart_on_the_wire_and_add_up() -> None:
    reference = Reference.of(*two_inputs(500, 2))
    whole = json.loads(json.dumps(reference.to_object()))
    assert len(whole["edges"]) == 2
    assert len(whole["further_edges"]) == 1
    again = Reference.from_object(whole)
    assert np.array_equal(again.edges, reference.edges)
    assert (again.first, again.further) == (2, 1)
    watch = Watch(again, Policy(1, 100))
    done = watched(two_inputs(150, 3), watch)
    resumed = Watch(reference, Policy(1, 100))
    resumed.resume(json.loads(json.dumps(watch.to_object())))
    done += watched(two_inputs(50, 4), resumed)
    sent = [json.loads(json.dumps(j.report.to_object())) for j in done]
    assert [np.shape(d["counts"]) for d in sent] == [(2, 35)] * 2
    assert [np.sum(d["further_counts"]) for d in sent] == [300] * 2
    total = merge([Report.from_object(d, reference) for d in sent])
    assert total.sketch.counts.sum(axis=1).tolist() == [1600, 1600, 600]


def test_a_model_of_one_input_keeps_its_wire_form() -> None:
    data = walk(200, 0.0, 1)
    assert set(Reference.of(data).to_object()) == {"kind", "bins", "edges"}
    (judged,) = reports(data[:50], Watch(Reference.of(data), Policy(1, 50)))
    assert set(judged.report.to_object()) == {
        "counts",
        "scores",
        "labels",
        "windows",
        "t0_ns",
        "t1_ns",
    }


@pytest.mark.parametrize(
    "further", [None, "x", [[1, 2]], [[0.0] * 32 + [float("nan")]], [0.0] * 33]
)
def test_damaged_further_edges_are_refused(further: Any) -> None:
    document = Reference.of(walk(100, 0.0, 1)).to_object()
    with pytest.raises(MalformedMessage):
        Reference.from_object({**document, "further_edges": further})


def test_sketches_that_divide_their_channels_otherwise_are_not_added() -> None:
    data = walk(100, 0.0, 1)
    one, two = Reference.of(data), Reference.of(data[..., :1], data[..., 1:])
    assert np.array_equal(one.edges, two.edges)
    with pytest.raises(MalformedMessage, match="two references"):
        Sketch(one).merge([Sketch(two)])


def test_training_takes_runs_of_every_input() -> None:
    runs = [two_inputs(300, seed) for seed in range(3)]
    document = drift_reference(
        [first for first, _ in runs],
        window_period_s=1.0,
        further=[[second for _, second in runs]],
        budget=Budget(triggers_per_year=1e6, count_windows=40),
        replicates=60,
    )
    parsed = parse(json.loads(json.dumps(document)))
    assert parsed is not None
    reference, policy = parsed
    assert (reference.first, reference.further) == (2, 1)
    assert policy.limit is not None
    with pytest.raises(FixConfiguration, match="differ"):
        drift_reference(
            [first for first, _ in runs],
            window_period_s=1.0,
            further=[[second[:-1] for _, second in runs]],
        )
