"""The level that a healthy machine passes no oftener than a budget of alarm events allows. Pure.

Peaks over a threshold (S. Coles, "An Introduction to Statistical Modeling of Extreme Values", 2001,
chapter 4, and 5.3 on declustering by runs): above a high level u the peaks of separate events are
near to exponential with mean excess `sigma`, and come `rate` times a week. The level that is passed
`budget` times a week is `u + sigma ln(rate / budget)`. The shape parameter of the general law is
held at 0: with the few dozen peaks of a commissioning its estimate would be noise, and a bounded
tail is then overestimated, which errs to fewer alarms. `sigma` is taken at the upper end of a
one-sided interval (chi-square, by E. B. Wilson and M. M. Hilferty, "The distribution of
chi-square", PNAS 17, 1931, 684), so that a short commissioning gives a more careful threshold.

A machine with few peaks is helped by its cohort: what like machines showed counts as `PRIOR_PEAKS`
further peaks (empirical Bayes; the same weight for all, stated and not fitted).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.manifest import AlarmRule

SECONDS_PER_WEEK = 7 * 86_400.0
HIGH_SHARE = 0.9
"""Quantile of the scores from which on a peak counts as one."""
PRIOR_PEAKS = 10
PEAKS_MIN = 8
"""Peaks, of the machine and the cohort's together, below which no level can be told."""
PAUSE_HOPS_MIN = 4.0
"""Hops between most windows from which they are taken to be apart by plan."""
UPPER_Z = 1.2816
"""Standard normal quantile of the one-sided 90 % interval."""


@dataclass(frozen=True, slots=True)
class Peaks:
    """The peaks of one machine, or of a cohort: how many, their mean excess, how often they come.

    Attributes:
        high: the level u that they were counted from, in robust standard deviations.
        excess: mean excess over u, likewise.
        per_week: events a week of running.
    """

    count: float
    high: float
    excess: float
    per_week: float


def rule_levels(z: NDArray[np.float64], rule: AlarmRule) -> NDArray[np.float64]:
    """The level that each window puts to an alarm rule: it is raised where this is passed.

    For `raise_count` of `raise_of` windows that is the `raise_count`-th largest of the last
    `raise_of` scores. A run shorter than that has none.

    Args:
        z: float64[n], scores of one unbroken run, oldest first.

    Returns:
        float64[n - raise_of + 1].

    >>> rule_levels(np.array([1.0, 9.0, 2.0, 3.0]), AlarmRule(raise_count=2, raise_of=3)).tolist()
    [2.0, 3.0]
    """
    if len(z) < rule.raise_of:
        return np.empty(0)
    recent = np.lib.stride_tricks.sliding_window_view(z, rule.raise_of)
    return np.sort(recent, axis=1)[:, rule.raise_of - rule.raise_count]


def pace_s(t0_ns: NDArray[np.int64], hop_s: float) -> float:
    """The time that a window stands for.

    Of a stream that records a stretch now and then, one window's stretch stands for all the time
    until the next. (Where a stretch holds several windows, they count for themselves only: the
    threshold is then more careful than the budget asks for.)

    Args:
        t0_ns: int64[n], beginnings of windows, ascending.
        hop_s: seconds from one window to the next where the stream records all the time.

    >>> pace_s(np.arange(5) * 1_800 * 10**9, 0.32)
    1800.0
    """
    if len(t0_ns) < 2:
        return hop_s
    step_s = float(np.median(np.diff(t0_ns))) / 1e9
    return step_s if step_s > PAUSE_HOPS_MIN * hop_s else hop_s


def peaks_of(
    runs: list[NDArray[np.float64]], *, high: float, apart: int, week_share: float
) -> Peaks:
    """Peaks above a level; two belong to one event unless `apart` windows below it lie between.

    Args:
        runs: float64[n] each, levels as `rule_levels` gives them.
        week_share: how much of a week's running these windows are.
    """
    found: list[float] = []
    for run in runs:
        below = apart
        for value in run.tolist():
            if value <= high:
                below += 1
            elif below >= apart:
                found.append(value - high)
                below = 0
            else:
                found[-1] = max(found[-1], value - high)
                below = 0
    excess = float(np.mean(found)) if found else 0.0
    return Peaks(len(found), high, excess, len(found) / week_share if week_share > 0 else 0.0)


def pooled(own: Peaks, cohort: Peaks | None) -> Peaks:
    """A machine's peaks, with its cohort's counting as `PRIOR_PEAKS` more."""
    if cohort is None or cohort.count <= 0:
        return own
    n, prior = own.count, float(min(PRIOR_PEAKS, cohort.count))
    # Excess over the machine's own level: an exponential tail has the same mean excess above any.
    excess = (n * own.excess + prior * cohort.excess) / (n + prior)
    rate = (n * own.per_week + prior * cohort.per_week) / (n + prior)
    return Peaks(n + prior, own.high, excess, rate)


def return_level(peaks: Peaks, budget_per_week: float) -> float | None:
    """The level passed `budget_per_week` times a week; None where there are too few peaks."""
    if peaks.count < PEAKS_MIN or budget_per_week <= 0:
        return None
    sigma = peaks.excess * _upper_factor(peaks.count)
    return peaks.high + sigma * max(0.0, math.log(peaks.per_week / budget_per_week))


def _upper_factor(count: float) -> float:
    """Upper bound of an exponential mean over its estimate: `2n / chi2(0.1; 2n)`."""
    degrees = 2 * count
    root = 1 - 2 / (9 * degrees) - UPPER_Z * math.sqrt(2 / (9 * degrees))
    return float(1 / max(root, 0.1) ** 3)
