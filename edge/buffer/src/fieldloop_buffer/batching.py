"""Rows to wire batches: grouped by epoch and channel, encoded within the contract's bound. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from fieldloop_buffer.outbox import Letter
from fieldloop_buffer.payload import unpack_frame
from fieldloop_buffer.ranges import Range, runs
from fieldloop_contract.batch import (
    BATCH_BYTES_MAX,
    SequencedFrame,
    SequencedRow,
    encode_frames,
    encode_rows,
)
from fieldloop_contract.errors import LimitExceeded, MalformedMessage

CBOR_CHANNELS = ("frames", "samples")


@dataclass(frozen=True, slots=True)
class Encoded:
    """A batch ready to be published."""

    epoch_no: int
    channel: str
    seqs: list[Range]
    payload: bytes


@dataclass(slots=True)
class Encoding:
    """What became of some rows: batches, and by epoch number the seqs of damaged rows."""

    batches: list[Encoded] = field(default_factory=list)
    damaged: dict[int, list[int]] = field(default_factory=dict)


def encode(letters: Sequence[Letter], epochs: dict[int, str], *, historical: bool) -> Encoding:
    """Encode rows. Their payloads together are taken to be near the size of one batch."""
    result = Encoding()
    groups: dict[tuple[int, str], list[Letter]] = {}
    for letter in letters:
        if letter.sound:
            groups.setdefault((letter.epoch_no, letter.channel), []).append(letter)
        else:
            result.damaged.setdefault(letter.epoch_no, []).append(letter.seq)
    for (no, channel), group in groups.items():
        _encode_group(result, epochs[no], no, channel, group, historical)
    return result


def _encode_group(
    result: Encoding, epoch: str, no: int, channel: str, group: list[Letter], historical: bool
) -> None:
    frames: list[SequencedFrame] = []
    rows: list[SequencedRow] = []
    whole: list[Letter] = []
    for letter in group:
        try:
            if channel in CBOR_CHANNELS:
                frames.append(SequencedFrame(letter.seq, unpack_frame(letter.payload)))
            else:
                rows.append(SequencedRow(letter.seq, _object(letter.payload)))
            whole.append(letter)
        except MalformedMessage:
            result.damaged.setdefault(no, []).append(letter.seq)
    if not whole:
        return
    try:
        payload = (
            encode_frames(epoch, frames, historical=historical)
            if frames
            else encode_rows(epoch, rows, historical=historical)
        )
        fits = len(payload) <= BATCH_BYTES_MAX
    except LimitExceeded:
        fits = False
    if fits:
        seqs = runs(letter.seq for letter in whole)
        result.batches.append(Encoded(no, channel, seqs, payload))
    elif len(whole) == 1:
        result.damaged.setdefault(no, []).append(whole[0].seq)
    else:
        half = len(whole) // 2
        _encode_group(result, epoch, no, channel, whole[:half], historical)
        _encode_group(result, epoch, no, channel, whole[half:], historical)


def _object(payload: bytes) -> dict[str, object]:
    try:
        document = json.loads(payload)
    except ValueError as error:
        raise MalformedMessage(f"not JSON: {error!s:.80}") from error
    if not isinstance(document, dict):
        raise MalformedMessage("not an object")
    return document
