"""Evidence that may be looked at at any time: its error is what it says, and it finds harm."""

from __future__ import annotations

import math
import random

import pytest

from fieldloop_delivery.sequential import (
    Estimate,
    combined,
    evidence,
    less_drift,
    pooled,
    variance_needed,
)


def crossed(seed: int, drift: float, looks: int = 400, limit: float = 20.0) -> bool:
    """Whether a mean of unit normals, looked at after each one, ever gives evidence of `limit`."""
    rng = random.Random(seed)
    total = 0.0
    for n in range(1, looks + 1):
        total += rng.gauss(drift, 1.0)
        if evidence(total / n, 1 / n, 0.0, 0.3) >= limit:
            return True
    return False


def test_chance_of_a_false_alarm_over_four_hundred_looks_is_below_one_in_twenty():
    runs = 1_000
    false = sum(crossed(seed, 0.0) for seed in range(runs))
    assert false <= 0.05 * runs + 3 * math.sqrt(0.05 * 0.95 * runs)
    fixed = sum(
        any(
            abs(z) > 1.645 for z in _walk(seed)
        )
        for seed in range(200)
    )  # fmt: skip
    assert fixed > 60, "a test for one look, looked at again and again, would fail far too often"


def _walk(seed: int) -> list[float]:
    rng = random.Random(seed)
    total, path = 0.0, []
    for n in range(1, 401):
        total += rng.gauss(0.0, 1.0)
        path.append(total / math.sqrt(n))
    return path


def test_harm_is_found():
    assert sum(crossed(seed, 0.3) for seed in range(200)) > 190


def test_better_is_never_evidence_of_harm():
    assert evidence(-1.0, 0.01, 0.0, 0.3) < 0.05
    assert evidence(0.0, math.inf, 0.0, 0.3) == 1.0


def test_variance_needed_is_where_evidence_reaches_the_limit():
    v = variance_needed(0.05, 0.0, 0.1, 0.01)
    assert evidence(0.05, v, 0.0, 0.1) == pytest.approx(100, rel=1e-3)
    assert variance_needed(0.02, 0.05, 0.1, 0.01) == 0.0


def test_devices_that_differ_widen_the_estimate():
    rng = random.Random(1)
    alike = pooled([(0.0, 1e-4)] * 40, 0.0)
    apart = pooled([(rng.gauss(0, 0.2), 1e-4) for _ in range(40)], 0.0)
    assert apart.variance > 100 * alike.variance
    assert apart.variance == pytest.approx(0.04 / 40, rel=0.6)


def test_what_changed_for_the_controls_too_is_not_the_versions_doing():
    treated, control = Estimate(0.10, 1e-4, 50), Estimate(0.10, 1e-4, 50)
    assert less_drift(treated, control, 0.03).mean == pytest.approx(0.01, abs=0.005)
    alone = less_drift(treated, Estimate(), 0.03)
    assert (alone.mean, alone.variance) == (0.10, pytest.approx(1e-4 + 9e-4))


def test_cohorts_are_weighed_by_what_they_tell():
    both = combined([Estimate(0.0, 0.01, 5), Estimate(1.0, 0.03, 5), Estimate()])
    assert both.mean == pytest.approx(0.25)
    assert both.units == 10
