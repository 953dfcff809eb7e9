"""What a raised alarm looks like: a lost sensor, another load, or something in the machine. Pure.

Compares the raw signal around an alarm with that of the commissioning. A sensor that is lost says
one number for ever (an open IEPE sensor reads its supply). What changed otherwise is told by where
in the spectrum it lies: at the shaft's own low orders, which move with load, speed and alignment,
or above them, where the impacts of a bearing ring the structure (R. B. Randall, "Vibration-based
Condition Monitoring", 2011, 2.2 and 5.5). It is a hint for the person who looks, and no verdict:
nothing is learnt from it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["sensor", "load", "bearing", "unknown"]
BANDS = 10
"""Geometric ones, up to half the rate; the shaft's orders are bands of their own below them."""
ORDERS = 5
SAMPLES_MIN = 64
"""A stretch that is shorter has no spectrum to speak of."""
FLAT_SHARE = 1e-4
"""Of the healthy standard deviation: below, a channel does not move at all."""
SPREAD_MIN = 0.1
"""Least spread of a band's log power that a change is measured in."""
LEVEL_MIN = 3.0
"""A change, in spreads, below which nothing is named."""
LOW_SHARE = 1 / 16
"""Of the sample rate: where the shaft's low orders end, when nobody says how fast it turns."""
LOWEST_SHARE = 1 / 128
"""Of the sample rate: the lowest frequency that is looked at then."""


@dataclass(frozen=True, slots=True)
class Named:
    """What an alarm looks like, in words for a person.

    Attributes:
        level: by how many spreads the band at `hz` changed; 0 where none is told.
    """

    kind: Kind
    words: str
    hz: float = 0.0
    level: float = 0.0


def name(
    healthy: Sequence[NDArray[np.float32]],
    now: Sequence[NDArray[np.float32]],
    rate_hz: float,
    shaft_hz: float | None = None,
) -> Named:
    """Compare stretches of signal of a running machine.

    Args:
        healthy, now: float32[n, channels] each, physical units; from commissioning, and from
            around the alarm.
        shaft_hz: speed of the shaft, where it is known.
    """
    before = [x.astype(np.float64) for x in healthy if len(x) >= SAMPLES_MIN]
    after = [x.astype(np.float64) for x in now if len(x) >= SAMPLES_MIN]
    if len(before) < 4 or not after or before[0].shape[1] != after[0].shape[1]:
        return Named("unknown", "there is too little raw signal to say what it looks like")
    usual = np.median([x.std(axis=0) for x in before], axis=0)
    flat = np.median([x.std(axis=0) for x in after], axis=0) < FLAT_SHARE * usual
    if flat.any():
        which = ", ".join(str(c) for c in np.flatnonzero(flat).tolist())
        stands = float(np.median([x[:, flat].mean() for x in after]))
        return Named("sensor", f"the sensor is lost: channel {which} stands still at {stands:.3g}")
    bands = _bands(rate_hz, shaft_hz)
    reference = np.stack([_powers(x, rate_hz, bands) for x in before])
    seen = np.stack([_powers(x, rate_hz, bands) for x in after])
    middle = np.median(reference, axis=0)
    spread = np.maximum(1.4826 * np.median(np.abs(reference - middle), axis=0), SPREAD_MIN)
    levels = (np.median(seen, axis=0) - middle) / spread
    channel, band = np.unravel_index(int(np.argmax(np.abs(levels))), levels.shape)
    level, hz = float(levels[channel, band]), math.sqrt(bands[band][0] * bands[band][1])
    if abs(level) < LEVEL_MIN:
        return Named("unknown", "no part of the spectrum stands out", hz, level)
    times = float(np.exp(np.median(seen[:, channel, band]) - middle[channel, band]))
    if hz <= ((ORDERS + 0.5) * shaft_hz if shaft_hz else LOW_SHARE * rate_hz):
        words = f"load, speed or alignment changed: {times:.2g} times the power near {hz:.0f} Hz"
        return Named("load", words, hz, level)
    if level > 0:
        words = f"like a bearing: {times:.2g} times the power near {hz:.0f} Hz"
        return Named("bearing", words, hz, level)
    return Named("unknown", f"the power near {hz:.0f} Hz fell to {times:.2g}", hz, level)


def _bands(rate_hz: float, shaft_hz: float | None) -> list[tuple[float, float]]:
    """Bands in Hz: each order of the shaft, wide enough for its speed to vary, then geometric."""
    bands: list[tuple[float, float]] = []
    lowest_hz = LOWEST_SHARE * rate_hz
    if shaft_hz and (ORDERS + 0.5) * shaft_hz < rate_hz / 4:
        bands = [((k - 0.5) * shaft_hz, (k + 0.5) * shaft_hz) for k in range(1, ORDERS + 1)]
        lowest_hz = bands[-1][1]
    edges = np.geomspace(lowest_hz, rate_hz / 2, BANDS + 1).tolist()
    return bands + list(itertools.pairwise(edges))


def _powers(
    x: NDArray[np.float64], rate_hz: float, bands: Sequence[tuple[float, float]]
) -> NDArray[np.float64]:
    """Log power by channel and band: float64[channels, bands]."""
    window = np.hanning(len(x))[:, None]
    spectrum = np.square(np.abs(np.fft.rfft((x - x.mean(axis=0)) * window, axis=0)))
    hz = np.fft.rfftfreq(len(x), 1 / rate_hz)
    powers = np.full((x.shape[1], len(bands)), 1e-20)
    for number, (low_hz, high_hz) in enumerate(bands):
        inside = (hz >= low_hz) & (hz < high_hz)
        if not inside.any():  # a short stretch resolves no such band: the nearest line speaks
            inside[np.argmin(np.abs(hz - math.sqrt(low_hz * high_hz)))] = True
        powers[:, number] += spectrum[inside].sum(axis=0)
    return np.asarray(np.log(powers))
