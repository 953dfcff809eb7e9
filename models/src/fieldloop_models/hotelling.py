"""The plain baseline of anomaly detection: Hotelling's T squared and Q on window statistics. Pure.

Mean and standard deviation of each channel in a window, standardised; principal components that
hold a share of the variance. T squared is the squared distance within them, each in units of its
own deviation (H. Hotelling, "Multivariate quality control", 1947), Q the squared distance from them
(J. E. Jackson and G. S. Mudholkar, "Control procedures for residuals associated with principal
component analysis", Technometrics 21, 1979, 341-349). A network that cannot beat this is not worth
sending to a device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.errors import RejectedInput

FACTOR = 2.0
"""The limits are this times the largest values of healthy windows that were not fitted."""
_TINY = 1e-9


def window_statistics(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean and standard deviation by channel.

    Args:
        samples: float32[n, window_samples, channels], physical units.

    Returns:
        float64[n, 2 * channels].
    """
    x = samples.astype(np.float64)
    return np.concatenate([x.mean(axis=1), x.std(axis=1)], axis=1)


@dataclass(frozen=True, slots=True)
class Hotelling:
    """A fitted baseline.

    Attributes:
        centre, scale: float64[features].
        axes: float64[features, components], the principal ones.
        variances: float64[components].
    """

    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    axes: NDArray[np.float64]
    variances: NDArray[np.float64]

    @classmethod
    def fit(cls, samples: NDArray[np.float32], *, explained: float = 1.0) -> Hotelling:
        """Fit on healthy windows.

        Args:
            explained: share of the variance that the components hold; with 1 all are kept, and Q
                is 0.

        Raises:
            RejectedInput: too few windows, or values that are not finite.
        """
        features = window_statistics(samples)
        if len(features) < 2 or not np.isfinite(features).all():
            raise RejectedInput("the baseline needs finite windows", code="dataset.too-few")
        centre, scale = features.mean(axis=0), features.std(axis=0)
        scale = np.where(scale > _TINY * np.maximum(1.0, np.abs(centre)), scale, np.inf)
        scaled = (features - centre) / scale
        variances, axes = np.linalg.eigh(scaled.T @ scaled / max(len(scaled) - 1, 1))
        variances, axes = variances[::-1], axes[:, ::-1]
        held = np.cumsum(variances) / variances.sum()
        wanted = int(np.searchsorted(held, min(explained, 1.0) - _TINY)) + 1
        count = min(wanted, int((variances > _TINY).sum()))
        return cls(centre, scale, axes[:, :count], variances[:count])

    def statistics(self, samples: NDArray[np.float32]) -> NDArray[np.float64]:
        """T squared and Q of each window: float64[n, 2]."""
        scaled = (window_statistics(samples) - self.centre) / self.scale
        within = scaled @ self.axes
        rest = np.square(scaled).sum(axis=1) - np.square(within).sum(axis=1)
        return np.stack(
            [(np.square(within) / self.variances).sum(axis=1), np.maximum(rest, 0.0)], axis=1
        )


def limits(calibration: NDArray[np.float64], factor: float = FACTOR) -> NDArray[np.float64]:
    """Limits of T squared and Q from healthy windows that were not fitted: float64[2]."""
    largest: NDArray[np.float64] = factor * calibration.max(axis=0)
    return largest


def severity(statistics: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """The larger of T squared and Q in units of its limit, float64[n]: above 1 is a flag."""
    usable = at > _TINY
    if not usable.any():
        return np.zeros(len(statistics))
    worst: NDArray[np.float64] = (statistics[:, usable] / at[usable]).max(axis=1)
    return worst
