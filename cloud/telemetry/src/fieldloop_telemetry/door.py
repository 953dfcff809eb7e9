"""The door: a message from the broker becomes rows, dead letters or presence, checked once, here.

Pure: bytes and a time in, a `Parcel` out; it raises nothing, whatever the bytes are. Identity is
taken from the topic alone. A row that is wrong is refused with its reason and its neighbours pass;
its seq is acknowledged all the same, because it will never be right and the store keeps the reason.
A batch of which not even the rows can be read is refused whole and acknowledges nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from fieldloop_contract import topics
from fieldloop_contract.batch import Refused, SequencedRow, decode_frames, decode_rows, load_json
from fieldloop_contract.errors import FieldloopError, LimitExceeded, MalformedMessage, Untrusted
from fieldloop_contract.frames import Clock
from fieldloop_contract.messages import (
    STATUS_BYTES_MAX,
    Annotation,
    Event,
    Reported,
    Result,
    Status,
    from_object,
)
from fieldloop_contract.topics import Topic
from fieldloop_store.labels import LABELS_SERVICE
from fieldloop_store.letters import LETTER_BYTES_MAX, Letter
from fieldloop_store.presence import Presence
from fieldloop_store.rows import (
    COLUMNS,
    LogKey,
    Row,
    annotation_row,
    canonical,
    event_row,
    frame_row,
    result_row,
)

_EPOCH_CHARACTERS = 32
_INT64_MAX = (1 << 63) - 1
_T1_AT, _CLOCK_AT = COLUMNS["frames"].index("t1_ns"), COLUMNS["frames"].index("clock")


@dataclass(slots=True)
class Parcel:
    """What came out of one message.

    Attributes:
        log: whose log; None where the topic itself is wrong.
        table: where `rows` belong.
        seqs: what may be acknowledged once this is committed.
        size: bytes of the message, for bounds.
        newest_ns: end of the newest live row by a clock that is in step; None where there is none.
    """

    log: LogKey | None = None
    table: str = ""
    rows: list[Row] = field(default_factory=list)
    seqs: list[int] = field(default_factory=list)
    letters: list[Letter] = field(default_factory=list)
    presence: Presence | None = None
    size: int = 0
    newest_ns: int | None = None


def admit(topic: str, payload: bytes, received_ns: int) -> Parcel:
    """Check one message."""
    parcel = Parcel(size=len(payload))
    try:
        parsed = topics.parse(topic)
    except FieldloopError:
        return parcel
    if not payload:
        return parcel  # somebody tests a channel (fieldloop_runtime.channels)
    parcel.log = LogKey(parsed.fleet, parsed.device, parsed.service, "")
    try:
        _read(parcel, parsed, payload, received_ns)
    except FieldloopError as error:
        _refuse_whole(parcel, parsed, payload, received_ns, error.code, str(error))
    except Exception as error:  # noqa: BLE001 - a stranger's bytes must never end the service
        reason = f"{type(error).__name__}: {error!s:.200}"
        _refuse_whole(parcel, parsed, payload, received_ns, "door.unexpected", reason)
    return parcel


def _refuse_whole(
    parcel: Parcel, topic: Topic, payload: bytes, received_ns: int, code: str, reason: str
) -> None:
    log = LogKey(topic.fleet, topic.device, topic.service, "")
    letter = Letter(log, topic.channel, 0, code, reason, payload, received_ns)
    parcel.log, parcel.presence, parcel.letters = log, None, [letter]
    parcel.rows, parcel.seqs = [], []


def _read(parcel: Parcel, topic: Topic, payload: bytes, received_ns: int) -> None:
    if topic.channel in ("frames", "samples"):
        _read_frames(parcel, topic, payload, received_ns)
    elif topic.channel in ("results", "events", "annotations"):
        _read_rows(parcel, topic, payload, received_ns)
    elif topic.channel in ("status", "reported"):
        message = _presence(topic.channel, payload)
        parcel.presence = Presence(topic.fleet, topic.device, topic.service, message, received_ns)
    else:
        raise MalformedMessage(f"nothing goes up on {topic.channel}", code="door.channel")


def _log(topic: Topic, epoch: str) -> LogKey:
    if len(epoch) != _EPOCH_CHARACTERS:
        raise MalformedMessage(f"an epoch of {len(epoch)} characters", code="batch.epoch")
    return LogKey(topic.fleet, topic.device, topic.service, epoch)


def _read_frames(parcel: Parcel, topic: Topic, payload: bytes, received_ns: int) -> None:
    batch = decode_frames(payload)
    log = _log(topic, batch.epoch)
    parcel.log, parcel.table = log, topic.channel
    for item in batch.rows:
        try:
            if len(item.frame.boot) != _EPOCH_CHARACTERS:
                raise MalformedMessage("a boot id that is not 32 digits", code="batch.boots")
            parcel.rows.append(frame_row(log, item, received_ns))
            parcel.seqs.append(item.seq)
        except FieldloopError as error:
            _refuse(parcel, topic, Refused(item.seq, error.code, str(error)), b"", received_ns)
    if not batch.historical:
        live = (row[_T1_AT] for row in parcel.rows if row[_CLOCK_AT] == Clock.SYNCHRONISED)
        parcel.newest_ns = max(live, default=None)
    for refused in batch.refused:
        _refuse(parcel, topic, refused, b"", received_ns)


def _read_rows(parcel: Parcel, topic: Topic, payload: bytes, received_ns: int) -> None:
    batch = decode_rows(payload)
    log = _log(topic, batch.epoch)
    parcel.log, parcel.table = log, topic.channel
    for item in batch.rows:
        try:
            parcel.rows.append(_row(log, topic, item, received_ns))
            parcel.seqs.append(item.seq)
        except (FieldloopError, ValueError, OverflowError, RecursionError) as error:
            code = error.code if isinstance(error, FieldloopError) else "door.unexpected"
            shown = json.dumps(item.row, default=str)[:LETTER_BYTES_MAX].encode()
            _refuse(parcel, topic, Refused(item.seq, code, str(error)), shown, received_ns)
    for refused in batch.refused:
        _refuse(parcel, topic, refused, b"", received_ns)


def _row(log: LogKey, topic: Topic, item: SequencedRow, received_ns: int) -> Row:
    if topic.channel == "results":
        result = from_object(Result, item.row)
        return result_row(log, item.seq, result, item.row, received_ns)
    if topic.channel == "events":
        event = from_object(Event, item.row)
        return event_row(log, item.seq, event, item.row, received_ns)
    note = from_object(Annotation, item.row)
    if note.device != topic.device and topic.service != LABELS_SERVICE:
        raise Untrusted(
            f"{topic.device}/{topic.service} labels {note.device}",
            code="annotation.stranger",
            hint=f"only a service called {LABELS_SERVICE!r} may label other devices",
        )
    return annotation_row(log, item.seq, note, item.row, received_ns)


def _refuse(
    parcel: Parcel, topic: Topic, refused: Refused, payload: bytes, received_ns: int
) -> None:
    assert parcel.log is not None
    seq = refused.seq or 0
    if seq:
        parcel.seqs.append(seq)
    parcel.letters.append(
        Letter(parcel.log, topic.channel, seq, refused.code, refused.reason, payload, received_ns)
    )


def _presence(channel: str, payload: bytes) -> Status | Reported:
    document: Any = load_json(payload, STATUS_BYTES_MAX)
    if channel == "status":
        message: Status | Reported = from_object(Status, document)
    else:
        message = from_object(Reported, document)
        for totals in message.ledgers:
            counts = (totals.produced, totals.stored, totals.pending, totals.withheld)
            if max(*counts, *totals.dropped.values()) > _INT64_MAX:
                raise LimitExceeded("a count beyond int64", code="reported.count")
    canonical(document)
    return message
