"""Gates: a pure function of what was measured."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fieldloop_training.gates import Evidence, judge, paired

RECORDINGS, WINDOWS = 20, 10


def right(share: float, spread: int = 0) -> NDArray[np.bool_]:
    """bool[200]: in each recording that share of the windows; `spread` shifts some recordings."""
    rows = []
    for i in range(RECORDINGS):
        n = round(share * WINDOWS) + (spread if i % 2 else -spread)
        rows.append([k < min(WINDOWS, max(0, n)) for k in range(WINDOWS)])
    return np.array(rows).reshape(-1)


def evidence(**changes: Any) -> Evidence:
    whole = Evidence(
        recordings=np.repeat(np.arange(RECORDINGS), WINDOWS),
        int8=right(0.9),
        float32=right(0.9),
        baseline=right(0.7),
        champion=None,
        champion_note="",
        majority=right(0.2),
        agreement=0.99,
        model_bytes=20_000,
        bytes_max=100_000,
        latency_ms=0.1,
        latency_ms_max=100.0,
    )
    return dataclasses.replace(whole, **changes)


def outcome(name: str, **changes: Any) -> str:
    return next(g.outcome for g in judge(evidence(**changes)).gates if g.name == name)


def test_a_good_first_model_is_approved_in_words():
    verdict = judge(evidence())
    assert verdict.approved
    assert verdict.words == "approved: 6 of 6 gates passed"


@pytest.mark.parametrize(
    ("gate", "changes"),
    [
        ("learned", {"int8": right(0.2), "float32": right(0.2), "baseline": right(0.1)}),
        ("int8", {"float32": right(1.0)}),
        ("int8", {"agreement": 0.90}),
        ("baseline", {"baseline": right(1.0)}),
        ("champion", {"champion": right(1.0)}),
        ("size", {"model_bytes": 100_001}),
        ("latency", {"latency_ms": 100.1}),
    ],
)
def test_each_gate_can_reject_alone_and_says_why(gate: str, changes: dict[str, Any]):
    verdict = judge(evidence(**changes))
    failed = [g for g in verdict.gates if g.outcome == "failed"]
    assert [g.name for g in failed] == [gate]
    assert not verdict.approved
    assert failed[0].words in verdict.words


def test_a_small_loss_to_the_champion_within_the_interval_passes():
    assert outcome("champion", champion=right(0.9, spread=1)) == "passed"


def test_a_baseline_that_is_as_good_is_insufficient_evidence_and_does_not_block():
    verdict = judge(evidence(baseline=right(0.9, spread=1)))
    assert verdict.approved
    assert verdict.words.endswith("insufficient evidence on baseline")


def test_four_recordings_are_insufficient_evidence_however_many_windows():
    few = np.repeat(np.arange(4), RECORDINGS * WINDOWS // 4)
    assert outcome("baseline", recordings=few) == "insufficient evidence"
    champion = right(1.0)
    assert outcome("champion", recordings=few, champion=champion) == "insufficient evidence"


def test_a_champion_that_cannot_be_compared_is_insufficient_evidence():
    assert outcome("champion", champion_note="other channels") == "insufficient evidence"


def test_the_interval_is_over_recordings_and_not_over_windows():
    recordings = np.repeat(np.arange(6), 1000)
    a = np.repeat([True, True, True, False, False, True], 1000)
    b = ~a
    by_recording = paired(a, b, recordings)
    by_window = paired(a, b, np.arange(6000))
    assert by_recording.recordings == 6
    assert by_recording.high - by_recording.low > 5 * (by_window.high - by_window.low)


def test_the_interval_of_a_constant_difference_is_that_difference():
    recordings = np.repeat(np.arange(RECORDINGS), WINDOWS)
    result = paired(right(0.9), right(0.7), recordings)
    assert (result.low, result.difference, result.high) == pytest.approx((0.2, 0.2, 0.2))


def test_the_verdict_does_not_depend_on_anything_but_its_arguments():
    assert judge(evidence()).to_object() == judge(evidence()).to_object()
