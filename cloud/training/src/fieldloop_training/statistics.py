"""Paired comparison of two candidates on the same trials. Pure; numpy only.

Windows of one recording are not independent (3,605 smart-watch windows count as about 274), so all
of it goes by unit, which is a device, a machine or a recording, and never by window. Intervals are
percentile bootstrap (B. Efron, R. Tibshirani, "An Introduction to the Bootstrap", 1993, ch. 13),
tests flip the signs of whole units (E. J. G. Pitman, 1937), several tests are corrected by S. Holm,
"A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 6,
1979, and the effective number follows from the intraclass correlation (L. Kish, "Survey Sampling",
1965, ch. 5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2_000
FLIPS = 4_999
FLIPS_EXACT_UNITS_MAX = 12
LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class Trials:
    """What candidates did on the trials (windows or events) of one evaluation set.

    Attributes:
        units: int64[n], which independent unit each trial belongs to.
        values: float64[n] by candidate: 1 where it did right, 0 where it did not.
    """

    units: NDArray[np.int64]
    values: Mapping[str, NDArray[np.float64]]

    @property
    def units_count(self) -> int:
        """Number of independent units."""
        return len(np.unique(self.units))

    def share(self, candidate: str) -> float:
        """Mean of the units' means."""
        return float(by_unit(self.values[candidate], self.units).mean())

    def where(self, chosen: NDArray[np.bool_]) -> Trials:
        """Some of the trials: bool[n]."""
        return Trials(self.units[chosen], {k: v[chosen] for k, v in self.values.items()})


@dataclass(frozen=True, slots=True)
class Paired:
    """A paired difference, each unit counting once, with its 95 % interval.

    Attributes:
        units: number of units, of the kind `unit`.
        trials: number of trials.
        effective: number of independent trials that these count as.
    """

    difference: float
    low: float
    high: float
    units: int
    trials: int
    effective: float
    unit: str = "recordings"

    def __str__(self) -> str:
        return (
            f"{self.difference:+.3f} [{self.low:+.3f}, {self.high:+.3f}], n = {self.units} "
            f"{self.unit} ({self.trials} trials count as {self.effective:.0f})"
        )


def by_unit(values: NDArray[np.float64], units: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean of each unit, by ascending unit."""
    _, index = np.unique(units, return_inverse=True)
    means: NDArray[np.float64] = np.bincount(index, weights=values) / np.bincount(index)
    return means


def paired(trials: Trials, a: str, b: str, unit: str = "recordings", seed: int = 0) -> Paired:
    """Candidate `a` minus candidate `b`; the interval holds 95 % of draws of whole units."""
    each = trials.values[a].astype(np.float64) - trials.values[b].astype(np.float64)
    means = by_unit(each, trials.units)
    draws = np.random.default_rng(seed).integers(0, len(means), (RESAMPLES, len(means)))
    low, high = np.percentile(means[draws].mean(axis=1), (2.5, 97.5))
    return Paired(
        float(means.mean()), float(low), float(high), len(means), len(each),
        effective_trials(each, trials.units), unit,
    )  # fmt: skip


def effective_trials(values: NDArray[np.float64], units: NDArray[np.int64]) -> float:
    """How many independent trials these count as: `n / (1 + (m0 - 1) icc)`, at least the units.

    The intraclass correlation is that of a one-way analysis of variance with unequal groups.
    """
    _, index = np.unique(units, return_inverse=True)
    sizes = np.bincount(index).astype(np.float64)
    n, k = len(values), len(sizes)
    if k < 2 or n == k:
        return float(k)
    means = np.bincount(index, weights=values) / sizes
    between = float((sizes * np.square(means - values.mean())).sum()) / (k - 1)
    within = float(np.square(values - means[index]).sum()) / (n - k)
    m0 = (n - float(np.square(sizes).sum()) / n) / (k - 1)
    total = between + (m0 - 1) * within
    if total <= 0:  # no two trials differ, so nothing is known of their correlation
        return float(k)
    icc = min(1.0, max(0.0, (between - within) / total))
    return float(max(k, n / (1 + (m0 - 1) * icc)))


def worse_p(trials: Trials, a: str, b: str, seed: int = 0) -> float:
    """One-sided p-value of "`a` is no worse than `b`", by flipping the signs of whole units."""
    each = trials.values[a].astype(np.float64) - trials.values[b].astype(np.float64)
    means = by_unit(each, trials.units)
    n = len(means)
    if n <= FLIPS_EXACT_UNITS_MAX:
        bits = (np.arange(1 << n)[:, None] >> np.arange(n)) & 1
        signs = 1 - 2 * bits
        extra = 0
    else:
        signs = np.random.default_rng(seed).choice((-1, 1), (FLIPS, n))
        extra = 1
    drawn = signs @ means
    hits = int((drawn <= means.sum() + 1e-12).sum())
    return (hits + extra) / (len(signs) + extra)


def holm(p_values: Sequence[float], level: float = LEVEL) -> list[bool]:
    """Which hypotheses are rejected, so that any false rejection has at most this probability.

    >>> holm([0.01, 0.04, 0.03])
    [True, False, False]
    """
    rejected = [False] * len(p_values)
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[index] > level / (len(p_values) - rank):
            break
        rejected[int(index)] = True
    return rejected
