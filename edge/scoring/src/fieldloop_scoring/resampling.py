"""Resampling: streams of other rates brought to a model's rate, by one code everywhere.

Owns three declared methods. `hold` and `linear` read a stream at the ticks of a grid; `decimate`
takes every n-th sample behind an anti-alias filter. Promises that a stream cut into chunks in any
way gives bit for bit what it gives in one piece, and that nothing is made up: no sample comes from
across a gap, nor from before the first or after the last one. Pure; an object is for one thread.

The grid. Tick `k` is at `round(k * 1e9 / rate_hz)` ns of UTC: it depends on nothing but the rate,
so that streams that are brought to one rate lie side by side, whenever each of them began. Where
the clock steps back, ticks come again: a break like a gap. `joining` cuts windows from it.

Anti-alias. A low-pass of windowed sinc with a Kaiser window: its pass band ends at 0.8 of the new
Nyquist frequency, its stop band of -60 dB begins at 1.2 of it, and what folds lies above 0.8. Order
and beta by Kaiser's formulas: A. V. Oppenheim & R. W. Schafer, "Discrete-Time Signal Processing",
3rd ed., 2010, 7.5.3 and 7.6; J. F. Kaiser, IEEE ISCAS 1974. It is symmetric, of odd length, so its
delay is whole samples, and each output carries the time of the sample in its middle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.errors import FixConfiguration, WrongStream
from fieldloop_contract.feeding import FACTOR_MAX, SAME_RATE

ATTENUATION_DB = 60.0
BAND_EDGE = 0.8

Samples = NDArray[np.float32]
Times = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Resampling:
    """What is declared for a stream.

    Attributes:
        method: `hold` the last value, `linear` between neighbours, `decimate` with anti-alias.
        rate_in_hz: nominal rate of the stream.
        rate_out_hz: rate wanted; for `decimate` a whole part of `rate_in_hz`.
        gap_tolerance_periods: samples further apart than this many input periods have a gap
            between them.
    """

    method: Literal["hold", "linear", "decimate"]
    rate_in_hz: float
    rate_out_hz: float
    gap_tolerance_periods: float = 1.5

    def __post_init__(self) -> None:
        numbers = (self.rate_in_hz, self.rate_out_hz, self.gap_tolerance_periods)
        if not all(math.isfinite(number) and number > 0 for number in numbers):
            raise FixConfiguration("rates and tolerance of a resampling are positive")
        if self.gap_tolerance_periods < 1:
            raise FixConfiguration("a tolerance below one period makes a gap of every sample")
        if self.method == "decimate":
            _ = self.factor

    @property
    def factor(self) -> int:
        """Samples in for one out.

        Raises:
            FixConfiguration: the rates do not divide, or there are more than `FACTOR_MAX`.
        """
        ratio = self.rate_in_hz / self.rate_out_hz
        whole = round(ratio)
        if not 1 <= whole <= FACTOR_MAX or abs(ratio - whole) > SAME_RATE * whole:
            raise FixConfiguration(
                f"{self.rate_in_hz:g} Hz cannot be decimated to {self.rate_out_hz:g} Hz",
                hint=f"the rate wanted is a whole part, at most 1/{FACTOR_MAX}; or use linear",
            )
        return whole


@dataclass(frozen=True, slots=True)
class Timed:
    """Samples with the time of each: float32[n, channels] and int64[n] in ns, increasing.

    Attributes:
        begins: the first one follows a gap, or nothing.
    """

    t_ns: Times
    samples: Samples
    begins: bool


@dataclass(frozen=True, slots=True)
class Block:
    """Samples at ticks that follow each other.

    Attributes:
        tick: number of the first tick; where it is not the one after the last block's, there is a
            gap or a step back before it.
        samples: float32[n, channels].
    """

    tick: int
    samples: Samples


def tick_ns(tick: int, rate_hz: float) -> int:
    """UTC of a tick in ns; exact, which float64 is not at times of today.

    >>> tick_ns(89_500_000_001, 50.0)
    1790000000020000000
    """
    numerator, denominator = rate_hz.as_integer_ratio()
    return (2 * tick * 10**9 * denominator + numerator) // (2 * numerator)


def times_of(t0_ns: int, n: int, rate_hz: float) -> Times:
    """Times in ns of `n` samples at a rate, the first at `t0_ns`."""
    offsets = np.rint(np.arange(n, dtype=np.float64) * (1e9 / rate_hz)).astype(np.int64)
    times: Times = offsets + np.int64(t0_ns)
    return times


def anti_alias(factor: int) -> NDArray[np.float64]:
    """Taps of the low-pass before taking every `factor`-th sample; they sum to 1.

    Args:
        factor: 2 or more.

    Returns:
        float64[2 * half + 1], symmetric.
    """
    width = 2 * math.pi * (1 - BAND_EDGE) / factor  # of the transition, rad per sample
    order = math.ceil((ATTENUATION_DB - 8) / (2.285 * width))
    half = (order + 1) // 2
    beta = 0.1102 * (ATTENUATION_DB - 8.7)
    n = np.arange(-half, half + 1, dtype=np.float64)
    taps: NDArray[np.float64] = np.sinc(n / factor) * np.kaiser(2 * half + 1, beta)
    taps /= taps.sum()
    return taps


class _Runs:
    """Cuts timed samples where there is a gap or a step back."""

    def __init__(self, spec: Resampling) -> None:
        self._most_ns = spec.gap_tolerance_periods * 1e9 / spec.rate_in_hz
        self._last_ns: int | None = None

    def begins(self, t_ns: int) -> bool:
        """Whether a sample at that time would follow a gap, or nothing."""
        return self._last_ns is None or not 0 < t_ns - self._last_ns <= self._most_ns

    def cut(self, t_ns: Times, samples: Samples) -> list[Timed]:
        if not len(t_ns):
            return []
        steps = np.diff(t_ns)
        breaks = (np.flatnonzero((steps <= 0) | (steps > self._most_ns)) + 1).tolist()
        begins = self.begins(int(t_ns[0]))
        edges = [0, *breaks, len(t_ns)]
        self._last_ns = int(t_ns[-1])
        return [
            Timed(t_ns[a:b], samples[a:b], begins if a == 0 else True) for a, b in pairwise(edges)
        ]


class Decimator:
    """Every n-th sample behind an anti-alias filter.

    Outputs begin half a filter after the first sample of a run, and then come every `factor`
    samples counted from there; each takes half a filter of samples after it.
    """

    def __init__(self, spec: Resampling, channels: int) -> None:
        self._factor = spec.factor
        self._runs = _Runs(spec)
        self._taps = anti_alias(self._factor) if self._factor > 1 else np.ones(1)
        self._half = len(self._taps) // 2
        self._channels = channels
        self._clear()

    def _clear(self) -> None:
        self._t_ns: Times = np.empty(0, np.int64)
        self._held: NDArray[np.float64] = np.empty((0, self._channels))
        self._begins = True

    @property
    def lead_samples(self) -> int:
        """Samples before an output that have part in it, and in where the next one begins."""
        return self._half + self._factor

    def phase(self, t_ns: int) -> int:
        """How many of the samples that begin at a time to leave out, for a new one to go on."""
        return 0 if self._runs.begins(t_ns) else -len(self._held) % self._factor

    def push(self, t_ns: Times, samples: Samples) -> list[Timed]:
        """Take samples; give what can be told now.

        Args:
            t_ns: int64[n], UTC in ns.
            samples: float32[n, channels].
        """
        _check(t_ns, samples, self._channels)
        found = []
        for run in self._runs.cut(t_ns, samples):
            if run.begins:
                self._clear()
            out = self._push(run)
            if out is not None:
                found.append(out)
        return found

    def _push(self, run: Timed) -> Timed | None:
        held = np.concatenate([self._held, run.samples.astype(np.float64)])
        t_ns = np.concatenate([self._t_ns, run.t_ns])
        n = (len(held) - len(self._taps)) // self._factor + 1
        if n <= 0:
            self._held, self._t_ns = held, t_ns
            return None
        # Tap by tap: each output is summed in one order, however the input came.
        total = np.zeros((n, self._channels))
        span = (n - 1) * self._factor + 1
        for i, tap in enumerate(self._taps):
            total += tap * held[i : i + span : self._factor]
        middle = t_ns[self._half : self._half + span : self._factor]
        self._held, self._t_ns = held[n * self._factor :], t_ns[n * self._factor :]
        begins, self._begins = self._begins, False
        return Timed(middle.copy(), total.astype(np.float32), begins)


class Gridder:
    """Reads a stream at the ticks of a grid, by `hold` or `linear`.

    A tick is told when a sample after it has come, and lies between two samples that no gap
    parts.
    """

    def __init__(self, spec: Resampling, channels: int) -> None:
        if spec.method == "decimate":
            raise FixConfiguration("decimate gives no grid; use Resampler")
        self._rate_hz = spec.rate_out_hz
        self._linear = spec.method == "linear"
        self._channels = channels
        self._runs = _Runs(spec)
        self._last_ns = 0
        self._last: Samples | None = None

    def push(self, t_ns: Times, samples: Samples) -> list[Block]:
        """Take samples; give the ticks that lie between them. Arguments as for `Decimator`."""
        _check(t_ns, samples, self._channels)
        found: list[Block] = []
        for run in self._runs.cut(t_ns, samples):
            if run.begins:
                self._last = None
            block = self._push(run)
            if block is not None:
                found.append(block)
        return found

    def _push(self, run: Timed) -> Block | None:
        t_ns, samples = run.t_ns, run.samples
        if self._last is not None:
            t_ns = np.concatenate([np.array([self._last_ns], np.int64), t_ns])
            samples = np.concatenate([self._last[None], samples])
        self._last_ns, self._last = int(t_ns[-1]), samples[-1].copy()
        first, after = self._first_tick(int(t_ns[0])), self._first_tick(int(t_ns[-1]))
        if after <= first:
            return None
        ticks = [tick_ns(tick, self._rate_hz) for tick in range(first, after)]
        at: Times = np.array(ticks, np.int64)
        before = np.searchsorted(t_ns, at, side="right") - 1
        values = samples[before]
        if self._linear:
            step = (t_ns[before + 1] - t_ns[before]).astype(np.float64)
            share = ((at - t_ns[before]) / step)[:, None]
            low, high = values.astype(np.float64), samples[before + 1].astype(np.float64)
            values = (low + share * (high - low)).astype(np.float32)
        return Block(first, values)

    def _first_tick(self, t_ns: int) -> int:
        """The first tick at or after a time."""
        tick = math.floor(t_ns * self._rate_hz / 1e9) - 1
        while tick_ns(tick, self._rate_hz) < t_ns:
            tick += 1
        return tick


class Resampler:
    """Brings one stream to the grid of a rate, as declared.

    With `decimate` the filtered samples are then read at the ticks by `linear`: they are smooth
    at that rate, and come at their own times.
    """

    def __init__(self, spec: Resampling, channels: int) -> None:
        self.spec = spec
        self.channels = channels
        self._decimator: Decimator | None = None
        if spec.method == "decimate":
            self._decimator = Decimator(spec, channels)
            spec = Resampling(
                "linear", spec.rate_out_hz, spec.rate_out_hz, spec.gap_tolerance_periods
            )
        self._gridder = Gridder(spec, channels)

    @property
    def lead_samples(self) -> int:
        """Samples before a tick that have part in what is read there."""
        return 1 if self._decimator is None else self._decimator.lead_samples + self.spec.factor

    def phase(self, t_ns: int) -> int:
        """How many of the samples that begin at a time to leave out, for a new one to go on."""
        return 0 if self._decimator is None else self._decimator.phase(t_ns)

    def push(self, t_ns: Times, samples: Samples) -> list[Block]:
        """Take samples; give the ticks that can be told now. Arguments as for `Decimator`."""
        if self._decimator is None:
            return self._gridder.push(t_ns, samples)
        found: list[Block] = []
        for part in self._decimator.push(t_ns, samples):
            found.extend(self._gridder.push(part.t_ns, part.samples))
        return found


def _check(t_ns: Times, samples: Samples, channels: int) -> None:
    if samples.ndim != 2 or samples.shape[1] != channels or len(t_ns) != len(samples):
        raise WrongStream(
            f"samples of shape {samples.shape} at {len(t_ns)} times, of {channels} channels",
            code="resampling.shape",
        )
