"""How far is too far: the limit of a drift policy, from the reference data and a stated budget.

Used by training, which has the data; devices only compare. Pure; any thread.

A fixed limit means nothing (`sketch`), so it comes from the reference data. The moving block
bootstrap (H. R. Künsch, "The Jackknife and the Bootstrap for General Stationary Observations",
Annals of Statistics 17, 1989, 1217-1241) draws blocks of consecutive windows with replacement: one
series for a reference and one, as long as a report, for live data without drift; so the index has
the error of the reference in it too. Let p be the share of such reports beyond the limit. With
N reports a year, confirmation k of n, and reports that are independent of each other, confirmed
triggers a year are at most N P(B >= k), B binomial (n, p). The limit is the (1 - p)
quantile for the largest p that keeps this within the budget. Reports are independent only as far as
the data's correlation is short against the time of a report; blocks have to be long against it.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.errors import FixConfiguration
from fieldloop_scoring.drift import Policy
from fieldloop_scoring.sketch import Reference, Sketch

SECONDS_PER_YEAR: Final = 31_557_600.0


def decorrelation_windows(series: NDArray[np.float64]) -> int:
    """Windows between two that are near to independent: the integrated autocorrelation time.

    `tau = 1 + 2 sum(rho_k)` over the lags before the first pair whose sum is not positive: the
    initial positive sequence of C. J. Geyer, "Practical Markov Chain Monte Carlo", Statistical
    Science 7, 1992, 473-483. The largest over the columns, rounded up.

    Args:
        series: float64[n, k], statistics of consecutive windows, such as mean and deviation.
    """
    worst = 1.0
    for column in series.T:
        x = column - column.mean()
        variance = float(x @ x)
        if variance == 0 or len(x) < 4:
            continue
        size = 1 << (2 * len(x) - 1).bit_length()
        spectrum = np.abs(np.fft.rfft(x, size)) ** 2
        rho = np.fft.irfft(spectrum, size)[: len(x)] / variance
        tau, lag = -1.0, 0
        while lag + 1 < len(x) and rho[lag] + rho[lag + 1] > 0:
            tau += 2 * float(rho[lag] + rho[lag + 1])
            lag += 2
        worst = max(worst, tau)
    return math.ceil(worst)


def share_beyond(raise_count: int, raise_of: int, confirmed: float) -> float:
    """The largest share p of single reports for which `P(B(raise_of, p) >= raise_count)` holds.

    Args:
        confirmed: the probability that may not be passed.
    """
    low, high = 0.0, 1.0
    for _ in range(60):
        p = (low + high) / 2
        tail = sum(
            math.comb(raise_of, i) * p**i * (1 - p) ** (raise_of - i)
            for i in range(raise_count, raise_of + 1)
        )
        low, high = (p, high) if tail <= confirmed else (low, p)
    return low


def fit_limit(
    counted: NDArray[np.float32],
    policy: Policy,
    *,
    window_period_s: float,
    triggers_per_year: float,
    block: int,
    replicates: int = 500,
    seed: int = 1,
) -> float:
    """The limit that keeps false triggers of a device within a budget.

    Args:
        counted: float32[n, window_samples, channels], normalised, consecutive counted windows of
            the reference: every `policy.decorrelation_windows`-th running window.
        policy: what will be in force; its limit is not looked at.
        window_period_s: seconds from one running window to the next.
        triggers_per_year: false confirmed triggers that a device may have in a year of running.
        block: counted windows of a block; long against what correlation is left.

    Returns:
        The limit of the population stability index.

    Raises:
        FixConfiguration: too few windows or replicates for such a budget.
    """
    if len(counted) < 2 * block or block < 1:
        raise FixConfiguration(
            f"{len(counted)} windows are too few for blocks of {block}", code="drift.data"
        )
    per_report_s = window_period_s * policy.decorrelation_windows * policy.count_windows
    confirmed = min(1.0, triggers_per_year * per_report_s / SECONDS_PER_YEAR)
    p = share_beyond(policy.raise_count, policy.raise_of, confirmed)
    if p * replicates < 1:
        raise FixConfiguration(
            f"{replicates} replicates cannot tell a share of {p:.2g}",
            code="drift.replicates",
            hint="confirm by more reports (raise_count), or allow more triggers",
        )
    rng = np.random.default_rng(seed)
    drawn = np.empty(replicates)
    for index in range(replicates):
        reference = Reference.of(counted[_blocks(rng, len(counted), len(counted), block)])
        live = Sketch(reference)
        live.add(counted[_blocks(rng, len(counted), policy.count_windows, block)])
        drawn[index] = live.psi().max()
    return float(np.quantile(drawn, 1 - p, method="higher"))


def _blocks(rng: np.random.Generator, n: int, wanted: int, block: int) -> NDArray[np.intp]:
    """Indices of blocks of consecutive windows, drawn with replacement, `wanted` in all."""
    starts = rng.integers(0, n - block + 1, math.ceil(wanted / block))
    indices: NDArray[np.intp] = (starts[:, None] + np.arange(block)[None]).reshape(-1)[:wanted]
    return indices
