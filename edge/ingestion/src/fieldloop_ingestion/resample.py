"""A source of another rate fills its stream: the declared resampling, on the way to the log.

The code is `fieldloop_scoring.resampling`, which training uses too; it needs numpy, so it is loaded
only where a profile declares it (extra `resample`). What is logged is the resampled stream; device
and training read the same rows. A restart begins with an empty filter: at the seam the stream has a
gap as long as the filter, and says so by its times. Owner thread only.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from fieldloop_contract.errors import FixConfiguration
from fieldloop_contract.frames import FLOAT_BYTES, FRAME_BYTES_MAX, Frame, check_frame
from fieldloop_contract.profile import ResampleProfile, StreamProfile


class Resamples(Protocol):
    """Frames of one rate in, frames of another out."""

    def push(self, frame: Frame) -> list[Frame]:
        """Take a frame; give what can be told now. WrongStream for a frame that is wrong."""
        ...


def make_resampler(declared: ResampleProfile, stream: StreamProfile) -> Resamples:
    """The resampler of one source.

    Raises:
        FixConfiguration: the rates do not fit the method, or the extra is not installed.
    """
    try:
        from fieldloop_ingestion.resampled import FrameResampler  # noqa: PLC0415 - needs numpy
    except ImportError as error:
        raise FixConfiguration(
            f"resampling needs a package that is not installed: {error}",
            hint="install fieldloop-ingestion[resample]",
        ) from error
    return FrameResampler(declared, stream.rate_hz, len(stream.channels))


def split(frame: Frame) -> list[Frame]:
    """A frame cut into frames within the contract's bounds."""
    row = FLOAT_BYTES * frame.channels
    most = FRAME_BYTES_MAX // row
    parts = []
    for first in range(0, frame.n, most):
        shift_ns = round(first * 1e9 / frame.rate_hz)
        part = replace(
            frame,
            t0_ns=frame.t0_ns + shift_ns,
            mono_ns=frame.mono_ns + shift_ns,
            samples=frame.samples[first * row : (first + most) * row],
        )
        parts.append(check_frame(part))
    return parts
