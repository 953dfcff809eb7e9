"""From rows of numbers to frames that fit their stream: a bad row is set aside, the others pass.

Pure. Shared by the sources that take readings from devices and messages.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fieldloop_contract.errors import FixConfiguration, WrongStream
from fieldloop_contract.frames import FLOAT_BYTES, FRAME_BYTES_MAX, FRAME_SAMPLES_MAX, Clock, Frame
from fieldloop_contract.profile import StreamProfile
from fieldloop_ingestion.gate import check_against
from fieldloop_ingestion.source import Sink
from fieldloop_runtime.clock import Now

FLOAT32_MAX = 3.4028234663852886e38


@dataclass(frozen=True, slots=True)
class Refused:
    """Something that never became a frame, and why."""

    code: str
    reason: str
    excerpt: bytes = b""


Piece = Frame | Refused


@dataclass(frozen=True, slots=True)
class Instant:
    """When the first row of a block was taken, by both clocks."""

    t0_ns: int
    mono_ns: int
    boot: str
    clock: Clock

    @classmethod
    def of(cls, now: Now, t0_ns: int | None = None) -> Instant:
        """The instant `t0_ns` (now, if None), with the monotonic time that belongs to it."""
        if t0_ns is None:
            t0_ns = now.utc_ns
        return cls(t0_ns, max(now.mono_ns + t0_ns - now.utc_ns, 0), now.boot, now.clock)

    def later(self, by_ns: int) -> Instant:
        """The instant `by_ns` after this one."""
        return Instant(self.t0_ns + by_ns, self.mono_ns + by_ns, self.boot, self.clock)


def same_channels(stream: StreamProfile, filled: Iterable[str]) -> None:
    """Check that a source fills just the channels of its stream.

    Raises:
        FixConfiguration: it does not.
    """
    names, found = {channel.name for channel in stream.channels}, set(filled)
    if names != found:
        raise FixConfiguration(
            f"{sorted(found)} are filled, stream {stream.id} has {sorted(names)}",
            code="source.channels",
        )


def pack(values: Sequence[float]) -> bytes:
    """Numbers as little-endian float32; beyond the range of float32 they become infinite."""
    packed = array("f", values)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def samples_max(channels: int) -> int:
    """Rows that a frame of so many channels may have."""
    return min(FRAME_SAMPLES_MAX, FRAME_BYTES_MAX // (FLOAT_BYTES * channels))


def frames_of(stream: StreamProfile, values: Sequence[float], at: Instant) -> Iterator[Piece]:
    """Frames of rows that follow each other at the stream's rate.

    Args:
        values: rows one after the other, each with a number for each channel of the stream.
        at: when the first row was taken.

    Yields:
        Frames that pass `gate.check_against`, and what was refused, in order of time.
    """
    channels = len(stream.channels)
    most = samples_max(channels)
    rows = len(values) // channels
    for first in range(0, rows, most):
        block = values[first * channels : (first + most) * channels]
        yield from _block(stream, block, at.later(_offset_ns(first, stream.rate_hz)))


def _block(stream: StreamProfile, values: Sequence[float], at: Instant) -> Iterator[Piece]:
    frame = _frame(stream, values, at)
    try:
        yield check_against(frame, stream)
        return
    except WrongStream as error:
        whole = Refused(error.code, str(error), frame.samples[:128])
    channels = len(stream.channels)
    rows = len(values) // channels
    faults = [row_fault(stream, values[i * channels : (i + 1) * channels]) for i in range(rows)]
    if not any(faults):
        yield whole  # the time or the rate: no row of it can be saved
        return
    begun: int | None = None
    for i, fault in enumerate([*faults, ("", "")]):
        if fault is None:
            begun = i if begun is None else begun
            continue
        if begun is not None:
            good = values[begun * channels : i * channels]
            yield from _block(stream, good, at.later(_offset_ns(begun, stream.rate_hz)))
            begun = None
        if fault[0]:
            row = values[i * channels : (i + 1) * channels]
            yield Refused(*fault, repr(list(row)).encode()[:128])


def row_fault(stream: StreamProfile, row: Sequence[float]) -> tuple[str, str] | None:
    """Code and reason where a row does not fit its stream; None where it does."""
    for channel, value in zip(stream.channels, row, strict=True):
        if not math.isfinite(value) or abs(value) > FLOAT32_MAX:
            return "reading.not-finite", f"{channel.name} is {value!r}"
        if channel.min is not None and value < channel.min:
            return "reading.range", f"{channel.name} {value:g} is below {channel.min:g}"
        if channel.max is not None and value > channel.max:
            return "reading.range", f"{channel.name} {value:g} is above {channel.max:g}"
    return None


def put(sink: Sink, piece: Piece) -> int | None:
    """Put a piece into the sink; its seq, or None where it was dead-lettered."""
    if isinstance(piece, Refused):
        sink.refuse(piece.code, piece.reason, piece.excerpt)
        return None
    return sink.frame(piece)


def _frame(stream: StreamProfile, values: Sequence[float], at: Instant) -> Frame:
    return Frame(
        stream=stream.id,
        t0_ns=at.t0_ns,
        mono_ns=at.mono_ns,
        boot=at.boot,
        clock=at.clock,
        rate_hz=stream.rate_hz,
        channels=len(stream.channels),
        samples=pack(values),
    )


def _offset_ns(rows: int, rate_hz: float) -> int:
    return round(rows * 1e9 / rate_hz)
