"""A machine's own threshold from its scores; the same on devices and in the cloud. Pure.

Centre and scale are the median and 1.4826 times the median absolute deviation, which estimates the
standard deviation of normal data and holds with up to half of the rows anomalous (P. J. Rousseeuw
and C. Croux, "Alternatives to the Median Absolute Deviation", JASA 88, 1993, 1273-1283). A high
quantile of few rows would not: one anomalous row among them would be the threshold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fieldloop_contract.manifest import CalibrationRule
from fieldloop_scoring.drift import score_bin

MAD_TO_DEVIATION = 1.4826


@dataclass(frozen=True, slots=True)
class Fit:
    """What follows from the scores; the fields are those of the record."""

    centre: float
    scale: float
    threshold: float
    scores: dict[str, int]


def fit(scores: Sequence[float], rule: CalibrationRule) -> Fit:
    """Centre, scale and threshold of finite scores; at least one.

    >>> rule = CalibrationRule(windows=8, factor=2, threshold_min=0.0, threshold_max=100.0)
    >>> fit([1.0, 2.0, 3.0, 2.0, 1.0, 3.0, 2.0, 900.0], rule).threshold
    4.9652
    """
    values = np.asarray(scores, np.float64)
    centre = float(np.median(values))
    scale = MAD_TO_DEVIATION * float(np.median(np.abs(values - centre)))
    threshold = min(max(centre + rule.factor * scale, rule.threshold_min), rule.threshold_max)
    bins = Counter(score_bin(score) for score in values.tolist())
    return Fit(centre, scale, round(threshold, 12), dict(sorted(bins.items())))
