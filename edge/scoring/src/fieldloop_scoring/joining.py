"""Windows of several streams, or of streams of other rates: cut side by side on a grid.

Owns the rule by which such windows are cut; training and devices both use it. Each stream is read
at the ticks of its input's grid by the declared method (`resampling`), and window `k` of an input
holds the `window_samples` ticks before tick `k * hop_samples`: so the windows of all inputs end at
one instant, and depend on nothing but the time of the samples. A window is made when every stream
has all of its ticks without a gap. Promises that nothing crosses an epoch, a boot, a gap or a step
back of the clock, and that a builder resumed at `position()` makes bit for bit the windows of one
that was never stopped. A stream that is silent makes the others wait, for `TICKS_AHEAD_MAX` ticks
at most. Pure; one builder belongs to one thread.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.errors import FixConfiguration, WrongStream
from fieldloop_contract.feeding import aligned, check_alignment, check_rate
from fieldloop_contract.frames import Frame
from fieldloop_contract.manifest import Input
from fieldloop_scoring.resampling import Block, Resampler, Resampling, tick_ns, times_of
from fieldloop_scoring.windows import Position, Window, WindowBuilder

TICKS_AHEAD_MAX: Final = 65_536


def carry(position: Position | None, old: Sequence[Input], new: Sequence[Input]) -> Position | None:
    """Where windows of other inputs go on from a position, so that none begins before it."""
    if position is None or not (aligned(old) or aligned(new)):
        return position
    number = 0
    if aligned(old) and aligned(new):
        was, to = old[0], new[0]
        begins_s = (position.offset * was.hop_samples - was.window_samples) / was.rate_hz
        number = math.ceil((begins_s * to.rate_hz + to.window_samples) / to.hop_samples - 1e-9)
    return Position(position.epoch, position.seq, max(0, number))


class Builder(Protocol):
    """What cuts windows from frames that are pushed in log order; see `WindowBuilder`."""

    gaps: int

    def reset(self) -> None:
        """Forget all samples."""

    def resume(self, position: Position | None) -> None:
        """Begin at a position."""

    def position(self) -> Position | None:
        """Where the next window begins."""

    def push(self, epoch: str, seq: int, frame: Frame) -> list[Window]:
        """Take the next frame; the windows that it completes."""


def make_builder(inputs: Sequence[Input], streams: Mapping[str, str]) -> Builder:
    """The builder for a model's inputs.

    Args:
        streams: from `Input.sources` to streams of the device; without one, the source's own name.

    Raises:
        FixConfiguration: the inputs cannot be aligned as they are declared.
    """
    return GridBuilder(inputs, streams) if aligned(inputs) else WindowBuilder(inputs[0])


@dataclass(frozen=True, slots=True)
class _Anchor:
    """A frame: where it begins, and how many samples a resampler that begins there leaves out."""

    seq: int
    t0_ns: int
    phase: int


class _Lane:
    """One stream on its way into one input: what is known of it, by tick."""

    def __init__(self, spec: Input, stream: str, columns: Sequence[int]) -> None:
        self.spec = spec
        self.stream = stream
        self.columns = list(columns)
        self.clear()

    def clear(self, skip: int = 0) -> None:
        """Forget all samples, and leave out the first `skip` that come."""
        self.runs: list[Block] = []
        self.anchors: list[_Anchor] = []
        self._skip = skip
        self._skipped_ns = 0
        self._resampler: Resampler | None = None

    def check(self, frame: Frame) -> None:
        """Raise WrongStream where a frame cannot feed this lane."""
        if frame.channels != len(self.columns):
            raise WrongStream(
                f"the model takes {len(self.columns)} channels of it, stream {frame.stream} gives "
                f"{frame.channels}",
                code="slot.channels",
            )
        try:
            check_rate(self.spec, frame.rate_hz)
        except FixConfiguration as error:
            raise WrongStream(f"stream {frame.stream}: {error}", code="slot.rate") from error

    def push(self, seq: int, frame: Frame) -> tuple[int, bool]:
        """Take a frame that was checked.

        Returns:
            How many gaps it showed, and whether the clock stepped back before it.
        """
        resampler = self._resampler
        if resampler is None or resampler.spec.rate_in_hz != frame.rate_hz:
            assert self.spec.resample is not None
            declared = Resampling(
                self.spec.resample,
                frame.rate_hz,
                self.spec.rate_hz,
                max(1.0, self.spec.gap_tolerance_periods),
            )
            resampler = self._resampler = Resampler(declared, frame.channels)
        phase, skip = self._left_out(resampler, frame)
        times = times_of(frame.t0_ns, frame.n, frame.rate_hz)[skip:]
        self.anchors.append(_Anchor(seq, frame.t0_ns, phase))
        blocks = resampler.push(times, frame.array()[skip:])
        found = [self._take(block) for block in blocks]
        return sum(gap for gap, _ in found), any(back for _, back in found)

    def _left_out(self, resampler: Resampler, frame: Frame) -> tuple[int, int]:
        """Samples from this frame on that a new resampler leaves out, and those that we do."""
        if not self._skip:
            return resampler.phase(frame.t0_ns), 0
        most_ns = resampler.spec.gap_tolerance_periods * 1e9 / frame.rate_hz
        if self._skipped_ns and not 0 < frame.t0_ns - self._skipped_ns <= most_ns:
            self._skip = 0
            return 0, 0
        phase, skip = self._skip, min(self._skip, frame.n)
        self._skip -= skip
        self._skipped_ns = int(times_of(frame.t0_ns, skip, frame.rate_hz)[-1])
        return phase, skip

    def _take(self, block: Block) -> tuple[bool, bool]:
        last = self.runs[-1] if self.runs else None
        if last is None:
            self.runs.append(block)
            return False, False
        after = last.tick + len(last.samples)
        if block.tick == after:
            self.runs[-1] = Block(last.tick, np.concatenate([last.samples, block.samples]))
        elif block.tick > after:
            self.runs.append(block)
        else:
            self.runs = [block]
        return block.tick != after, block.tick < after

    def _span(self, k: int) -> tuple[int, int]:
        """First tick of window `k`, and the one after its last."""
        after = k * self.spec.hop_samples
        return after - self.spec.window_samples, after

    def first(self, k: int) -> int | None:
        """The first window, from `k` on, that this lane has or may still get; None: not known."""
        for index, run in enumerate(self.runs):
            fits = math.ceil((run.tick + self.spec.window_samples) / self.spec.hop_samples)
            candidate = max(k, fits)
            _, after = self._span(candidate)
            if index == len(self.runs) - 1 or run.tick + len(run.samples) >= after:
                return candidate
        return None

    def cut(self, k: int) -> NDArray[np.float32] | None:
        """float32[window_samples, channels of the lane] of window `k`, or None: it is not whole."""
        first, after = self._span(k)
        for run in self.runs:
            if run.tick <= first and run.tick + len(run.samples) >= after:
                return run.samples[first - run.tick : after - run.tick]
        return None

    def needs(self, k: int) -> int:
        """Index of the anchor from which window `k`, or all that is held, can be made again."""
        first, _ = self._span(k)
        if self.runs:
            first = max(first, self.runs[0].tick)
        lead_ns = 0.0
        if self._resampler is not None:
            spec = self._resampler.spec
            lead = self._resampler.lead_samples * spec.gap_tolerance_periods
            lead_ns = lead * 1e9 / spec.rate_in_hz
        return self._before(tick_ns(max(0, first), self.spec.rate_hz) - math.ceil(lead_ns))

    def holding(self, k: int) -> int:
        """Index of the anchor whose frame has the time of the first tick of window `k`."""
        return self._before(tick_ns(max(0, self._span(k)[0]), self.spec.rate_hz))

    def _before(self, t_ns: int) -> int:
        """Index of the last anchor that begins at or before a time, or of the first one."""
        return max(0, bisect_right(self.anchors, t_ns, key=lambda a: a.t0_ns) - 1)

    def trim(self, k: int) -> int:
        """Drop the ticks that window `k` does not need, and those beyond the bound; how many."""
        first, _ = self._span(k)
        over = 0
        if self.runs:
            last = self.runs[-1]
            bound = last.tick + len(last.samples) - TICKS_AHEAD_MAX - self.spec.window_samples
            over = max(0, bound - max(first, self.runs[0].tick))
            first = max(first, bound)
        while self.runs and self.runs[0].tick < first:
            head = self.runs[0]
            cut = first - head.tick
            if cut < len(head.samples) or len(self.runs) == 1:
                self.runs[0] = Block(min(first, head.tick + len(head.samples)), head.samples[cut:])
                break
            del self.runs[0]
        return over


class GridBuilder:
    """Cuts windows from the frames of all streams of a model, pushed in log order.

    Attributes:
        gaps: breaks of a stream, other than by a planned pause, since the builder was made.
        waited_out: ticks given up because another stream was silent for too long.
    """

    def __init__(self, inputs: Sequence[Input], streams: Mapping[str, str]) -> None:
        check_alignment(inputs)
        self.gaps = 0
        self.waited_out = 0
        self._inputs = list(inputs)
        self._lanes = [
            [_Lane(spec, streams.get(source, source), columns) for source, columns in found.items()]
            for spec, found in ((spec, spec.sources()) for spec in inputs)
        ]
        self._all = [lane for lanes in self._lanes for lane in lanes]
        self._resume: Position | None = None
        self._clear()

    def _clear(self, phases: Sequence[int] = ()) -> None:
        for index, lane in enumerate(self._all):
            lane.clear(phases[index] if index < len(phases) else 0)
        self._k = self._follows = 0
        self._epoch = self._boot = ""

    def reset(self) -> None:
        """Forget all samples; the next frames begin new runs."""
        self._clear()
        self._resume = None

    def resume(self, position: Position | None) -> None:
        """Begin at a position; the next frame pushed should be the one it names."""
        self._clear(position.phases if position is not None else ())
        self._resume = position

    def position(self) -> Position | None:
        """Where to begin to make the next window, or None before the first frame."""
        held = [lane.anchors[lane.needs(self._k)].seq for lane in self._all if lane.anchors]
        if not held:
            return self._resume
        return self._position(min(held))

    def _position(self, seq: int) -> Position:
        phases = (next((a.phase for a in lane.anchors if a.seq >= seq), 0) for lane in self._all)
        return Position(self._epoch, seq, self._k, tuple(phases))

    def push(self, epoch: str, seq: int, frame: Frame) -> list[Window]:
        """Take the next frame of any of the streams.

        Raises:
            WrongStream: other channels than the model's, or a rate that its `resample` cannot
                bring to it; nothing is taken.
        """
        mine = [lane for lane in self._all if lane.stream == frame.stream]
        for lane in mine:
            lane.check(frame)
        if self._resume is not None:
            if (self._resume.epoch, self._resume.seq) == (epoch, seq):
                self._k = self._resume.offset
            else:
                self.gaps += 1
                self._clear()
            self._resume = None
        elif self._epoch and (epoch != self._epoch or frame.boot != self._boot):
            self.gaps += not frame.planned_pause
            self._clear()
        self._epoch, self._boot = epoch, frame.boot
        for lane in mine:
            gaps, back = lane.push(seq, frame)
            self.gaps += 0 if frame.planned_pause else gaps
            if back:
                self._step_back(lane)
        return self._cut(seq)

    def _step_back(self, lane: _Lane) -> None:
        """Ticks come again: what the other streams hold will find nothing to match."""
        for other in self._all:
            if other is not lane:
                other.clear()
        lane.anchors = lane.anchors[-1:]
        self._k = self._follows = 0

    def _cut(self, seq: int) -> list[Window]:
        windows: list[Window] = []
        while True:
            firsts = [k for k in (lane.first(self._k) for lane in self._all) if k is not None]
            if len(firsts) < len(self._all):
                break
            if max(firsts) > self._k:  # what lies before, some stream will never have
                self._k = max(firsts)
                continue
            parts = [[lane.cut(self._k) for lane in lanes] for lanes in self._lanes]
            if any(part is None for row in parts for part in row):
                break
            windows.append(self._window(seq, parts))
            self._k += 1
            self._follows = self._k
        self._trim()
        return windows

    def _window(self, seq: int, parts: list[list[NDArray[np.float32] | None]]) -> Window:
        arrays = []
        for spec, lanes, row in zip(self._inputs, self._lanes, parts, strict=True):
            whole = np.empty((spec.window_samples, len(spec.channels)), np.float32)
            for lane, part in zip(lanes, row, strict=True):
                whole[:, lane.columns] = part
            arrays.append(whole)
        spec = self._inputs[0]
        after = self._k * spec.hop_samples
        seq_first = min(lane.anchors[lane.holding(self._k)].seq for lane in self._all)
        start = self._position(min(lane.anchors[lane.needs(self._k)].seq for lane in self._all))
        return Window(
            epoch=self._epoch,
            seq_first=seq_first,
            seq_last=seq,
            t0_ns=tick_ns(after - spec.window_samples, spec.rate_hz),
            t1_ns=tick_ns(after, spec.rate_hz),
            samples=arrays[0],
            offset=self._k,
            others=tuple(arrays[1:]),
            start=start,
            begins=self._k != self._follows,
        )

    def _trim(self) -> None:
        for lane in self._all:
            self.waited_out += lane.trim(self._k)
        seqs = [lane.anchors[lane.needs(self._k)].seq for lane in self._all if lane.anchors]
        for lane in self._all:
            keep = bisect_right(lane.anchors, min(seqs, default=0) - 1, key=lambda a: a.seq)
            keep = max(keep, len(lane.anchors) - TICKS_AHEAD_MAX)
            del lane.anchors[: min(keep, max(0, len(lane.anchors) - 1))]
