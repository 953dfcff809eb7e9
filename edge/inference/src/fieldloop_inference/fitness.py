"""Whether a model fits the device's streams, as far as the input log tells. Reads the log."""

from __future__ import annotations

from collections.abc import Mapping

from fieldloop_buffer import STREAM_STATE, Kind, Reader, unpack_frame
from fieldloop_contract.errors import FixConfiguration, MalformedMessage
from fieldloop_contract.feeding import check_alignment, check_rate, check_stream
from fieldloop_contract.manifest import Input, Manifest
from fieldloop_contract.messages import StreamState, decode


def unfit(manifest: Manifest, reader: Reader, streams: Mapping[str, str]) -> str:
    """Why a model cannot run on this device's streams, or "".

    Args:
        streams: by source (`Input.sources`), as the order maps them; without one, its own name.
    """
    try:
        check_alignment(manifest.inputs)
        for spec in manifest.inputs:
            for source, columns in spec.sources().items():
                _check(spec, source, len(columns), streams.get(source, source), reader)
    except FixConfiguration as error:
        return str(error)
    return ""


def _check(spec: Input, source: str, width: int, stream: str, reader: Reader) -> None:
    """Raise FixConfiguration where a stream cannot feed an input.

    Names and units are those that ingestion declares; where it says nothing, its newest frame is
    judged, and where there is none, the feed says so when frames come.
    """
    declared = _declared(stream, reader)
    if declared is not None:
        try:
            check_stream(spec, declared.channels, declared.units, declared.rate_hz, source)
        except FixConfiguration as error:
            raise FixConfiguration(f"stream {stream}: {error}", code=error.code) from error
        return
    chunk = reader.read(None, kinds=(Kind.FRAME,), streams=(stream,), limit=1)
    if not chunk.rows:
        return
    frame = unpack_frame(chunk.rows[-1].payload)
    if frame.channels != width:
        raise FixConfiguration(
            f"the model takes {width} channels, stream {stream} gives {frame.channels}",
            code="slot.channels",
        )
    try:
        check_rate(spec, frame.rate_hz)
    except FixConfiguration as error:
        raise FixConfiguration(f"stream {stream}: {error}", code=error.code) from error


def _declared(stream: str, reader: Reader) -> StreamState | None:
    try:
        text = reader.state(STREAM_STATE + stream)
        state = decode(StreamState, text.encode()) if text else None
    except MalformedMessage:
        return None
    return state if state is not None and len(state.channels) == len(state.units) else None
