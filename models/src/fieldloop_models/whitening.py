"""How residuals become a score: `manifest.Residuals`, fitted on healthy windows. Pure; numpy only.

The statistics of the residuals, by channel, are whitened by their covariance, so that the score is
Hotelling's T squared over their number: a channel that is noisy by nature counts for little, and
channels that move together count once. Windows that overlap are not independent, so the
correlations are shrunk towards none by K / (K + n), for K statistics and n independent windows: the
mean of an inverse-Wishart prior that weighs as much as K windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.errors import RejectedInput
from fieldloop_contract.manifest import Residuals

Statistic = Literal["mean", "deviation", "rms"]
WHITENED_MAX = 64
"""With more statistics than this, each is only scaled: the manifest holds their square."""
UNSCORED = 1e12
_DIGITS = 7


def statistics_of(residuals: NDArray[np.float32], names: Sequence[str]) -> NDArray[np.float64]:
    """As `fieldloop_scoring.residuals` has them, for many windows.

    Args:
        residuals: float32[n, samples, channels].

    Returns:
        float64[n, len(names) * channels].
    """
    x = residuals.astype(np.float64)
    of = {"mean": lambda: x.mean(axis=1), "deviation": lambda: x.std(axis=1),
          "rms": lambda: np.sqrt(np.mean(np.square(x), axis=1))}  # fmt: skip
    return np.concatenate([of[name]() for name in names], axis=1)


def fit_residuals(
    residuals: NDArray[np.float32],
    statistics: Sequence[Statistic],
    scored: NDArray[np.bool_],
    *,
    effective: float,
    against: Literal["input", "input_end", "output"] = "input",
    target: str | None = None,
    aggregate: Literal["mean", "max"] = "mean",
) -> Residuals:
    """Centre, scale and weights.

    Args:
        residuals: float32[n, samples, channels], of healthy windows.
        scored: bool[channels]; the others have no weight.
        effective: number of independent windows.

    Raises:
        RejectedInput: a scored statistic never varies.
    """
    seen = statistics_of(residuals, statistics)
    counts = np.tile(scored, len(statistics))
    centre, scale = seen.mean(axis=0), seen.std(axis=0)
    if (scale[counts] <= 1e-9).any():
        raise RejectedInput(
            "a residual never varies in the healthy windows",
            code="recipe.residuals",
            hint="more windows, or leave the channel out",
        )
    # What is not scored is divided by so much that it adds nothing.
    scale = np.where(counts, scale, UNSCORED)
    weights: list[list[float]] = []
    chosen = np.nonzero(counts)[0]
    if aggregate == "mean" and len(chosen) <= WHITENED_MAX:
        rows = np.zeros((len(chosen), len(centre)))
        rows[:, chosen] = _whitener(((seen - centre) / scale)[:, chosen], effective)
        weights = [[_short(v) for v in row] for row in rows]
    return Residuals(
        against=against,
        target=target,
        statistics=list(statistics),
        centre=[_short(v) for v in centre],
        scale=[_short(v) for v in scale],
        weights=weights,
        aggregate=aggregate,
    )


def _whitener(scaled: NDArray[np.float64], effective: float) -> NDArray[np.float64]:
    """W with W' W the inverse of the shrunk correlations; upper triangular."""
    k = scaled.shape[1]
    share = k / (k + effective)
    shrunk = (1 - share) * (scaled.T @ scaled / len(scaled)) + share * np.eye(k)
    whitener: NDArray[np.float64] = np.linalg.cholesky(np.linalg.inv(shrunk)).T
    return whitener


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
