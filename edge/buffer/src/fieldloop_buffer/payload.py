"""How a frame lies in the log: a little-endian header, the stream's id, the samples as they are.

    version u8, clock u8, channels u16, rate_hz f64, t0_ns i64, mono_ns i64, boot 16 bytes,
    length of the stream's id u8, the id in ASCII, samples float32[n, channels]

The clock's highest bit says that a planned pause came before the frame.

Pure; any thread. Samples are copied once and never parsed, so that numpy is not needed.
"""

from __future__ import annotations

import struct
import zlib

from fieldloop_contract.errors import MalformedMessage
from fieldloop_contract.frames import FLOAT_BYTES, Clock, Frame

VERSION = 1
_HEADER = struct.Struct("<BBHdqq16sB")
_CLOCKS = (Clock.UNKNOWN, Clock.SYNCHRONISED, Clock.HELD)
_PLANNED_PAUSE = 0x80
_KEY = struct.Struct("<qBqB")


def pack_frame(frame: Frame) -> bytes:
    """The bytes of a checked frame."""
    stream = frame.stream.encode("ascii")
    header = _HEADER.pack(
        VERSION,
        _CLOCKS.index(frame.clock) | (_PLANNED_PAUSE if frame.planned_pause else 0),
        frame.channels,
        frame.rate_hz,
        frame.t0_ns,
        frame.mono_ns,
        bytes.fromhex(frame.boot),
        len(stream),
    )
    return b"".join((header, stream, frame.samples))


def unpack_frame(payload: bytes) -> Frame:
    """The frame that `pack_frame` was given.

    Raises:
        MalformedMessage: other bytes.
    """
    try:
        fields = _HEADER.unpack_from(payload)
        version, clock, channels, rate_hz, t0_ns, mono_ns, boot, length = fields
        at = _HEADER.size + length
        stream = payload[_HEADER.size : at].decode("ascii")
        samples = payload[at:]
        if version != VERSION or not channels or not stream:
            raise ValueError(f"version {version}")
        if not samples or len(samples) % (FLOAT_BYTES * channels):
            raise ValueError(f"{len(samples)} bytes of {channels} channels")
        return Frame(
            stream,
            t0_ns,
            mono_ns,
            boot.hex(),
            _CLOCKS[clock & ~_PLANNED_PAUSE],
            rate_hz,
            channels,
            samples,
            planned_pause=bool(clock & _PLANNED_PAUSE),
        )
    except (struct.error, ValueError, IndexError) as error:
        raise MalformedMessage(f"not a frame of a log: {error!s:.80}", code="log.frame") from error


def checksum(key: int, kind: int, t_ns: int, withheld: bool, payload: bytes) -> int:
    """CRC-32 of a row with its key. SQLite has no checksum of its pages."""
    return zlib.crc32(payload, zlib.crc32(_KEY.pack(key, kind, t_ns, withheld)))
