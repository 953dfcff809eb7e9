"""Gates: a pure function of what was measured."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fieldloop_training.gates import LOOKS_MAX, Bound, Evidence, judge
from fieldloop_training.statistics import Trials, effective_trials, holm, paired, worse_p

UNITS, PER_UNIT = 20, 10


def right(share: float, spread: int = 0) -> NDArray[np.float64]:
    """float64[200]: in each unit that share of the trials; `spread` shifts units both ways."""
    rows = []
    for i in range(UNITS):
        n = round(share * PER_UNIT) + (spread if i % 2 else -spread)
        rows.append([float(k < min(PER_UNIT, max(0, n))) for k in range(PER_UNIT)])
    return np.array(rows).reshape(-1)


def trials(units: NDArray[np.int64] | None = None, **values: Any) -> Trials:
    whole = {"int8": right(0.9), "float": right(0.9), "baseline": right(0.7)} | values
    kept = {k: v for k, v in whole.items() if v is not None}
    return Trials(np.repeat(np.arange(UNITS), PER_UNIT) if units is None else units, kept)


def evidence(**changes: Any) -> Evidence:
    whole = Evidence(
        task="classification",
        sets={"held-out": trials(majority=right(0.2))},
        agreement=0.99,
        bounds=[Bound("size", 20_000, 100_000, "bytes"), Bound("latency", 0.1, 100.0, "ms")],
    )
    return dataclasses.replace(whole, **changes)


def challenged(champion: NDArray[np.float64], **changes: Any) -> Evidence:
    """Evidence with a champion on a frozen set of all recordings."""
    mine = trials(majority=right(0.2), champion=champion)
    return evidence(sets={"held-out": mine, "frozen": mine}, **changes)


def outcomes(given: Evidence) -> dict[str, str]:
    return {g.name: g.outcome for g in judge(given).gates}


def held(**values: Any) -> dict[str, Any]:
    return {"sets": {"held-out": trials(**({"majority": right(0.2)} | values))}}


def test_a_good_first_model_is_approved_in_words():
    verdict = judge(evidence())
    assert verdict.approved
    assert verdict.words == "approved: 6 of 6 gates passed"


@pytest.mark.parametrize(
    ("gate", "changes"),
    [
        ("learned", held(int8=right(0.2), float=right(0.2), baseline=right(0.1))),
        ("int8", held(float=right(1.0))),
        ("int8", {"agreement": 0.90}),
        ("baseline", held(baseline=right(1.0))),
        ("size", {"bounds": [Bound("size", 100_001, 100_000, "bytes")]}),
        ("latency", {"bounds": [Bound("latency", 100.1, 100.0, "ms")]}),
    ],
)
def test_each_gate_can_reject_alone_and_says_why(gate: str, changes: dict[str, Any]):
    verdict = judge(evidence(**changes))
    failed = [g for g in verdict.gates if g.outcome == "failed"]
    assert [g.name for g in failed] == [gate]
    assert verdict.conclusion == "rejected"
    assert failed[0].words in verdict.words


def test_worse_than_the_champion_beyond_the_interval_is_rejected_within_it_passes():
    worse = judge(challenged(right(1.0)))
    assert worse.conclusion == "rejected"
    assert "worse than the champion on the frozen set, look 1" in worse.words
    assert judge(challenged(right(0.9, spread=1))).approved


def test_perhaps_worse_than_the_champion_is_insufficient_evidence_and_not_published():
    perhaps = right(0.9)
    perhaps[:PER_UNIT] = 0.0
    perhaps[PER_UNIT : 2 * PER_UNIT] = 1.0
    mine = trials(int8=perhaps, float=perhaps, majority=right(0.1), champion=right(0.9))
    verdict = judge(evidence(sets={"held-out": mine, "frozen": mine}))
    assert verdict.conclusion == "insufficient evidence"
    assert not verdict.approved
    assert "perhaps worse than the champion" in verdict.words


def test_a_baseline_that_is_as_good_is_insufficient_evidence_and_does_not_block():
    verdict = judge(evidence(**held(baseline=right(0.9, spread=1))))
    assert verdict.approved
    assert verdict.words.endswith("insufficient evidence on baseline")


def test_four_recordings_are_insufficient_evidence_however_many_windows():
    few = np.repeat(np.arange(4), UNITS * PER_UNIT // 4)
    mine = trials(few, majority=right(0.2), champion=right(1.0))
    seen = outcomes(evidence(sets={"held-out": mine, "frozen": mine}))
    assert seen["baseline"] == "insufficient evidence"
    assert seen["champion, frozen"] == "insufficient evidence"


def test_a_champion_that_cannot_be_compared_blocks_unless_a_person_replaces_it():
    assert judge(evidence(champion_note="other channels")).conclusion == "insufficient evidence"
    assert judge(evidence(champion_note="other channels", replaced_by_hand=True)).approved


def test_a_frozen_set_that_was_looked_at_too_often_decides_nothing():
    assert judge(challenged(right(0.9), looks=LOOKS_MAX - 1)).approved
    verdict = judge(challenged(right(1.0), looks=LOOKS_MAX))
    assert verdict.conclusion == "insufficient evidence"
    assert f"looked at {LOOKS_MAX} times" in verdict.words


def test_one_bad_slice_rejects_and_a_small_one_does_not_gate():
    base = challenged(right(0.9))
    bad = trials(champion=right(1.0))
    few = np.repeat(np.arange(5), UNITS * PER_UNIT // 5)
    good = trials(champion=right(0.9))
    verdict = judge(dataclasses.replace(base, slices={"site Ulm": bad, "site Bern": good}))
    assert verdict.conclusion == "rejected"
    assert "site Ulm" in verdict.words
    small = judge(dataclasses.replace(base, slices={"site Ulm": trials(few, champion=right(1.0))}))
    assert small.approved
    assert outcomes(dataclasses.replace(base, slices={"a": good}))["slices"] == "passed"


def test_many_slices_of_noise_reject_at_the_stated_rate():
    """Holm holds the rate of false rejections over all slices of a run, not of each."""
    rng = np.random.default_rng(1)
    rejected = 0
    for _ in range(100):
        slices = {}
        for k in range(10):
            a, b = (rng.random(200) < 0.8).astype(float), (rng.random(200) < 0.8).astype(float)
            slices[f"s{k}"] = Trials(np.repeat(np.arange(20), 10), {"int8": a, "champion": b})
        p_values = [worse_p(t, "int8", "champion") for t in slices.values()]
        rejected += any(holm(p_values))
    assert rejected <= 12


def anomaly(**changes: Any) -> Evidence:
    """Few alarms, most faults found; the champion as good; by machine."""
    good, found = right(1.0), right(0.9)
    healthy = trials(int8=good, float=good, baseline=right(0.9), champion=good)
    faults = trials(int8=found, float=found, baseline=right(0.7), champion=found)
    whole = Evidence(
        task="anomaly", sets={"healthy": healthy, "faults": faults}, agreement=1.0,
        bounds=[Bound("false alarms", 0.0, 0.02, "of healthy windows")], unit="machines",
    )  # fmt: skip
    return dataclasses.replace(whole, **changes)


def test_an_anomaly_model_as_good_as_the_champion_passes():
    verdict = judge(anomaly())
    assert verdict.approved, verdict.words


def test_an_anomaly_model_without_a_fault_to_detect_is_insufficient_evidence():
    healthy = anomaly().sets["healthy"]
    verdict = judge(anomaly(sets={"healthy": healthy}))
    assert verdict.conclusion == "insufficient evidence"


def test_more_false_alarms_than_the_champion_or_than_the_budget_reject():
    sets = dict(anomaly().sets)
    noisy = trials(int8=right(0.8), float=right(0.8), baseline=right(0.7), champion=right(1.0))
    assert judge(anomaly(sets=sets | {"healthy": noisy})).conclusion == "rejected"
    over = [Bound("false alarms", 0.03, 0.02, "of healthy windows")]
    assert judge(anomaly(bounds=over)).conclusion == "rejected"


def test_recall_on_known_faults_may_not_fall_by_one():
    known = Trials(np.arange(3), {"int8": np.array([1.0, 1, 0]), "champion": np.ones(3)})
    verdict = judge(anomaly(sets=dict(anomaly().sets) | {"known faults": known}))
    assert verdict.conclusion == "rejected"
    assert "finds 2 of 3 known faults, the champion 3" in verdict.words


def test_an_anomaly_model_that_loses_to_the_plain_baseline_is_rejected():
    sets = dict(anomaly().sets)
    lost = trials(int8=right(0.5), float=right(0.5), baseline=right(0.9), champion=right(0.5))
    healthy = trials(int8=right(1.0), float=right(1.0), baseline=right(1.0), champion=right(1.0))
    verdict = judge(anomaly(sets=sets | {"faults": lost, "healthy": healthy}))
    assert "loses to the baseline" in verdict.words


def test_the_interval_is_over_units_and_not_over_windows():
    units = np.repeat(np.arange(6), 1000)
    a = np.repeat([1.0, 1, 1, 0, 0, 1], 1000)
    by_unit = paired(Trials(units, {"a": a, "b": 1 - a}), "a", "b")
    by_window = paired(Trials(np.arange(6000), {"a": a, "b": 1 - a}), "a", "b")
    assert (by_unit.units, by_unit.effective) == (6, 6)
    assert by_unit.high - by_unit.low > 5 * (by_window.high - by_window.low)


def test_independent_windows_count_fully_and_copies_count_once():
    rng = np.random.default_rng(0)
    units = np.repeat(np.arange(50), 20)
    independent = effective_trials(rng.normal(size=1000), units)
    copies = effective_trials(np.repeat(rng.normal(size=50), 20), units)
    assert independent > 700
    assert copies == pytest.approx(50)


def test_the_verdict_does_not_depend_on_anything_but_its_arguments():
    assert judge(evidence()).to_object() == judge(evidence()).to_object()
