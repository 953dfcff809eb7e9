"""Capture schedules: which of a stream's samples are recorded at all.

Three axes at 3.2 kHz are 3.3 GB a day. A stream may record all the time (`continuous`), a stretch
at regular times (`periodic`: 10 s every 10 min, on whole minutes of UTC as the device believes), or
a stretch when something asks for it (`on_alarm`, `on_request`), with some seconds from before the
moment. The first frame after a pause says that the pause was planned, so that it counts as no gap.

Pure: frames and times come in, frames go out. One gate for each stream; one thread.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import replace

from fieldloop_contract.frames import FLOAT_BYTES, Frame
from fieldloop_contract.profile import CaptureProfile

BEFORE_BYTES_MAX = 4 << 20
TRIGGERS_WAITING_MAX = 16
_EDGE_PERIODS = 1e-3


class CaptureGate:
    """Lets through what the schedule wants of one stream.

    Attributes:
        passed_over: samples that were not recorded.
    """

    def __init__(self, profile: CaptureProfile) -> None:
        self.passed_over = 0
        self._profile = profile
        self._stretches: deque[tuple[int, int]] = deque(maxlen=TRIGGERS_WAITING_MAX)
        self._before: deque[Frame] = deque()
        self._before_bytes = 0
        self._recorded_until_ns = 0
        self._paused = False

    def trigger(self, t_ns: int) -> list[Frame]:
        """Something asks for a stretch around `t_ns`; returns what is recorded from before it.

        Ignored where the stream records by itself.
        """
        profile = self._profile
        if profile.mode not in ("on_alarm", "on_request"):
            return []
        start_ns = t_ns - round(profile.before_s * 1e9)
        self._stretches.append((start_ns, t_ns + round(profile.length_s * 1e9)))
        earlier, self._before = list(self._before), deque()
        self._before_bytes = 0
        self.passed_over -= sum(frame.n for frame in earlier)
        return [part for frame in earlier for part in self._record(frame)]

    def admit(self, frame: Frame) -> list[Frame]:
        """The parts of a frame that are to be recorded, oldest first."""
        if self._profile.mode == "continuous":
            return [frame]
        parts = self._record(frame)
        if not parts and self._profile.before_s:
            self._keep_before(frame)
        return parts

    def _record(self, frame: Frame) -> list[Frame]:
        parts = []
        at = 0
        for start_ns, end_ns in self._wanted(frame):
            first = _index(frame, max(start_ns, self._recorded_until_ns))
            last = _index(frame, end_ns)
            if first >= last:
                continue
            part = _cut(frame, first, last)
            paused = self._paused or first > at
            parts.append(replace(part, planned_pause=True) if paused else part)
            self.passed_over += first - at
            self._recorded_until_ns, self._paused, at = part.t1_ns, False, last
        self.passed_over += frame.n - at
        self._paused = self._paused or at < frame.n
        return parts

    def _wanted(self, frame: Frame) -> list[tuple[int, int]]:
        """Spans to record that meet the frame, ascending and apart."""
        if self._profile.mode != "periodic":
            while self._stretches and self._stretches[0][1] <= frame.t0_ns:
                self._stretches.popleft()
            return _merged(s for s in self._stretches if s[0] < frame.t1_ns)
        every_ns = round((self._profile.every_s or 0.0) * 1e9)
        length_ns = round(self._profile.length_s * 1e9)
        first = frame.t0_ns // every_ns
        last = (frame.t1_ns - 1) // every_ns
        return [(k * every_ns, k * every_ns + length_ns) for k in range(first, last + 1)]

    def _keep_before(self, frame: Frame) -> None:
        self._before.append(frame)
        self._before_bytes += len(frame.samples)
        oldest_ns = frame.t1_ns - round(self._profile.before_s * 1e9)
        while self._before and (
            self._before[0].t1_ns <= oldest_ns or self._before_bytes > BEFORE_BYTES_MAX
        ):
            self._before_bytes -= len(self._before.popleft().samples)


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _index(frame: Frame, t_ns: int) -> int:
    """Number of the frame's samples before `t_ns`."""
    periods = (t_ns - frame.t0_ns) * frame.rate_hz / 1e9
    return min(max(math.ceil(periods - _EDGE_PERIODS), 0), frame.n)


def _cut(frame: Frame, first: int, last: int) -> Frame:
    """The samples first to last (exclusive) of a frame, with their times."""
    if first == 0 and last == frame.n:
        return frame
    row = FLOAT_BYTES * frame.channels
    shift_ns = round(first * 1e9 / frame.rate_hz)
    return replace(
        frame,
        t0_ns=frame.t0_ns + shift_ns,
        mono_ns=frame.mono_ns + shift_ns,
        samples=frame.samples[first * row : last * row],
    )
