"""Running or idle, and in which regime: by a level of the window that the manifest declares.

Owns the one rule (`manifest.RunningWhen`); training leaves out the same windows as devices do.
Hysteresis: a machine runs once the level passes `above`, and is idle once it is below `idle_below`.
Pure; any thread.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.manifest import Input, Manifest, RunningWhen


class Regimes:
    """The rule of one model, with its constants at hand.

    Attributes:
        rule: of the manifest.
        input: index of the input that it looks at.
    """

    def __init__(self, rule: RunningWhen, inputs: list[Input]) -> None:
        self.rule = rule
        self.input = next(i for i, s in enumerate(inputs) if rule.input in (None, s.name))
        names = [c.name for c in inputs[self.input].channels]
        wanted = rule.channels or names
        self._columns = [names.index(name) for name in wanted]
        self._off = rule.above if rule.idle_below is None else rule.idle_below

    @classmethod
    def of(cls, manifest: Manifest) -> Regimes | None:
        """The rule of a model, or None where it has none."""
        rule = manifest.running_when
        return None if rule is None else cls(rule, manifest.inputs)

    def level(self, samples: NDArray[np.float32]) -> float:
        """The level of a window.

        Args:
            samples: float32[window_samples, channels] of the input `self.input`, physical units.

        Returns:
            In the unit of the channels; NaN where a sample is NaN.
        """
        x = samples[:, self._columns].astype(np.float64)
        feature = self.rule.feature
        if feature == "rms":
            by_channel = np.sqrt(np.mean(np.square(x), axis=0))
        elif feature == "mean":
            by_channel = np.mean(x, axis=0)
        elif feature == "mean_abs":
            by_channel = np.mean(np.abs(x), axis=0)
        else:
            by_channel = np.std(x, axis=0)
        return float(np.mean(by_channel))

    def running(self, level: float, *, was_running: bool) -> bool:
        """Whether the machine runs, given whether it ran one window before. NaN is idle."""
        return level >= self._off if was_running else level > self.rule.above

    def regime(self, level: float) -> str | None:
        """The name of the regime of a running window, or None below all of them."""
        name = None
        for regime in self.rule.regimes:
            if level > regime.above:
                name = regime.name
        return name

    def running_mask(self, windows: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which windows of one run are running: bool[n].

        Args:
            windows: float32[n, window_samples, channels] in order, physical units.
        """
        out = np.zeros(len(windows), np.bool_)
        running = False
        for index, samples in enumerate(windows):
            running = self.running(self.level(samples), was_running=running)
            out[index] = running
        return out
