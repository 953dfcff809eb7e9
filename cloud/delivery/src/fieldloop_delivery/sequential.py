"""Sequential evidence: gates are looked at again and again, the error is spent over all looks.

A gate measures by how much a version is worse (`effect`) than what is put up with (`margin`), with
a variance that shrinks as data comes. Scores of such an estimate have independent increments in the
information `1 / variance` (Jennison and Turnbull, Group Sequential Methods, 1999, ch. 11), so that
the mixture of likelihood ratios over a half-normal prior of the harm,

    E = 2 / sqrt(1 + r^2/V) * exp(m^2 r^2 / (2 V (V + r^2))) * Phi(m r / sqrt(V (V + r^2))),

with m = effect - margin, is a non-negative supermartingale for every m <= 0 (Robbins 1970, Ann.
Math. Statist. 41(5); Johari, Koomen, Pekelis, Walsh 2022, Operations Research 70(3); Howard, Ramdas
et al. 2021, Ann. Statist. 49(2)). By Ville's inequality the chance that E ever reaches
1/a, at whatever looks, is at most a: an e-process. `r` is the size of harm that is looked for; it
tunes how fast harm is seen, never the error. The estimates are normal only in the limit; the
simulation reports the rates that come of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_EXPONENT_MAX = 700.0


def evidence(effect: float, variance: float, margin: float, scale: float) -> float:
    """The e-value against "no worse than the margin"; 1 where nothing is known.

    Args:
        effect: estimated harm; positive is worse.
        variance: of the estimate.
        margin: harm that is put up with.
        scale: size of harm beyond the margin that is looked for, `r` above.
    """
    if not variance > 0 or math.isinf(variance):
        return 1.0
    m, v, r = effect - margin, variance, scale * scale
    spread = math.sqrt(v * (v + r))
    exponent = min(_EXPONENT_MAX, m * m * r / (2 * v * (v + r)))
    below = 0.5 * math.erfc(-(m * scale / spread) / math.sqrt(2))
    return 2 / math.sqrt(1 + r / v) * math.exp(exponent) * below


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its variance, of so many units."""

    mean: float = 0.0
    variance: float = math.inf
    units: int = 0


def pooled(units: Iterable[tuple[float, float]], between_sd: float) -> Estimate:
    """Inverse-variance mean of (value, variance), with variance between units added.

    The variance between is that of DerSimonian and Laird (1986, Control. Clin. Trials 7(3)), from
    ten units on, and never below `between_sd` squared.
    """
    rows = [(x, v) for x, v in units if v > 0 and not math.isinf(v)]
    if not rows:
        return Estimate()
    floor = between_sd * between_sd
    extra = floor
    if len(rows) >= 10:
        weights = [1 / v for _, v in rows]
        total = sum(weights)
        mean = sum(w * x for w, (x, _) in zip(weights, rows, strict=True)) / total
        q = sum(w * (x - mean) ** 2 for w, (x, _) in zip(weights, rows, strict=True))
        c = total - sum(w * w for w in weights) / total
        extra = max(floor, (q - (len(rows) - 1)) / c) if c > 0 else floor
    total = weighted = 0.0
    for x, v in rows:
        w = 1 / (v + extra)
        total += w
        weighted += w * x
    return Estimate(weighted / total, 1 / total, len(rows))


def less_drift(treated: Estimate, control: Estimate, drift_sd: float) -> Estimate:
    """The change of the treated beyond that of their concurrent controls.

    What changed for everybody is not the version's doing. It is believed beforehand to be
    N(0, drift_sd^2); without controls that doubt stays, with many it goes.
    """
    prior = drift_sd * drift_sd
    if not treated.units:
        return treated
    if not control.units:
        return Estimate(treated.mean, treated.variance + prior, treated.units)
    share = prior / (prior + control.variance)
    mean = treated.mean - share * control.mean
    return Estimate(mean, treated.variance + share * control.variance, treated.units)


def combined(strata: Iterable[Estimate]) -> Estimate:
    """Inverse-variance mean over cohorts."""
    rows = [s for s in strata if s.units and s.variance > 0 and not math.isinf(s.variance)]
    total = sum(1 / s.variance for s in rows)
    if not rows or total == 0:
        return Estimate()
    mean = sum(s.mean / s.variance for s in rows) / total
    return Estimate(mean, 1 / total, sum(s.units for s in rows))


def variance_needed(harm: float, margin: float, scale: float, error: float) -> float:
    """The variance at which harm of this size gives, on average, evidence of `1 / error`.

    What has to be collected can so be stated beforehand. 0.0 where no amount does (harm <= margin).
    """
    if harm <= margin:
        return 0.0
    low, high = 0.0, (harm - margin) ** 2 * 4 + 1e-12
    for _ in range(200):
        middle = (low + high) / 2
        if middle > 0 and evidence(harm, middle, margin, scale) >= 1 / error:
            low = middle
        else:
            high = middle
    return low
