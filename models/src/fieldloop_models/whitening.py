"""How residuals become a score: `manifest.Residuals`, fitted on healthy windows. Pure; numpy only.

The statistics of the residuals, by channel, are whitened by their covariance, so that the score is
Hotelling's T squared over their number: a channel that is noisy by nature counts for little, and
channels that move together count once. Windows that overlap are not independent, so the
correlations are shrunk towards none by K / (K + n), for K statistics and n independent windows: the
mean of an inverse-Wishart prior that weighs as much as K windows.

A network may follow a fault, and its residuals stay small. So the window's own statistics can stand
beside them (`context`), whitened apart: as Q and T squared of a principal component model do.
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
        context: statistics of what happened itself, whitened apart from those of the residuals.

    Raises:
        RejectedInput: a scored statistic never varies.
    """
    of_residuals = statistics_of(happened - said, statistics)
    seen = np.concatenate([of_residuals, statistics_of(happened, context)], axis=1)
    counts = np.tile(scored, len(statistics) + len(context))
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
    if aggregate == "mean" and counts.sum() <= WHITENED_MAX:
        scaled, width = (seen - centre) / scale, of_residuals.shape[1]
        parts = [counts & (np.arange(len(counts)) < width)]
        parts += [counts & ~parts[0]] if len(context) else []
        rows = [_rows(scaled, chosen, effective) for chosen in parts]
        weights = [[_short(v) for v in row] for row in np.concatenate(rows)]
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
    scaled: NDArray[np.float64], chosen: NDArray[np.bool_], effective: float
) -> NDArray[np.float64]:
    """Rows of weights that whiten the chosen statistics; the others have none."""
    rows = np.zeros((int(chosen.sum()), len(chosen)))
    rows[:, chosen] = _whitener(scaled[:, chosen], effective)
    return rows


def _whitener(scaled: NDArray[np.float64], effective: float) -> NDArray[np.float64]:
    """W with W' W the inverse of the shrunk correlations; upper triangular."""
    k = scaled.shape[1]
    share = k / (k + effective)
    shrunk = (1 - share) * (scaled.T @ scaled / len(scaled)) + share * np.eye(k)
    whitener: NDArray[np.float64] = np.linalg.cholesky(np.linalg.inv(shrunk)).T
    return whitener


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
