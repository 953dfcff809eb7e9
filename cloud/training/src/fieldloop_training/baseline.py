"""The plain baseline of every run, on window statistics. One thread.

Logistic regression for a classification; for anomalies Hotelling's T squared and Q (J. E. Jackson,
G. S. Mudholkar, "Control procedures for residuals associated with principal component analysis",
Technometrics 21, 1979). If a network cannot beat this, it is not worth sending to a device.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def statistics(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean, standard deviation, smallest, largest, and rms of the differences, by channel.

    Args:
        samples: float32[n, window_samples, channels].

    Returns:
        float64[n, 5 * channels].
    """
    x = samples.astype(np.float64)
    steps = np.sqrt(np.mean(np.square(np.diff(x, axis=1)), axis=1))
    return np.concatenate(
        [x.mean(axis=1), x.std(axis=1), x.min(axis=1), x.max(axis=1), steps], axis=1
    )


def fit_predict(
    samples: NDArray[np.float32], labels: NDArray[np.int64], held: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Fit on training windows and name the label of each held-out one: int64[n_held]."""
    # Imported here: only a run needs it, and it takes a second.
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=300))
    model.fit(statistics(samples), labels)
    named: NDArray[np.int64] = model.predict(statistics(held)).astype(np.int64)
    return named


VARIANCE_KEPT = 0.95
_TINY = 1e-9


class Hotelling:
    """T squared within the principal components that keep 95 % of the variance, Q outside them.

    Args:
        samples: float32[n, window_samples, channels], healthy windows.
    """

    def __init__(self, samples: NDArray[np.float32]) -> None:
        x = statistics(samples)
        self._centre, spread = x.mean(axis=0), x.std(axis=0)
        self._scale = np.where(spread > _TINY, spread, 1.0)
        _, sizes, rows = np.linalg.svd((x - self._centre) / self._scale, full_matrices=False)
        variances = np.square(sizes) / max(1, len(x) - 1)
        shares = np.cumsum(variances) / max(float(variances.sum()), _TINY)
        kept = int(np.searchsorted(shares, VARIANCE_KEPT)) + 1
        self._axes, self._variances = rows[:kept], np.maximum(variances[:kept], _TINY)
        t2, q = self._both(x)
        self._t2_scale, self._q_scale = max(float(t2.mean()), _TINY), max(float(q.mean()), _TINY)

    def _both(self, x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        z = (x - self._centre) / self._scale
        along = z @ self._axes.T
        t2 = (np.square(along) / self._variances).sum(axis=1)
        q = np.square(z - along @ self._axes).sum(axis=1)
        return t2, q

    def scores(self, samples: NDArray[np.float32]) -> NDArray[np.float64]:
        """float64[n]: the larger of T squared and Q, each over its mean on the fitted windows."""
        t2, q = self._both(statistics(samples))
        return np.maximum(t2 / self._t2_scale, q / self._q_scale)
