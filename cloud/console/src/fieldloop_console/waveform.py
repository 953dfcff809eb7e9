"""Signals for a screen: of any span, as many points as there are pixels, minimum and maximum each.

A span of few frames is read whole and reduced exactly: every bin shows the least and the greatest
sample in it, so that no peak is lost. Of a long span each bin shows one frame at first (`exact` is
False), while a thread reads all of it, in bounded pieces; the next look has the exact picture. Past
`FRAMES_MAX` frames it stays a sketch, and says so. Pictures are kept, the longest unused forgotten.

Any thread; one picture is made at a time for each of `WORKERS` threads.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fieldloop_store.engine import Store
from fieldloop_store.signals import (
    count_frames,
    frame_start_before,
    probe_frames,
    raw_frames,
)

FRAMES_AT_ONCE = 3_000
"""Frames that are read while the caller waits."""
FRAMES_MAX = 1_000_000
BINS_MAX = 2_000
PROBES_MAX = 400
WORKERS = 1
_PIECE = 5_000
_KEPT = 64
Raw = tuple[int, float, int, bytes]


@dataclass(frozen=True, slots=True)
class Picture:
    """A signal reduced to bins.

    Attributes:
        t_ns: int64[bins], where each bin begins.
        low, high: float32[bins, channels], NaN where there is no sample.
        frames: frames in the span, counted up to what was read.
        exact: whether every sample of the span is in it.
        coming: whether an exact one is being made.
    """

    t0_ns: int
    t1_ns: int
    t_ns: NDArray[np.int64]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    frames: int
    exact: bool
    coming: bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which signal, which span, how many bins."""

    fleet: str
    device: str
    stream: str
    t0_ns: int
    t1_ns: int
    bins: int
    chosen: bool = False


class Waveforms:
    """Makes and keeps pictures. Any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._kept: OrderedDict[Wanted, Picture] = OrderedDict()
        self._coming: set[Wanted] = set()
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="waveform")
        self._stop = threading.Event()

    def close(self) -> None:
        """End the threads."""
        self._stop.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def picture(self, wanted: Wanted) -> Picture:
        """The signal as it can be had at once. Raises RetryLater where the database is away."""
        with self._lock:
            if wanted in self._kept:
                self._kept.move_to_end(wanted)
                return self._kept[wanted]
        start_ns = self._start(wanted)
        frames = count_frames(
            self._store, wanted.fleet, wanted.device, wanted.stream, start_ns, wanted.t1_ns,
            most=FRAMES_AT_ONCE + 1, chosen=wanted.chosen,
        )  # fmt: skip
        if frames <= FRAMES_AT_ONCE:
            return self._exact(wanted, start_ns)
        sketch = self._sketch(wanted)
        with self._lock:
            if wanted not in self._coming and len(self._coming) < _KEPT:
                self._coming.add(wanted)
                self._pool.submit(self._refine, wanted, start_ns)
        return sketch

    def _start(self, wanted: Wanted) -> int:
        """The beginning of the frame that reaches into the span, or of the span."""
        before_ns = frame_start_before(
            self._store, wanted.fleet, wanted.device, wanted.stream, wanted.t0_ns,
            chosen=wanted.chosen,
        )  # fmt: skip
        return wanted.t0_ns if before_ns is None else before_ns

    def _exact(self, wanted: Wanted, start_ns: int) -> Picture:
        bins = _Bins(wanted)
        at_ns = start_ns
        while bins.frames < FRAMES_MAX and not self._stop.is_set():
            piece = raw_frames(
                self._store, wanted.fleet, wanted.device, wanted.stream, at_ns, wanted.t1_ns,
                limit=_PIECE, chosen=wanted.chosen,
            )  # fmt: skip
            bins.add(piece)
            if len(piece) < _PIECE:
                return bins.picture(exact=True, coming=False)
            at_ns = piece[-1][0] + 1
        return bins.picture(exact=False, coming=False)

    def _sketch(self, wanted: Wanted) -> Picture:
        probes = min(wanted.bins, PROBES_MAX)
        edges = np.linspace(wanted.t0_ns, wanted.t1_ns, probes + 1).astype(np.int64)
        spans = [(int(a), int(b)) for a, b in pairwise(edges)]
        bins = _Bins(replace(wanted, bins=probes))
        bins.add(
            probe_frames(
                self._store, wanted.fleet, wanted.device, wanted.stream, spans,
                chosen=wanted.chosen,
            )
        )  # fmt: skip
        return bins.picture(exact=False, coming=True)

    def _refine(self, wanted: Wanted, start_ns: int) -> None:
        try:
            picture = self._exact(wanted, start_ns)
            with self._lock:
                self._kept[wanted] = picture
                while len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
        finally:
            with self._lock:
                self._coming.discard(wanted)


class _Bins:
    """Least and greatest sample of each bin and channel."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._low: NDArray[np.float32] | None = None
        self._high: NDArray[np.float32] | None = None
        self.frames = 0

    def add(self, piece: list[Raw]) -> None:
        """Take frames in; those of another number of channels than the first are left out."""
        if not piece:
            return
        channels = piece[0][2]
        if self._low is None or self._high is None:
            shape = (self._wanted.bins, channels)
            self._low = np.full(shape, np.inf, np.float32)
            self._high = np.full(shape, -np.inf, np.float32)
        width = self._low.shape[1]
        kept = [f for f in piece if f[2] == width]
        self.frames += len(piece)
        if not kept:
            return
        data = np.frombuffer(b"".join(f[3] for f in kept), "<f4").reshape(-1, width)
        counts = np.array([len(f[3]) // (4 * width) for f in kept])
        starts = np.repeat(np.array([f[0] for f in kept], np.int64), counts)
        periods = np.repeat(np.array([1e9 / f[1] for f in kept]), counts)
        firsts = np.repeat(np.cumsum(counts) - counts, counts)
        offset_ns = (np.arange(len(data)) - firsts) * periods
        place = (starts - self._wanted.t0_ns) + offset_ns
        span = self._wanted.t1_ns - self._wanted.t0_ns
        at = np.floor(place * (self._wanted.bins / span)).astype(np.int64)
        inside = (at >= 0) & (at < self._wanted.bins)
        if not inside.all():
            at, data = at[inside], data[inside]
        if not len(at):
            return
        if np.any(at[1:] < at[:-1]):
            order = np.argsort(at, kind="stable")
            at, data = at[order], data[order]
        edges = np.flatnonzero(np.r_[True, at[1:] != at[:-1]])
        rows = at[edges]
        self._low[rows] = np.minimum(self._low[rows], np.minimum.reduceat(data, edges))
        self._high[rows] = np.maximum(self._high[rows], np.maximum.reduceat(data, edges))

    def picture(self, *, exact: bool, coming: bool) -> Picture:
        """What was taken in."""
        wanted = self._wanted
        edges = np.linspace(0, wanted.t1_ns - wanted.t0_ns, wanted.bins, endpoint=False)
        low = np.empty((wanted.bins, 0), np.float32) if self._low is None else self._low
        high = np.empty((wanted.bins, 0), np.float32) if self._high is None else self._high
        return Picture(
            wanted.t0_ns,
            wanted.t1_ns,
            wanted.t0_ns + edges.astype(np.int64),
            np.where(np.isfinite(low), low, np.float32(np.nan)),
            np.where(np.isfinite(high), high, np.float32(np.nan)),
            self.frames,
            exact,
            coming,
        )
