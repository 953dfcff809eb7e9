"""Drift of a fleet: what is named is seldom false, and what is asked says why."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fieldloop_scoring.sketch import Reference, Sketch
from fieldloop_training.drifts import Seen, ask, false_discoveries, find, p_value

CHANNELS = [f"c{i}" for i in range(6)]
REFERENCE_WINDOWS, WINDOWS = 2_000, 400


def sketch_of(
    rng: np.random.Generator, reference: Reference, shift: NDArray[np.float64] | float = 0.0
) -> NDArray[np.float64]:
    """Index by channel of windows of one sample each: independent, the hardest case."""
    live = Sketch(reference)
    live.add((rng.normal(size=(WINDOWS, len(CHANNELS))) + shift).astype(np.float32))
    return live.psi()


def seen(name: str, psi: NDArray[np.float64], *, confirmed: bool = True, **more: bool) -> Seen:
    named = {c: float(v) for c, v in zip(CHANNELS, psi, strict=True)}
    return Seen(name, WINDOWS, named, 1.0, confirmed, more.get("alarms", False))


def fleet(seed: int, devices: int, drifting: int = 0) -> list[Seen]:
    rng = np.random.default_rng(seed)
    reference = Reference.of(rng.normal(size=(REFERENCE_WINDOWS, len(CHANNELS))).astype(np.float32))
    found = []
    for k in range(devices):
        shift = np.zeros(len(CHANNELS))
        if k < drifting:
            shift[2] = 1.0
        found.append(seen(f"d{k:03d}", sketch_of(rng, reference, shift)))
    return found


def test_fifty_rounds_of_a_healthy_fleet_name_nothing():
    named = [find(fleet(seed, 20), REFERENCE_WINDOWS, share=0.05, limited=True)[0]
             for seed in range(50)]  # fmt: skip
    assert sum(map(bool, named)) <= 2


def test_p_values_of_no_drift_are_not_too_small():
    rng = np.random.default_rng(5)
    p_values = []
    for _ in range(60):
        reference = Reference.of(rng.normal(size=(REFERENCE_WINDOWS, 6)).astype(np.float32))
        psi = sketch_of(rng, reference)
        p_values += [p_value(float(v), WINDOWS, REFERENCE_WINDOWS) for v in psi]
    assert np.mean(np.array(p_values) < 0.05) < 0.09
    assert np.mean(np.array(p_values) < 0.01) < 0.03


def test_of_what_is_named_at_most_the_stated_share_is_false():
    false = named = 0
    for seed in range(20):
        findings, tests = find(fleet(seed, 20, 5), REFERENCE_WINDOWS, share=0.1, limited=True)
        assert tests == 120
        named += len(findings)
        false += sum(not (f.channel == "c2" and f.device < "d005") for f in findings)
    assert named >= 95
    assert false / named <= 0.1


def test_corrections_name_fewer_the_more_is_tested_and_dependence_is_paid_for():
    p_values = [0.001, 0.012, 0.02] + [0.5] * 3
    assert sum(false_discoveries(p_values, 0.05, dependent=False)) == 3
    assert sum(false_discoveries(p_values, 0.05)) == 1
    assert sum(false_discoveries([0.012] + [0.9] * 30, 0.05, dependent=False)) == 0
    assert false_discoveries([], 0.05) == []


def test_what_the_device_has_not_confirmed_is_not_asked_about():
    rng = np.random.default_rng(0)
    reference = Reference.of(rng.normal(size=(2000, 6)).astype(np.float32))
    far = sketch_of(rng, reference, 2.0)
    one = [seen("d0", far, confirmed=False)]
    assert find(one, 2000, share=0.05, limited=True)[0] == []
    assert len(find(one, 2000, share=0.05, limited=False)[0]) == 6


def test_a_question_says_whether_it_looks_like_sensor_regime_or_wear():
    one = fleet(1, 10, 1)
    sensor = ask(find(one, REFERENCE_WINDOWS, share=0.05, limited=True)[0], one)
    assert [q.nature for q in sensor] == ["sensor"]
    assert "d000" in sensor[0].words
    assert sensor[0].subject == "d000/c2"
    most = fleet(1, 10, 8)
    regime = ask(find(most, REFERENCE_WINDOWS, share=0.05, limited=True)[0], most)
    assert [q.nature for q in regime] == ["regime"]
    assert "8 of 10 devices" in regime[0].words
    rng = np.random.default_rng(0)
    reference = Reference.of(rng.normal(size=(2000, 6)).astype(np.float32))
    worn = [*fleet(2, 9), seen("worn", sketch_of(rng, reference, 1.5), alarms=True)]
    wear = ask(find(worn, REFERENCE_WINDOWS, share=0.05, limited=True)[0], worn)
    assert [q.nature for q in wear] == ["wear or fault"]
    assert "while an alarm stands" in wear[0].words
