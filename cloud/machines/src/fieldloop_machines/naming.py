"""What a raised alarm looks like: a lost sensor, another load, or something in the machine. Pure.

Compares the raw signal around an alarm with that of the commissioning. A sensor that is lost says
one number for ever (an open IEPE sensor reads its supply). What changed otherwise is told by where
in the spectrum it lies: at the shaft's own low orders, which move with load, speed and alignment,
or above them, where the impacts of a bearing ring the structure (R. B. Randall, "Vibration-based
Condition Monitoring", 2011, 2.2 and 5.5). It is a hint for the person who looks, and no verdict:
nothing is learnt from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["sensor", "load", "bearing", "unknown"]
BANDS = 16
SAMPLES_MIN = 64
"""A stretch that is shorter has no spectrum to speak of."""
FLAT_SHARE = 1e-4
"""Of the healthy standard deviation: below, a channel does not move at all."""
SPREAD_MIN = 0.1
"""Least spread of a band's log power that a change is measured in."""
LEVEL_MIN = 4.0
"""A change, in spreads, below which nothing is named."""
LOW_SHARE = 1 / 16
"""Of the sample rate: where the shaft's low orders end, when nobody says how fast it turns."""
LOW_ORDERS = 5.0
"""The same in orders of the shaft, where its speed is on the nameplate (`shaft_hz`)."""


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
    reference = np.stack([_powers(x, rate_hz) for x in before])
    seen = np.stack([_powers(x, rate_hz) for x in after])
    middle = np.median(reference, axis=0)
    spread = np.maximum(1.4826 * np.median(np.abs(reference - middle), axis=0), SPREAD_MIN)
    levels = (np.median(seen, axis=0) - middle) / spread
    channel, band = np.unravel_index(int(np.argmax(np.abs(levels))), levels.shape)
    level, hz = float(levels[channel, band]), float(_centres(rate_hz)[band])
    if abs(level) < LEVEL_MIN:
        return Named("unknown", "no part of the spectrum stands out", hz, level)
    ends_hz = LOW_ORDERS * shaft_hz if shaft_hz else LOW_SHARE * rate_hz
    times = float(np.exp(np.median(seen[:, channel, band]) - middle[channel, band]))
    if hz <= ends_hz:
        words = f"load, speed or alignment changed: {times:.2g} times the power near {hz:.0f} Hz"
        return Named("load", words, hz, level)
    if level > 0:
        words = f"like a bearing: {times:.2g} times the power near {hz:.0f} Hz"
        return Named("bearing", words, hz, level)
    return Named("unknown", f"the power near {hz:.0f} Hz fell to {times:.2g}", hz, level)


def _edges(rate_hz: float) -> NDArray[np.float64]:
    return np.geomspace(rate_hz / 128, rate_hz / 2, BANDS + 1)


def _centres(rate_hz: float) -> NDArray[np.float64]:
    edges = _edges(rate_hz)
    return np.sqrt(edges[:-1] * edges[1:])


def _powers(x: NDArray[np.float64], rate_hz: float) -> NDArray[np.float64]:
    """Log power by channel and band: float64[channels, BANDS]."""
    window = np.hanning(len(x))[:, None]
    spectrum = np.square(np.abs(np.fft.rfft((x - x.mean(axis=0)) * window, axis=0)))
    hz = np.fft.rfftfreq(len(x), 1 / rate_hz)
    edges = _edges(rate_hz)
    powers = np.full((x.shape[1], BANDS), 1e-20)
    for band in range(BANDS):
        inside = (hz >= edges[band]) & (hz < edges[band + 1])
        if not inside.any():  # a short stretch resolves no such band: the nearest line speaks
            inside = (
                np.abs(hz - _centres(rate_hz)[band]) == np.abs(hz - _centres(rate_hz)[band]).min()
            )
        powers[:, band] += spectrum[inside].sum(axis=0)
    return np.asarray(np.log(powers))
