"""Rows as the store keeps them: tuples in the column order of their table, with a digest.

The digest is over what the row says, not over when it came, so that the same row sent twice is the
same, and a cloned log shows. Pure; any thread.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Table

from fieldloop_contract.batch import SequencedFrame, encode_frames
from fieldloop_contract.errors import MalformedMessage, WrongStream
from fieldloop_contract.frames import T_NS_MAX, Clock, Frame
from fieldloop_contract.messages import Annotation, Event, Result
from fieldloop_store import schema

DIGEST_BYTES = 8
Row = tuple[Any, ...]

LOG_TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        schema.frames,
        schema.samples,
        schema.results,
        schema.events,
        schema.annotations,
    )
}
"""Tables of rows that come from a device's log, in the order in which they are always written."""
COLUMNS: dict[str, tuple[str, ...]] = {n: tuple(t.columns.keys()) for n, t in LOG_TABLES.items()}
DIGEST_AT: dict[str, int] = {n: c.index("digest") for n, c in COLUMNS.items()}
FRAME_COLUMNS = (
    "stream", "t0_ns", "mono_ns", "boot", "clock", "rate_hz", "channels", "samples",
    "planned_pause",
)  # fmt: skip
_FRAME_HEAD = struct.Struct("<qqdH")


@dataclass(frozen=True, slots=True)
class LogKey:
    """Which log: fleet, device and service from the topic, epoch from the batch."""

    fleet: str
    device: str
    service: str
    epoch: str


def digest(*parts: bytes) -> bytes:
    """8 bytes of BLAKE2b over the parts, each preceded by its length."""
    framed = b"".join([piece for p in parts for piece in (len(p).to_bytes(4, "little"), p)])
    return hashlib.blake2b(framed, digest_size=DIGEST_BYTES).digest()


def frame_row(log: LogKey, item: SequencedFrame, received_ns: int) -> Row:
    """A row of `frames` or `samples`. Raises WrongStream where the frame ends after int64 ns."""
    f = item.frame
    try:
        t1_ns = f.t1_ns
    except OverflowError:
        t1_ns = T_NS_MAX + 1
    if t1_ns > T_NS_MAX:
        raise WrongStream("a frame that ends beyond time", code="frame.time")
    head = _FRAME_HEAD.pack(f.t0_ns, f.mono_ns, f.rate_hz, f.channels)
    # A word more only where it is set: rows of the first release keep their digests.
    pause = " planned-pause" if f.planned_pause else ""
    names = f"{f.stream} {f.boot} {f.clock.value}{pause}".encode()
    return (
        log.fleet, log.device, log.service, log.epoch, item.seq, f.stream, f.t0_ns, t1_ns,
        f.mono_ns, f.boot, f.clock.value, f.rate_hz, f.channels, f.samples,
        f.planned_pause, digest(head, names, f.samples), received_ns,
    )  # fmt: skip


def canonical(document: dict[str, Any]) -> str:
    """The document as JSON with sorted keys.

    Raises:
        MalformedMessage: it holds what a database cannot: NaN, infinity, half of a surrogate pair,
            or the character NUL.
    """
    try:
        text = json.dumps(
            document, separators=(",", ":"), sort_keys=True, allow_nan=False, ensure_ascii=False
        )
        text.encode()
    except (ValueError, UnicodeEncodeError) as error:
        raise MalformedMessage(f"cannot be stored: {error!s:.80}", code="json.value") from error
    if "\\u0000" in text and _has_nul(document):
        raise MalformedMessage("a text with the character NUL", code="json.value")
    return text


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any("\0" in key or _has_nul(item) for key, item in value.items())
    return isinstance(value, list) and any(_has_nul(item) for item in value)


def result_row(
    log: LogKey, seq: int, result: Result, document: dict[str, Any], received_ns: int
) -> Row:
    """A row of `results`; `document` is the object as it came, kept whole."""
    text = canonical(document)
    return (
        log.fleet, log.device, log.service, log.epoch, seq, result.stream, result.slot,
        result.role, result.t0_ns, result.t1_ns, result.model.name, result.model.version,
        result.model.digest, result.label, result.score, result.latency_us, result.valid, text,
        digest(text.encode()), received_ns,
    )  # fmt: skip


def event_row(
    log: LogKey, seq: int, event: Event, document: dict[str, Any], received_ns: int
) -> Row:
    """A row of `events`."""
    text = canonical(document)
    return (
        log.fleet, log.device, log.service, log.epoch, seq, event.type, event.time, text,
        digest(text.encode()), received_ns,
    )  # fmt: skip


def annotation_row(
    log: LogKey, seq: int, note: Annotation, document: dict[str, Any], received_ns: int
) -> Row:
    """A row of `annotations`."""
    text = canonical(document)
    return (
        log.fleet, log.device, log.service, log.epoch, seq, note.device, note.stream, note.t0_ns,
        note.t1_ns, note.label, note.annotator, note.confidence, text, digest(text.encode()),
        received_ns,
    )  # fmt: skip


def frame_of(values: Sequence[Any]) -> Frame:
    """A frame from the columns `FRAME_COLUMNS`, in their order."""
    stream, t0_ns, mono_ns, boot, clock, rate_hz, channels, samples, pause = values
    return Frame(
        stream,
        t0_ns,
        mono_ns,
        boot,
        Clock(clock),
        rate_hz,
        channels,
        bytes(samples),
        planned_pause=bool(pause),
    )


def content(table: str, row: Row) -> bytes:
    """What a row said, in the form in which a device sends it: CBOR batch or JSON object."""
    named = dict(zip(COLUMNS[table], row, strict=True))
    if table in ("frames", "samples"):
        frame = frame_of([named[name] for name in FRAME_COLUMNS])
        return encode_frames(named["epoch"], [SequencedFrame(named["seq"], frame)])
    return str(named["document"]).encode()
