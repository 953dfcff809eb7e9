"""The signal of a device, and the truth about it. Pure given its seed; one thread.

A device is in one of some states; channel 0 lies at `STEP` times the state's number, the others
follow with other signs, all with noise. So a state can be read off the level, which the stand-in
model does. Drift adds a ramp to every channel.
"""

from __future__ import annotations

from random import Random

import numpy as np
from numpy.typing import NDArray

from fieldloop_simulator.settings import DriftSettings, SignalSettings

STEP = 2.0
"""Between the levels of two states, in the channels' units."""


def channels_of(settings: SignalSettings) -> tuple[list[str], list[str]]:
    """Names and units of the channels.

    Raises:
        ValueError: a channel without a name or a unit.
    """
    names, units = [], []
    for item in settings.channels.split(","):
        name, _, unit = item.strip().partition(":")
        if not name or not unit:
            raise ValueError(f"{item!r:.40} is not name:unit")
        names.append(name)
        units.append(unit)
    return names, units


class Signal:
    """Frames of one device, one after the other."""

    def __init__(
        self, settings: SignalSettings, drift: DriftSettings, drift_s: float | None, seed: int
    ) -> None:
        self._settings = settings
        self._drift = drift
        self._drift_s = drift_s
        self._random = Random(seed)
        self._noise = np.random.default_rng(seed)
        self._n = max(1, round(settings.frame_s * settings.rate_hz))
        self._signs = np.asarray(
            [1.0 if c % 2 == 0 else -1.0 for c in range(len(channels_of(settings)[0]))], np.float32
        )
        self._state = self._random.randrange(settings.states)
        self._until_s = self._random.expovariate(1 / settings.state_s)

    def frame(self, at_s: float) -> tuple[NDArray[np.float32], int]:
        """The samples of the frame that begins at `at_s` seconds, and the state that it shows.

        Returns:
            float32[n, channels] in the channels' units.
        """
        while at_s >= self._until_s:
            self._state = self._random.randrange(self._settings.states)
            self._until_s += self._random.expovariate(1 / self._settings.state_s)
        level = self._signs * np.float32(STEP * self._state + self._shift(at_s))
        shape = (self._n, len(level))
        noise = self._noise.standard_normal(shape, np.float32) * np.float32(self._settings.noise)
        return level + noise, self._state

    def _shift(self, at_s: float) -> float:
        if self._drift_s is None or at_s <= self._drift_s:
            return 0.0
        return self._drift.shift * min(1.0, (at_s - self._drift_s) / self._drift.over_s)
