"""Augmentation of windows of inertial and similar signals: what changes without the label changing.

Pure; numpy only. A sensor is worn a little turned (`turn_deg`), people move faster or slower
(`warp`), with more or less force (`gain`). After T. T. Um et al., "Data augmentation of wearable
sensor data", ICMI 2017. All act in physical units, before the normalisation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.manifest import Channel


def triads(channels: Sequence[Channel]) -> list[int]:
    """Where three successive channels share a unit and so are taken as one vector (x, y, z).

    Returns:
        The index of the first channel of each; a single triad of unlike quantities would be wrong,
        so the dimensionless unit `1` never makes one.
    """
    found: list[int] = []
    at = 0
    while at + 3 <= len(channels):
        units = {c.unit for c in channels[at : at + 3]}
        if len(units) == 1 and "1" not in units:
            found.append(at)
            at += 3
        else:
            at += 1
    return found


def turn(
    samples: NDArray[np.float32],
    triad_starts: Sequence[int],
    sd_deg: float,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Turn each window about a random axis by a normal angle; all its triads alike.

    Rodrigues' formula: `R = I + sin(a) K + (1 - cos(a)) K K`, K the cross product with the axis.
    """
    n = len(samples)
    axis = rng.normal(size=(n, 3))
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    angle = np.deg2rad(sd_deg) * rng.normal(size=(n, 1, 1))
    cross = np.zeros((n, 3, 3))
    x, y, z = axis.T
    cross[:, 0, 1], cross[:, 0, 2], cross[:, 1, 2] = -z, y, -x
    cross[:, 1, 0], cross[:, 2, 0], cross[:, 2, 1] = z, -y, x
    rotation = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)
    turned = samples.copy()
    for at in triad_starts:
        turned[..., at : at + 3] = samples[..., at : at + 3] @ rotation.astype(np.float32)
    return turned


def warp(samples: NDArray[np.float32], sd: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Play each window at another speed, `exp(sd * normal)`, with linear interpolation.

    Faster windows run past their end and are reflected there.
    """
    n, length, _ = samples.shape
    speed = np.exp(sd * rng.normal(size=(n, 1)))
    room = np.maximum(0.0, (length - 1) * (1 - speed))
    position = np.arange(length) * speed + rng.uniform(size=(n, 1)) * room
    last = length - 1.0
    position = np.clip(np.where(position > last, 2 * last - position, position), 0, last - 1e-3)
    before = position.astype(np.int64)
    share = (position - before)[..., None].astype(np.float32)
    row = np.arange(n)[:, None]
    warped: NDArray[np.float32] = (
        samples[row, before] * (1 - share) + samples[row, before + 1] * share
    )
    return warped


def gain(samples: NDArray[np.float32], sd: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Scale the deviation of each window from its own mean by `exp(sd * normal)`."""
    mean = samples.mean(axis=1, keepdims=True)
    factor = np.exp(sd * rng.normal(size=(len(samples), 1, 1))).astype(np.float32)
    scaled: NDArray[np.float32] = mean + (samples - mean) * factor
    return scaled
