"""From residuals to an anomaly score, in float64 after the tensor: `manifest.Residuals`.

With rows of `weights` that whiten the statistics (for a covariance C of the scaled statistics,
`W' W = inv(C)`), the score is Hotelling's T squared of the residuals over their number (H.
Hotelling, "Multivariate quality control", 1947); without, the mean or largest squared deviation.
Pure; any thread.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.manifest import Residuals


def statistics_of(residuals: NDArray[np.float32], names: Sequence[str]) -> NDArray[np.float64]:
    """Statistics by channel, those of one name after the other.

    Args:
        residuals: float32[samples, channels], normalised.
        names: of `mean`, `deviation` (population standard deviation) and `rms`.

    Returns:
        float64[len(names) * channels].
    """
    x = residuals.astype(np.float64)
    mean = x.mean(axis=0)
    of = {"mean": lambda: mean, "deviation": lambda: x.std(axis=0),
          "rms": lambda: np.sqrt(np.mean(np.square(x), axis=0))}  # fmt: skip
    return np.concatenate([of[name]() for name in names])


class ResidualScore:
    """A rule with its constants at hand, for many windows."""

    def __init__(self, spec: Residuals) -> None:
        self._channels = spec.channels
        self._names = list(spec.statistics)
        self._context = list(spec.context)
        self._centre = np.asarray(spec.centre, np.float64)
        self._scale = np.asarray(spec.scale, np.float64)
        self._weights = np.asarray(spec.weights, np.float64) if spec.weights else None
        self._largest = spec.aggregate == "max"

    def __call__(self, happened: NDArray[np.float32], said: NDArray[np.float32]) -> float:
        """Score one window.

        Args:
            happened: float32[samples, channels], or its samples one after the other; of a longer
                window the last ones count.
            said: what the model says of them, of the same shape.
        """
        happened = happened.reshape(-1)[-said.size :].reshape(-1, self._channels)
        seen = statistics_of(happened - said.reshape(happened.shape), self._names)
        if self._context:
            seen = np.concatenate([seen, statistics_of(happened, self._context)])
        scaled = (seen - self._centre) / self._scale
        if self._weights is not None:
            scaled = self._weights @ scaled
        squares = np.square(scaled)
        return float(squares.max() if self._largest else squares.mean())
