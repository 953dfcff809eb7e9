"""From scores of healthy windows that were not fitted to a threshold: a false-alarm budget. Pure.

Never from the fitted windows: their nominal 0.1 % gave 57 % false alarms on SKAB. Windows that
overlap are not independent, so a budget of one window in a thousand lies far outside of what some
hundred windows can show. It is reached by extrapolation: above the median, scores are taken to have
an exponential tail, the excesses' mean its scale (peaks over a threshold, with shape 0: J.
Pickands, "Statistical inference using extreme order statistics", Annals of Statistics 3, 1975), and
an order statistic stands at the level that so large a share exceeds. With k the hundredth part of
the windows, which may be anything but healthy (one bad row among a hundred, as the maximum, took F1
on SKAB from 0.829 to 0.513), and n independent windows among m:

    threshold = (k + 1)-th largest + scale * ln((k / m + 1 / n) / budget)

The budget holds as long as the machine runs as it did in these windows; slow change beyond them is
what a calibration on the machine itself is for (`manifest.CalibrationRule`).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.errors import RejectedInput
from fieldloop_contract.manifest import AlarmRule, CalibrationRule, Output
from fieldloop_models.recipe import Decision, Scores

EFFECTIVE_MIN = 2.0
"""Fewer independent windows than this carry no threshold."""
CONTAMINATION = 0.01
"""Share of the calibration windows that may be anything but healthy."""
MACHINE_RANGE = 10.0
"""A machine's own threshold stays within this factor of the fleet's."""
SATURATION_SHARE = 0.5
"""A threshold above this share of the largest possible score could miss what it is for."""


def effective_windows(
    recordings: NDArray[np.int64], window_samples: int, hop_samples: int
) -> float:
    """How many windows without overlap the same signal holds: the independent ones at most."""
    counts = np.unique(recordings, return_counts=True)[1]
    return float(((counts - 1) * min(hop_samples / window_samples, 1.0) + 1).sum())


def decide(scores: Scores, *, budget: float, alarm: AlarmRule | None, commission: bool) -> Decision:
    """The threshold that one healthy window in `1 / budget` passes.

    Args:
        budget: share of healthy windows that may be above the threshold.
        commission: whether each machine shall find its own threshold, within bounds.

    Raises:
        RejectedInput: too few scores, or some that are not finite.
    """
    values = scores.values
    if not len(values) or not np.isfinite(values).all():
        raise RejectedInput(
            "no finite scores of calibration windows", code="recipe.calibration",
            hint="give calibration_share some of the recordings",
        )  # fmt: skip
    n = effective_windows(scores.recordings, scores.window_samples, scores.hop_samples)
    if n < EFFECTIVE_MIN:
        raise RejectedInput(
            f"the calibration windows count as {n:.1f} independent ones",
            code="recipe.calibration",
            hint=f"at least {EFFECTIVE_MIN:g} are needed: longer recordings, or a larger share",
        )
    beyond = int(CONTAMINATION * len(values))
    kept = np.sort(values)[: len(values) - beyond]
    median, largest = float(np.median(kept)), float(kept[-1])
    excess = kept[kept > median] - median
    scale = float(excess.mean()) if len(excess) else 0.0
    if scale <= 0:
        raise RejectedInput(
            "all calibration windows have one score", code="recipe.calibration",
            hint="a frozen sensor or a model that ignores its input: look at the data",
        )  # fmt: skip
    share = beyond / len(values) + 1 / n
    threshold = largest + scale * max(0.0, math.log(share / budget))
    rule = None
    if commission:
        rule = CalibrationRule(
            factor=machine_factor(values, threshold),
            threshold_min=threshold / MACHINE_RANGE,
            threshold_max=threshold * MACHINE_RANGE,
        )
    words = (
        f"Threshold {threshold:.4g} for at most {budget:.2%} of healthy windows: the largest score "
        f"of {len(values)} calibration windows ({n:.1f} independent, the top {beyond} left out) is "
        f"{largest:.3g}; beyond it, an exponential tail of scale {scale:.3g}."
    )
    return Decision(threshold, alarm, rule, n, words)


def machine_factor(values: NDArray[np.float64], threshold: float) -> float:
    """The factor with which a device finds this threshold in these scores (`CalibrationRule`)."""
    centre = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(values - centre)))
    return max((threshold - centre) / max(spread, 1e-12), 3.0)


def largest_score(output: Output, *, clip: float, tensor_max: float = math.inf) -> float:
    """About the largest score that a converted file can give: all that it sees is far out.

    Args:
        clip: of the normalisation, or of the front's features.
        tensor_max: largest value of the output tensor, `(127 - zero_point) * scale` in int8.
    """
    rule = output.residuals
    if rule is None:
        return tensor_max if output.kind == "score" else (clip + min(tensor_max, clip)) ** 2
    level = {"mean": clip, "rms": clip, "deviation": 0.0}
    names = [*rule.statistics, *rule.context]
    seen = np.repeat([level[name] for name in names], rule.channels)
    scaled = np.abs(seen - np.asarray(rule.centre)) / np.asarray(rule.scale)
    if rule.weights:
        scaled = np.asarray(rule.weights) @ scaled
    squares = np.square(scaled)
    return float(squares.max() if rule.aggregate == "max" else squares.mean())


def check_saturation(threshold: float, score_max: float) -> None:
    """Refuse a threshold near the largest score that the converted file can give.

    Args:
        score_max: as `largest_score` has it.

    Raises:
        RejectedInput: the threshold is above half of it.
    """
    if threshold > SATURATION_SHARE * score_max:
        raise RejectedInput(
            f"the threshold of {threshold:.4g} is near {score_max:.4g}, the largest score that the "
            "converted file can give",
            code="conversion.saturation",
            hint="compute the score from residuals after the tensor, or convert to float",
        )
