"""Does a frame fit its stream? Pure."""

from __future__ import annotations

from fieldloop_contract.errors import WrongStream
from fieldloop_contract.frames import Frame, check_frame, samples_array
from fieldloop_contract.profile import StreamProfile

_RATE_TOLERANCE = 1e-6


def check_against(frame: Frame, stream: StreamProfile) -> Frame:
    """Return `frame` if it fits `stream`: channels, rate, finite, each channel within its range.

    Raises:
        LimitExceeded, WrongStream: with the reason.
    """
    channels = len(stream.channels)
    if frame.stream != stream.id:
        raise WrongStream(f"a frame of {frame.stream} for {stream.id}", code="frame.stream")
    if frame.channels != channels:
        raise WrongStream(
            f"{frame.channels} channels, {stream.id} has {channels}", code="frame.channels"
        )
    if abs(frame.rate_hz - stream.rate_hz) > _RATE_TOLERANCE * stream.rate_hz:
        raise WrongStream(
            f"{frame.rate_hz} Hz, {stream.id} has {stream.rate_hz}", code="frame.rate"
        )
    check_frame(frame)
    if any(c.min is not None or c.max is not None for c in stream.channels):
        values = samples_array(frame.samples)
        for index, channel in enumerate(stream.channels):
            column = values[index::channels]
            low, high = min(column), max(column)
            if channel.min is not None and low < channel.min:
                raise WrongStream(
                    f"{channel.name} {low:g} is below {channel.min:g}", code="frame.range"
                )
            if channel.max is not None and high > channel.max:
                raise WrongStream(
                    f"{channel.name} {high:g} is above {channel.max:g}", code="frame.range"
                )
    return frame
