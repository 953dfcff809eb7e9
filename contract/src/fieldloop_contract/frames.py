"""Frames: a contiguous block of a stream's samples, and their bytes.

Samples are held as little-endian float32, row-major `[n, channels]`, in physical units, oldest
first: the form in which they are stored, sent and read by numpy, without numpy being needed here.
"""

from __future__ import annotations

import math
import sys
from array import array
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from fieldloop_contract.errors import LimitExceeded, WrongStream

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CHANNELS_MAX = 64
FRAME_SAMPLES_MAX = 49_152
FRAME_BYTES_MAX = 192 * 1024
RATE_HZ_MAX = 1e6
T_NS_MAX = (1 << 63) - 1
FLOAT_BYTES = 4


class Clock(StrEnum):
    """What the device knew of its clock when the frame was taken.

    `unknown`: never set since boot (a Pi without RTC starts in 1970). `synchronised`: disciplined
    by NTP or another source. `held`: set once, now running by itself.
    """

    UNKNOWN = "unknown"
    SYNCHRONISED = "synchronised"
    HELD = "held"


@dataclass(frozen=True, slots=True)
class Frame:
    """A contiguous block of one stream.

    Attributes:
        stream: id of the stream.
        t0_ns: UTC of the first sample in ns, as the device believed.
        mono_ns: monotonic clock of the boot in ns when the first sample was taken.
        boot: id of the boot, 32 hex digits.
        clock: state of the clock.
        rate_hz: nominal sample rate in Hz.
        channels: number of channels.
        samples: float32[n, channels], little-endian, row-major, physical units.
        planned_pause: the stream's capture schedule paused before this frame, so that the time
            between it and the one before is no gap.
    """

    stream: str
    t0_ns: int
    mono_ns: int
    boot: str
    clock: Clock
    rate_hz: float
    channels: int
    samples: bytes
    planned_pause: bool = False

    @property
    def n(self) -> int:
        """Number of samples (rows)."""
        return len(self.samples) // (FLOAT_BYTES * self.channels)

    @property
    def t1_ns(self) -> int:
        """UTC in ns of the instant after the last sample: `t0 + n / rate`."""
        return self.t0_ns + round(self.n * 1e9 / self.rate_hz)

    def array(self) -> NDArray[np.float32]:
        """The samples as a read-only float32[n, channels] view. Needs numpy."""
        import numpy as np  # noqa: PLC0415 - ingestion does without numpy

        return np.frombuffer(self.samples, dtype="<f4").reshape(-1, self.channels)


def samples_array(samples: bytes) -> array[float]:
    """The samples as a flat array of float32 in the machine's byte order."""
    values = array("f")
    values.frombytes(samples)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def all_finite(samples: bytes) -> bool:
    """Whether no sample is NaN or infinite.

    A sum in double of at most 2**20 float32 cannot overflow, and is finite only if every term is.
    """
    return math.isfinite(sum(samples_array(samples)))


def check_frame(frame: Frame) -> Frame:
    """Check what holds for every frame, whatever its stream.

    Raises:
        LimitExceeded: more channels, samples or bytes than the contract allows.
        WrongStream: empty or ragged samples, a rate that is not positive, NaN or infinity, a time
            outside int64.
    """
    if not 1 <= frame.channels <= CHANNELS_MAX:
        raise LimitExceeded(f"{frame.channels} channels", hint=f"1 to {CHANNELS_MAX} are allowed")
    if len(frame.samples) > FRAME_BYTES_MAX:
        raise LimitExceeded(
            f"a frame of {len(frame.samples)} bytes", hint=f"{FRAME_BYTES_MAX} are allowed"
        )
    if not frame.samples or len(frame.samples) % (FLOAT_BYTES * frame.channels):
        raise WrongStream(
            f"{len(frame.samples)} bytes are not whole rows of {frame.channels} float32",
            code="frame.ragged",
        )
    if frame.n > FRAME_SAMPLES_MAX:
        raise LimitExceeded(f"{frame.n} samples", hint=f"{FRAME_SAMPLES_MAX} are allowed")
    if not (0 < frame.rate_hz <= RATE_HZ_MAX):
        raise WrongStream(f"a sample rate of {frame.rate_hz} Hz", code="frame.rate")
    if not (0 <= frame.t0_ns <= T_NS_MAX and 0 <= frame.mono_ns <= T_NS_MAX):
        raise WrongStream(f"a time of {frame.t0_ns} ns", code="frame.time")
    if not all_finite(frame.samples):
        raise WrongStream("a sample that is not finite", code="frame.not-finite")
    return frame
