"""Frames through `fieldloop_scoring.resampling`. Imports numpy; see `resample`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fieldloop_contract.frames import Frame, check_frame
from fieldloop_contract.profile import ResampleProfile
from fieldloop_ingestion.resample import split
from fieldloop_scoring.resampling import Resampler, Resampling, tick_ns, times_of


class FrameResampler:
    """See `resample`."""

    def __init__(self, declared: ResampleProfile, rate_hz: float, channels: int) -> None:
        spec = Resampling(
            declared.method, declared.rate_hz, rate_hz, declared.gap_tolerance_periods
        )
        self._rate_hz = rate_hz
        self._resampler = Resampler(spec, channels)
        self._boot = ""

    def push(self, frame: Frame) -> list[Frame]:
        """Take a frame at the source's rate; give frames at the stream's."""
        check_frame(frame)
        if frame.boot != self._boot:
            self._boot = frame.boot
            self._resampler = Resampler(self._resampler.spec, self._resampler.channels)
        times = times_of(frame.t0_ns, frame.n, frame.rate_hz)
        made = []
        for block in self._resampler.push(times, frame.array()):
            t0_ns = tick_ns(block.tick, self._rate_hz)
            whole = replace(
                frame,
                t0_ns=t0_ns,
                mono_ns=max(frame.mono_ns + t0_ns - frame.t0_ns, 0),
                rate_hz=self._rate_hz,
                samples=np.ascontiguousarray(block.samples, "<f4").tobytes(),
            )
            made += split(whole)
        return made
