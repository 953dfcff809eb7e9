"""Windowing: frames of one stream in, windows of one model input out.

Owns the one rule by which samples become windows; training and devices both use it. Promises that a
window never crosses an epoch, a boot, a gap or a backwards step of time, that windows begin every
`hop_samples` counted from the first sample after such a break, and that a builder resumed at
`position()` makes the same windows as one that was never stopped. Pure; one builder belongs to one
thread.

The gap rule (`manifest.Input`). Let d be the time from the last sample before a frame to its
first sample, in sample periods; 1 is perfect. `d <= 0` is a step backwards and a break. `d` above
`gap_tolerance_periods` is a gap and a break. Otherwise `ceil(d - 0.5) - 1` samples are missing:
with `fill` none a missing sample is a gap too, with `hold` the last sample is repeated, with
`linear` the missing ones lie on a line between their neighbours.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.errors import WrongStream
from fieldloop_contract.frames import Frame
from fieldloop_contract.manifest import Input

FILL_SAMPLES_MAX = 65_536


@dataclass(frozen=True, slots=True)
class Window:
    """One window, ready to be scored.

    Attributes:
        epoch: epoch of the log the samples came from.
        seq_first: seq of the frame that holds the first sample.
        seq_last: seq of the frame that holds the last sample.
        t0_ns: time of the first sample, from its frame.
        t1_ns: the instant after the last sample.
        samples: float32[window_samples, channels], physical units, oldest first; of the first
            input, and `others` of the further ones.
        offset: samples between the first sample of frame `seq_first` and that of the window.
        start: where a builder begins to make it again, where `seq_first` and `offset` do not say.
        begins: it is the first one after a break, or of its builder: what a stateful model
            remembers of the windows before it does not belong to it.
    """

    epoch: str
    seq_first: int
    seq_last: int
    t0_ns: int
    t1_ns: int
    samples: NDArray[np.float32]
    offset: int = 0
    others: tuple[NDArray[np.float32], ...] = ()
    start: Position | None = None
    begins: bool = False

    @property
    def arrays(self) -> tuple[NDArray[np.float32], ...]:
        """The samples of each input, in the manifest's order."""
        return (self.samples, *self.others)

    def same_samples(self, other: Window) -> bool:
        """Whether another window has the same samples."""
        pairs = zip(self.arrays, other.arrays, strict=False)
        return all(np.array_equal(a, b) for a, b in pairs)

    def position(self) -> Position:
        """Where this window begins; a builder resumed there makes it again."""
        return self.start or Position(self.epoch, self.seq_first, self.offset)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a window begins: `offset` samples after the first sample of frame `seq`.

    The offset may lie beyond the frame's end, in samples that have not come or that were filled.
    Of windows on a grid (`joining`) the offset is the window's number, frame `seq` the first that
    has part in it, and `phases` says for each stream how many samples from there are left out.
    """

    epoch: str
    seq: int
    offset: int
    phases: tuple[int, ...] = ()


@dataclass(slots=True)
class _Anchor:
    """A frame within the buffer: where it begins, and when."""

    at: int
    seq: int
    t0_ns: int


class WindowBuilder:
    """Cuts windows from frames that are pushed in log order.

    Attributes:
        gaps: how many times a run of samples was broken since the builder was made, other than by
            a planned pause.
        skipped_samples: samples that no window will hold, because a break came before one was full.
    """

    def __init__(self, spec: Input) -> None:
        self.spec = spec
        self.gaps = 0
        self.skipped_samples = 0
        self._period_ns = 1e9 / spec.rate_hz
        self._width = len(spec.channels)
        self._data: NDArray[np.float32] = np.empty(
            (2 * spec.window_samples, self._width), np.float32
        )
        self._resume: Position | None = None
        self._clear()

    def _clear(self) -> None:
        self._n = 0
        self._next = 0
        self._covered = 0
        self._anchors: list[_Anchor] = []
        self._epoch = ""
        self._boot = ""
        self._last_ns = 0.0
        self._begins = True

    def reset(self) -> None:
        """Forget all samples; the next frame begins a new run."""
        self._clear()
        self._resume = None

    def resume(self, position: Position | None) -> None:
        """Begin at a position; the next frame pushed should be the one it names."""
        self.reset()
        self._resume = position

    def position(self) -> Position | None:
        """Where the next window begins, or None before the first frame."""
        if not self._anchors:
            return self._resume
        anchor = self._anchors[0]
        return Position(self._epoch, anchor.seq, self._next - anchor.at)

    def push(self, epoch: str, seq: int, frame: Frame) -> list[Window]:
        """Take the next frame.

        Args:
            frame: as checked by `fieldloop_contract.frames.check_frame`.

        Returns:
            The windows that this frame completes, in order.

        Raises:
            WrongStream: other channels or another rate than the model's input; nothing is taken.
        """
        self._check(frame)
        samples = frame.array()
        if self._anchors:
            self._join(epoch, frame, samples)
        elif self._resume is not None:
            if self._resume.epoch == epoch and self._resume.seq == seq:
                self._next = self._covered = self._resume.offset
            else:
                self.gaps += 1
            self._resume = None
        self._anchors.append(_Anchor(self._n, seq, frame.t0_ns))
        self._append(samples)
        self._epoch, self._boot = epoch, frame.boot
        self._last_ns = frame.t0_ns + (len(samples) - 1) * self._period_ns
        windows = []
        while self._next + self.spec.window_samples <= self._n:
            windows.append(self._cut(epoch))
            self._covered = self._next + self.spec.window_samples
            self._next += self.spec.hop_samples
        self._trim()
        return windows

    def _check(self, frame: Frame) -> None:
        if frame.channels != self._width:
            raise WrongStream(
                f"the model takes {self._width} channels, stream {frame.stream} gives "
                f"{frame.channels}",
                code="slot.channels",
            )
        if not math.isclose(frame.rate_hz, self.spec.rate_hz, rel_tol=1e-6):
            raise WrongStream(
                f"the model takes {self.spec.rate_hz:g} Hz, stream {frame.stream} gives "
                f"{frame.rate_hz:g} Hz",
                code="slot.rate",
            )

    def _join(self, epoch: str, frame: Frame, samples: NDArray[np.float32]) -> None:
        """Fill up to the frame, or break the run before it."""
        distance = (frame.t0_ns - self._last_ns) / self._period_ns
        missing = max(0, math.ceil(distance - 0.5) - 1)
        broken = (
            epoch != self._epoch
            or frame.boot != self._boot
            or distance <= 0
            or distance > self.spec.gap_tolerance_periods
            or missing > FILL_SAMPLES_MAX
            or (missing > 0 and self.spec.fill == "none")
        )
        if broken:
            self.gaps += not frame.planned_pause
            self.skipped_samples += max(0, self._n - self._covered)
            self._clear()
        elif missing:
            last = self._data[self._n - 1]
            if self.spec.fill == "linear":
                share = (np.arange(1, missing + 1, dtype=np.float32) / (missing + 1))[:, None]
                self._append(last + share * (samples[0] - last))
            else:
                self._append(np.repeat(last[None], missing, axis=0))

    def _append(self, samples: NDArray[np.float32]) -> None:
        needed = self._n + len(samples)
        if needed > len(self._data):
            grown = np.empty((max(needed, 2 * len(self._data)), self._width), np.float32)
            grown[: self._n] = self._data[: self._n]
            self._data = grown
        self._data[self._n : needed] = samples
        self._n = needed

    def _anchor_of(self, index: int) -> _Anchor:
        return self._anchors[bisect_right(self._anchors, index, key=lambda a: a.at) - 1]

    def _cut(self, epoch: str) -> Window:
        first, after = self._next, self._next + self.spec.window_samples
        head, tail = self._anchor_of(first), self._anchor_of(after - 1)
        begins, self._begins = self._begins, False
        return Window(
            epoch=epoch,
            seq_first=head.seq,
            seq_last=tail.seq,
            t0_ns=head.t0_ns + round((first - head.at) * self._period_ns),
            t1_ns=tail.t0_ns + round((after - tail.at) * self._period_ns),
            samples=self._data[first:after].copy(),
            offset=first - head.at,
            begins=begins,
        )

    def _trim(self) -> None:
        """Drop the frames that lie wholly before the next window; the last one always stays."""
        keep = bisect_right(self._anchors, self._next, key=lambda a: a.at) - 1
        if keep <= 0:
            return
        del self._anchors[:keep]
        cut = self._anchors[0].at
        self._data[: self._n - cut] = self._data[cut : self._n]
        self._n -= cut
        self._next -= cut
        self._covered -= cut
        for anchor in self._anchors:
            anchor.at -= cut
