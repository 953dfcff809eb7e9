"""Whether a model fits the device's streams, as far as their newest rows tell. Reads the log."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fieldloop_buffer import Kind, Reader, unpack_frame
from fieldloop_contract.manifest import Input, Manifest


def unfit(manifest: Manifest, reader: Reader, streams: Mapping[str, str]) -> str:
    """Why a model cannot run on this device's streams, or "".

    Args:
        streams: by input, as the order maps them; without one, the input's own name.
    """
    if len(manifest.inputs) != 1:
        return f"the model takes {len(manifest.inputs)} streams, a slot feeds one"
    spec = manifest.inputs[0]
    return _misfit(spec, streams.get(spec.name, spec.name), reader)


def _misfit(spec: Input, stream: str, reader: Reader) -> str:
    chunk = reader.read(None, kinds=(Kind.FRAME,), streams=(stream,), limit=1)
    if not chunk.rows:
        return ""  # not known yet; the feed says so when frames come
    frame = unpack_frame(chunk.rows[-1].payload)
    if frame.channels != len(spec.channels):
        return (
            f"the model takes {len(spec.channels)} channels, stream {stream} gives {frame.channels}"
        )
    if not np.isclose(frame.rate_hz, spec.rate_hz, rtol=1e-6):
        return f"the model takes {spec.rate_hz:g} Hz, stream {stream} gives {frame.rate_hz:g} Hz"
    return ""
