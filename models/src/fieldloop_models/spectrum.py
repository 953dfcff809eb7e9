"""The float32 front of vibration models: logarithmic band powers, computed in the TFLite graph.

    window [window, channels] -> Hann -> real FFT -> power -> bands -> log -> affine -> clip

All in built-in float32 operators, the logarithm before anything is quantized: a power spectrum
spans many decades, and an int8 tensor has 256 steps. The power of a Hann-windowed segment is
divided by the window's own (P. Welch, IEEE Trans. on Audio and Electroacoustics 15, 1967, 70).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.errors import FixConfiguration

LOWEST_BINS = 2
"""The first bins hold the mean and what the Hann window leaks of it."""
CLIP = 8.0
SD_MIN = 0.05
"""A band that varies less than this in log power is taken to vary so much."""


def band_edges(window_samples: int, bands: int) -> NDArray[np.int64]:
    """Edges of logarithmic bands in FFT bins, int64[bands + 1]; each has at least one bin.

    Raises:
        FixConfiguration: more bands than bins.
    """
    last = window_samples // 2 + 1
    if bands > last - LOWEST_BINS:
        raise FixConfiguration(
            f"{bands} bands in the {last - LOWEST_BINS} bins of a window of {window_samples}",
            code="recipe.settings",
        )
    edges: NDArray[np.int64] = np.rint(np.geomspace(LOWEST_BINS, last, bands + 1)).astype(np.int64)
    for k in range(1, bands + 1):  # at the low end, bands would be narrower than a bin
        edges[k] = max(edges[k], edges[k - 1] + 1)
    edges[-1] = last
    for k in range(bands - 1, 0, -1):
        edges[k] = min(edges[k], edges[k + 1] - 1)
    return edges


def log_powers(keras: Any, window_samples: int, channels: int, bands: int, floor: float) -> Any:
    """A Keras model, float32[n, window, channels] -> float32[n, channels * bands], log power.

    Args:
        floor: added to each band's power before the logarithm, so that silence has one.
    """
    import tensorflow as tf  # noqa: PLC0415 - only a process that trains pays for it

    hann = np.hanning(window_samples + 1)[:-1].astype(np.float32)
    edges = band_edges(window_samples, bands)
    mean = np.zeros((window_samples // 2 + 1, bands), np.float32)
    for k in range(bands):
        mean[edges[k] : edges[k + 1], k] = 1.0 / (edges[k + 1] - edges[k])
    mean /= np.square(hann).sum()

    class LogPowers(keras.layers.Layer):  # type: ignore[misc]
        """See the module."""

        def call(self, window: Any) -> Any:
            """float32[n, window, channels] -> float32[n, channels * bands]."""
            turned = tf.transpose(window, [0, 2, 1]) * hann
            power = tf.square(tf.abs(tf.signal.rfft(turned)))
            banded = tf.linalg.matmul(power, tf.constant(mean)) + floor
            return tf.reshape(tf.math.log(banded), [-1, channels * bands])

    given = keras.Input((window_samples, channels), name="window")
    return keras.Model(given, LogPowers(name="log_powers")(given), name="powers")


def standardised(keras: Any, powers: Any, levels: NDArray[np.float32]) -> Any:
    """The front: log powers by their mean and deviation in healthy windows, clipped.

    Args:
        levels: float32[n, features], what `powers` says of the healthy windows.
    """
    centre = levels.mean(axis=0)
    scale = np.maximum(levels.std(axis=0), SD_MIN)
    layer = keras.layers.Rescaling((1 / scale).tolist(), (-centre / scale).tolist(), name="affine")
    clipped = keras.layers.ReLU(max_value=2 * CLIP, name="clip")(layer(powers.output) + CLIP)
    return keras.Model(powers.input, clipped - CLIP, name="front")
