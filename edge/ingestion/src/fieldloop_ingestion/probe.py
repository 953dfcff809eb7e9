"""`probe PROFILE`: runs the sources for some seconds, shows what they give, and stores nothing.

For each stream: the measured against the declared rate, and for each channel minimum, maximum, RMS
and the share of samples that are clipped: flat tops of at least three equal samples at the extreme.
What disagrees with the profile is said, and the exit status is 1.
"""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fieldloop_contract.errors import RejectedInput
from fieldloop_contract.frames import Frame, samples_array
from fieldloop_contract.profile import Profile, SourceProfile, StreamProfile
from fieldloop_ingestion.gate import check_against
from fieldloop_ingestion.source import Context, find_source
from fieldloop_runtime.clock import SystemClock
from fieldloop_runtime.journal import Journal

RATE_TOLERANCE = 0.05
CLIP_RUN = 3
CLIPPED_SHARE_MAX = 0.01
REASONS_MAX = 5
_TURN_S = 0.01


@dataclass(slots=True)
class ChannelFigures:
    """Running figures of one channel."""

    n: int = 0
    low: float = math.inf
    high: float = -math.inf
    squares: float = 0.0
    low_clipped: int = 0
    high_clipped: int = 0

    def add(self, values: array[float]) -> None:
        """Take a stretch of samples."""
        low, high = min(values), max(values)
        if low < self.low:
            self.low, self.low_clipped = low, 0
        if high > self.high:
            self.high, self.high_clipped = high, 0
        self.low_clipped += flat_samples(values, self.low)
        self.high_clipped += flat_samples(values, self.high)
        self.n += len(values)
        self.squares += math.fsum(v * v for v in values)

    @property
    def rms(self) -> float:
        """Root of the mean square."""
        return math.sqrt(self.squares / self.n) if self.n else 0.0

    @property
    def clipped_share(self) -> float:
        """Share of samples in flat tops; 0 for a channel that never moves."""
        if not self.n or self.low == self.high:
            return 0.0
        return (self.low_clipped + self.high_clipped) / self.n


def flat_samples(values: array[float], extreme: float) -> int:
    """How many samples stand in runs of at least `CLIP_RUN` equal to `extreme`.

    >>> flat_samples(array("f", [1, 2, 2, 2, 1, 2]), 2.0)
    3
    """
    total = run = 0
    for value in (*values, math.nan):
        if value == extreme:
            run += 1
            continue
        total += run if run >= CLIP_RUN else 0
        run = 0
    return total


@dataclass(slots=True)
class SourceFigures:
    """What one source gave."""

    source: SourceProfile
    stream: StreamProfile
    samples: int = 0
    channels: list[ChannelFigures] = field(default_factory=list)
    first_s: float | None = None
    last_s: float = 0.0
    refused: dict[str, str] = field(default_factory=dict)
    refusals: int = 0
    failure: str = ""

    @property
    def rate_hz(self) -> float | None:
        """Measured samples a second of arrival, in the stream's time; None with too few."""
        span_s = self.last_s - (self.first_s or 0.0)
        if self.first_s is None or span_s <= 0:
            return None
        speed = float(self.source.options.get("speed", 1.0) or 0.0)
        return self.samples / span_s / speed if speed else None

    def faults(self) -> list[str]:
        """What disagrees with the profile."""
        found = [self.failure] if self.failure else []
        if self.first_s is None:
            return [*found, "no sample came"]
        if not self.samples:
            return [*found, "a single frame came; probe for longer"]
        rate = self.rate_hz
        declared = self.stream.rate_hz
        if rate is not None and abs(rate - declared) > RATE_TOLERANCE * declared:
            found.append(f"{rate:.4g} Hz came, {declared:g} Hz are declared")
        if self.refusals:
            reasons = "; ".join(f"{code}: {text}" for code, text in self.refused.items())
            found.append(f"{self.refusals} readings were refused ({reasons})")
        for figures, channel in zip(self.channels, self.stream.channels, strict=True):
            if figures.clipped_share > CLIPPED_SHARE_MAX:
                found.append(f"{channel.name} is clipped in {figures.clipped_share:.1%} of samples")
        return found


class _ProbeSink:
    """A sink that measures and forgets."""

    epoch = "0" * 32

    def __init__(self, figures: SourceFigures, now_s: Callable[[], float]) -> None:
        self._figures = figures
        self._now_s = now_s
        self._seq = 0

    def frame(self, frame: Frame) -> int | None:
        figures = self._figures
        try:
            check_against(frame, figures.stream)
        except RejectedInput as error:
            self.refuse(error.code, str(error))
            return None
        now_s = self._now_s()
        if figures.first_s is None:
            # The samples of the first frame were taken before it came, in an unknown time.
            figures.first_s = now_s
            figures.channels = [ChannelFigures() for _ in figures.stream.channels]
        else:
            figures.samples += frame.n
            figures.last_s = now_s
        values = samples_array(frame.samples)
        for index, channel in enumerate(figures.channels):
            channel.add(values[index :: frame.channels])
        self._seq += 1
        return self._seq

    def event(self, type_: str, data: dict[str, Any], t_ns: int) -> int:
        del type_, data, t_ns
        self._seq += 1
        return self._seq

    def refuse(self, code: str, reason: str, excerpt: bytes = b"") -> None:
        del excerpt
        self._figures.refusals += 1
        if len(self._figures.refused) < REASONS_MAX:
            self._figures.refused.setdefault(code, reason)

    def remember(self, name: str, value: str) -> None:
        """A probe leaves no trace."""


def probe(
    profile: Profile,
    seconds: float,
    *,
    now_s: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[SourceFigures]:
    """Run all sources of a profile for some seconds.

    Raises:
        FixConfiguration: a source's options do not work.
    """
    clock = SystemClock(trusted=True)
    running = []
    for source in profile.sources:
        stream = profile.stream(source.stream)
        assert stream is not None  # the profile was checked
        stream = source.given(stream)
        figures = SourceFigures(source, stream)
        context = Context(source.id, stream, clock.now, lambda _name: None, Journal("probe"))
        kind = find_source(source.kind)
        made = kind(kind.Options.model_validate(source.options), context)
        running.append((made, figures, _ProbeSink(figures, now_s)))
    end_s = now_s() + seconds
    due_s = [0.0] * len(running)
    try:
        while now_s() < end_s:
            for index, (made, figures, sink) in enumerate(running):
                if figures.failure or now_s() < due_s[index]:
                    continue
                try:
                    due_s[index] = now_s() + made.poll(sink, now_s())
                except Exception as error:  # noqa: BLE001 - a plug-in may raise anything; it is shown
                    figures.failure = f"{type(error).__name__}: {error!s:.200}"
            sleep(_TURN_S)
    finally:
        for made, _figures, _sink in running:
            made.close()
    return [figures for _made, figures, _sink in running]


def report(found: list[SourceFigures]) -> list[str]:
    """The figures as lines for a person."""
    lines = []
    for figures in found:
        rate = figures.rate_hz
        measured = "unknown" if rate is None else f"{rate:.4g} Hz"
        lines.append(
            f"{figures.source.id} -> {figures.stream.id}: {figures.samples} samples, {measured} "
            f"measured, {figures.stream.rate_hz:g} Hz declared"
        )
        for channel, values in zip(figures.stream.channels, figures.channels, strict=False):
            lines.append(
                f"  {channel.name:<12} min {values.low:>11.5g}  max {values.high:>11.5g}  "
                f"rms {values.rms:>11.5g}  clipped {values.clipped_share:.1%}  {channel.unit}"
            )
        lines += [f"  WRONG: {fault}" for fault in figures.faults()]
    return lines
