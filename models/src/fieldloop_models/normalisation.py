"""Fitting the affine of each channel on the training windows. Pure; numpy only.

Applying it is the device's own code (`fieldloop_scoring`), which the caller hands to the recipe.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.errors import RejectedInput
from fieldloop_contract.manifest import Normalisation

CLIP = 8.0
_SD_OF_IQR = 1.349
"""The interquartile range of a normal distribution in standard deviations."""


def fit_normalisation(
    samples: NDArray[np.float32],
    names: list[str] | None = None,
    *,
    method: Literal["standard", "robust"] = "standard",
    clip: float = CLIP,
) -> Normalisation:
    """Centre and scale of each channel.

    Args:
        samples: float32[n, window_samples, channels], physical units.
        names: names of the channels, for the message.
        method: mean and standard deviation, or median and interquartile range / 1.349.

    Raises:
        RejectedInput: a sample is not finite, or a channel is constant.
    """
    flat = samples.reshape(-1, samples.shape[-1]).astype(np.float64)
    if not np.isfinite(flat).all():
        raise RejectedInput("a training window holds NaN or infinity", code="dataset.not-finite")
    spread = flat.std(axis=0)
    centre = flat.mean(axis=0)
    tiny = 1e-6 * np.maximum(1.0, np.abs(centre))
    constant = [i for i in range(len(spread)) if spread[i] <= tiny[i]]
    if constant:
        shown = ", ".join(names[i] if names else str(i) for i in constant)
        raise RejectedInput(
            f"channel {shown} is constant in the training windows",
            code="dataset.constant",
            hint="a dead sensor teaches nothing: mend it, or leave the channel out of the stream",
        )
    if method == "robust":
        low, centre, high = np.percentile(flat, (25, 50, 75), axis=0)
        iqr = (high - low) / _SD_OF_IQR
        spread = np.where(iqr > tiny, iqr, spread)
    # float32 on both sides: what is written is exactly what the device computes with.
    return Normalisation(
        centre=[float(v) for v in centre.astype(np.float32)],
        scale=[float(v) for v in spread.astype(np.float32)],
        clip=clip,
    )
