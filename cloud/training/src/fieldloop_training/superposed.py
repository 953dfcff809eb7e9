"""Simulated faults laid over healthy windows: something to detect where no fault was ever seen.

Each kind changes a healthy recording in physical units, by amounts stated in standard deviations of
its channel, so that a severity means the same on every machine. They are caricatures of what
happens to sensors and machines, and are only ever used to measure, never to train. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

SEVERITIES: Final = (2.0, 4.0)
"""In standard deviations of the channel."""
Windows = NDArray[np.float32]
Rng = np.random.Generator


def offset(
    windows: Windows, deviation: float, severity: float, _rng: np.random.Generator
) -> Windows:
    """The level moves at once: a leak, a blocked filter, a sensor that slipped."""
    return windows + np.float32(severity * deviation)


def drift(
    windows: Windows, deviation: float, severity: float, _rng: np.random.Generator
) -> Windows:
    """The level moves slowly, to twice the severity at the end: wear, fouling."""
    n, samples = windows.shape
    ramp = np.linspace(0, 2 * severity * deviation, n * samples).reshape(n, samples)
    return (windows + ramp).astype(np.float32)


def noise(windows: Windows, deviation: float, severity: float, rng: Rng) -> Windows:
    """More of everything: a loose mounting, cavitation."""
    return (windows + rng.normal(0, severity * deviation, windows.shape)).astype(np.float32)


def impacts(windows: Windows, deviation: float, severity: float, rng: Rng) -> Windows:
    """Short knocks, one in sixteen samples: a damaged bearing or tooth."""
    knocks = rng.random(windows.shape) < 1 / 16
    signs = 2.0 * rng.integers(0, 2, windows.shape) - 1.0
    return (windows + knocks * signs * 2 * severity * deviation).astype(np.float32)


def stuck(windows: Windows, _deviation: float, _severity: float, _rng: Rng) -> Windows:
    """The sensor stays at one value."""
    return np.full_like(windows, float(windows[0, 0]), np.float32)


KINDS: Final[dict[str, Callable[[Windows, float, float, Rng], Windows]]] = {
    "offset": offset, "drift": drift, "noise": noise, "impacts": impacts, "stuck": stuck,
}  # fmt: skip


def superpose(windows: Windows, kind: str, channel: int, severity: float, seed: int) -> Windows:
    """A faulty copy of a healthy recording.

    Args:
        windows: float32[n, window_samples, channels], physical units, in order of time.
        channel: the one that shows the fault.
    """
    faulty = windows.copy()
    one = windows[:, :, channel]
    rng = np.random.default_rng((seed, channel))
    faulty[:, :, channel] = KINDS[kind](one, float(one.std()), severity, rng)
    return faulty
