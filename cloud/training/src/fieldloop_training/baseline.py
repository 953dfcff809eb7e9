"""The plain baseline of every run: logistic regression on window statistics. One thread.

If a network cannot beat this, it is not worth sending to a device.
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
