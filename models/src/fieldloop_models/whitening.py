"""How residuals become a score: `manifest.Residuals`, fitted on healthy windows. Pure; numpy only.

The statistics of the residuals, by channel, are whitened by their covariance, so that the score is
Hotelling's T squared over their number: a channel that is noisy by nature counts for little, and
channels that move together count once. Windows that overlap are not independent, so the
correlations are shrunk towards none by K / (K + n), for K statistics and n independent windows: the
mean of an inverse-Wishart prior that weighs as much as K windows.

A network may follow a fault, and its residuals stay small. So the window's own statistics can stand
beside them (`context`), as Hotelling's T squared has them: whitened apart, with hardly any
shrinkage, since a fault breaks relations that hold in health and so moves a window where health
hardly does. Both parts are in units of their mean over healthy windows that were not fitted: a
covariance of few windows makes new ones look far out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.errors import RejectedInput
from fieldloop_contract.manifest import Residuals, Statistic

WHITENED_MAX = 64
"""With more statistics than this, each is only scaled: the manifest holds their square."""
UNSCORED = 1e12
RIDGE = 0.001
"""Share of the shrinkage of the context's correlations: enough to invert them."""
_DIGITS = 7


def statistics_of(samples: NDArray[np.float32], names: Sequence[str]) -> NDArray[np.float64]:
    """As `fieldloop_scoring.residuals` has them, for many windows.

    Args:
        samples: float32[n, samples, channels].

    Returns:
        float64[n, len(names) * channels].
    """
    x = samples.astype(np.float64)
    of = {"mean": lambda: x.mean(axis=1), "deviation": lambda: x.std(axis=1),
          "rms": lambda: np.sqrt(np.mean(np.square(x), axis=1))}  # fmt: skip
    nothing = np.empty((len(x), 0))
    return np.concatenate([nothing, *(of[name]() for name in names)], axis=1)


def fit_residuals(
    happened: NDArray[np.float32],
    said: NDArray[np.float32],
    statistics: Sequence[Statistic],
    scored: NDArray[np.bool_],
    *,
    effective: float,
    fitted: NDArray[np.bool_] | None = None,
    context: Sequence[Statistic] = (),
    against: Literal["input", "input_end", "output"] = "input",
    target: str | None = None,
    aggregate: Literal["mean", "max"] = "mean",
) -> Residuals:
    """Centre, scale and weights.

    Args:
        happened: float32[n, samples, channels], of healthy windows.
        said: what the model says of them, of the same shape.
        scored: bool[channels]; the others have no weight.
        effective: number of independent windows.
        fitted: bool[n], windows that give centre, scale and covariance; the others give the
            level of each part. All by default.
        context: statistics of what happened itself, whitened apart from those of the residuals.

    Raises:
        RejectedInput: a scored statistic never varies.
    """
    of_residuals = statistics_of(happened - said, statistics)
    seen = np.concatenate([of_residuals, statistics_of(happened, context)], axis=1)
    counts = np.tile(scored, len(statistics) + len(context))
    fit = np.ones(len(seen), np.bool_) if fitted is None else fitted
    centre, scale = seen[fit].mean(axis=0), seen[fit].std(axis=0)
    if (scale[counts] <= 1e-9).any():
        raise RejectedInput(
            "a residual never varies in the healthy windows",
            code="recipe.residuals",
            hint="more windows, or leave the channel out",
        )
    # What is not scored is divided by so much that it adds nothing.
    scale = np.where(counts, scale, UNSCORED)
    weights: list[list[float]] = []
    if aggregate == "mean" and counts.sum() <= WHITENED_MAX:
        scaled, width = (seen - centre) / scale, of_residuals.shape[1]
        own = counts & (np.arange(len(counts)) < width)
        k = int(own.sum())
        parts = [_rows(scaled, own, fit, k / (k + effective))]
        if len(context):
            parts.append(_rows(scaled, counts & ~own, fit, RIDGE))
        weights = [[_short(v) for v in row] for row in np.concatenate(parts)]
    return Residuals(
        against=against,
        target=target,
        statistics=list(statistics),
        context=list(context),
        centre=[_short(v) for v in centre],
        scale=[_short(v) for v in scale],
        weights=weights,
        aggregate=aggregate,
    )


def _rows(
    scaled: NDArray[np.float64], chosen: NDArray[np.bool_], fit: NDArray[np.bool_], share: float
) -> NDArray[np.float64]:
    """Rows of weights that whiten the chosen statistics, to a mean square of 1 in new windows.

    Args:
        share: of the correlations' shrinkage towards none.
    """
    seen = scaled[:, chosen]
    k = seen.shape[1]
    shrunk = (1 - share) * (seen[fit].T @ seen[fit] / fit.sum()) + share * np.eye(k)
    whitener = np.linalg.cholesky(np.linalg.inv(shrunk)).T
    new = ~fit if (~fit).any() else fit
    level = float(np.square(seen[new] @ whitener.T).mean())
    rows = np.zeros((k, len(chosen)))
    rows[:, chosen] = whitener / np.sqrt(max(level, 1.0))
    return rows


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
