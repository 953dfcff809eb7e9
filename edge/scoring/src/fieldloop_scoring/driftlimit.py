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
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.errors import FixConfiguration
from fieldloop_scoring.drift import Policy
from fieldloop_scoring.sketch import Reference, Sketch

SECONDS_PER_YEAR: Final = 31_557_600.0
REFERENCE_WINDOWS_MAX: Final = 1_000
"""Windows of a drawn reference; fewer than there are only make the limit more careful."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How rare false triggers have to be, and how long a device may take to tell of drift.

    Attributes:
        triggers_per_year: false confirmed triggers that a device may have in a year of running.
        count_windows: counted windows of a report.
        raise_count, raise_of: reports beyond the limit that confirm drift.
    """

    triggers_per_year: float = 0.5
    count_windows: int = 200
    raise_count: int = 3
    raise_of: int = 5


def drift_reference(
    runs: Sequence[NDArray[np.float32]],
    *,
    window_period_s: float,
    further: Sequence[Sequence[NDArray[np.float32]]] = (),
    budget: Budget | None = None,
    replicates: int = 500,
    seed: int = 1,
) -> dict[str, Any]:
    """What training writes to `Manifest.drift_reference`: bins, policy, and the limit of the index.

    One window is counted in each decorrelation time of the windows' means and deviations, here as
    on the device; blocks are as long as the cube root of the counted windows (the order that P.
    Hall, J. L. Horowitz and B.-Y. Jing, "On blocking rules for the bootstrap with dependent data",
    Biometrika 82, 1995, 561-574, find best for a variance), and at least 2.

    Args:
        runs: of the first input, running windows without a fault, normalised, in the order of
            time; float32[n, window_samples, channels] for each unbroken run of a device.
        window_period_s: seconds from one window to the next: `hop_samples / rate_hz`.
        further: for each further input its runs: as many, of the same windows.
        budget: `Budget()` by default.

    Returns:
        `kind`, `bins`, `edges` and `further_edges` (`sketch`), `policy` (`drift.Policy`). Where the
        data cannot tell a limit for such a budget, the policy has none, so that devices report and
        never trigger, and `no_limit` says why.

    Raises:
        FixConfiguration: no window at all, or runs of two inputs that differ in their windows.
    """
    lengths = [len(run) for run in runs]
    if any([len(run) for run in more] != lengths for more in further):
        raise FixConfiguration("runs of two inputs differ in their windows", code="drift.data")
    if not sum(len(run) for run in runs):
        raise FixConfiguration("a drift reference of no windows", code="drift.data")
    budget = budget or Budget()
    inputs = [np.concatenate([run for run in each if len(run)]) for each in (runs, *further)]
    figures = np.concatenate([f for x in inputs for f in (x.mean(axis=1), x.std(axis=1))], axis=1)
    stride = decorrelation_windows(figures.astype(np.float64))
    counted = [x[stride - 1 :: stride] if len(x) >= stride else x for x in inputs]
    policy = Policy(
        stride, budget.count_windows, None, raise_count=budget.raise_count, raise_of=budget.raise_of
    )
    document = Reference.of(*inputs).to_object()
    try:
        limit = fit_limit(
            counted[0],
            policy,
            further=counted[1:],
            window_period_s=window_period_s,
            triggers_per_year=budget.triggers_per_year,
            block=max(2, round(len(counted[0]) ** (1 / 3))),
            replicates=replicates,
            seed=seed,
        )
    except FixConfiguration as error:
        return {**document, "policy": policy.to_object(), "no_limit": str(error)}
    return {**document, "policy": replace(policy, limit=limit).to_object()}


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
    further: Sequence[NDArray[np.float32]] = (),
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
        further: the same windows of each further input; drawn together with the first's.

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
    inputs = (counted, *further)
    size = min(len(counted), REFERENCE_WINDOWS_MAX)
    for index in range(replicates):
        chosen = _blocks(rng, len(counted), size, block)
        live = Sketch(Reference.of(*(x[chosen] for x in inputs)))
        chosen = _blocks(rng, len(counted), policy.count_windows, block)
        live.add(*(x[chosen] for x in inputs))
        drawn[index] = live.psi().max()
    return float(np.quantile(drawn, 1 - p, method="higher"))


def _blocks(rng: np.random.Generator, n: int, wanted: int, block: int) -> NDArray[np.intp]:
    """Indices of blocks of consecutive windows, drawn with replacement, `wanted` in all."""
    starts = rng.integers(0, n - block + 1, math.ceil(wanted / block))
    indices: NDArray[np.intp] = (starts[:, None] + np.arange(block)[None]).reshape(-1)[:wanted]
    return indices
