"""What a log holds: kinds of entries, an entry on its way in, a row on its way out, a cursor.

Pure values; any thread.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from fieldloop_contract.errors import MalformedMessage
from fieldloop_contract.ids import EPOCH_PATTERN

PAYLOAD_BYTES_MAX = 200 * 1024
"""A row with its header fits into one batch (256 KiB); a frame has at most 192 KiB."""
SEQ_BITS = 44
SEQ_MAX = (1 << SEQ_BITS) - 1
_CURSOR = re.compile(EPOCH_PATTERN[1:-1] + r"/[0-9]{1,15}\Z")


class Kind(StrEnum):
    """What an entry is."""

    FRAME = "frame"
    RESULT = "result"
    EVENT = "event"
    ANNOTATION = "annotation"
    SAMPLE = "sample"

    __hash__ = str.__hash__  # that of Enum is Python code, and each row looks its code up


CHANNEL_OF: dict[Kind, str] = {
    Kind.FRAME: "frames",
    Kind.RESULT: "results",
    Kind.EVENT: "events",
    Kind.ANNOTATION: "annotations",
    Kind.SAMPLE: "samples",
}
"""The wire channel of each kind."""

CODE_OF: dict[Kind, int] = {kind: code for code, kind in enumerate(Kind, start=1)}
KIND_OF: dict[int, Kind] = {code: kind for kind, code in CODE_OF.items()}
"""How a kind is written in the file. Codes are never reused."""

BULK = (Kind.FRAME, Kind.SAMPLE)
"""Raw data: dropped before anything else is, and sent in CBOR rather than JSON."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is to be appended.

    Attributes:
        stream: id of the stream it belongs to, or of the service for events without one.
        t_ns: UTC in ns as the device believes; informs, never orders.
        payload: `pack_frame(frame)` for FRAME and SAMPLE; otherwise the row's compact JSON object,
            without `seq`.
        withheld: kept here and never sent, by the uplink policy of its stream.
    """

    kind: Kind
    stream: str
    t_ns: int
    payload: bytes
    withheld: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """An entry with its place: known in the whole system by (device, service, epoch, seq)."""

    epoch: str
    seq: int
    kind: Kind
    stream: str
    t_ns: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last row that a reader has seen.

    >>> Cursor.parse(str(Cursor("0" * 32, 7))).seq
    7
    """

    epoch: str
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}/{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Read what `str` wrote.

        Raises:
            MalformedMessage: it is something else.
        """
        if not _CURSOR.match(text):
            raise MalformedMessage(f"{text!r:.80} is not a cursor", code="log.cursor")
        epoch, seq = text.split("/")
        return cls(epoch, int(seq))


def row_id(epoch_no: int, seq: int) -> int:
    """The key of a row in the file: epochs one after the other, rows by seq within each.

    One integer key orders the whole log, needs no second index, and makes spans of rows spans of
    integers.
    """
    return epoch_no << SEQ_BITS | seq


def split_id(key: int) -> tuple[int, int]:
    """Epoch number and seq of a key.

    >>> split_id(row_id(3, 9))
    (3, 9)
    """
    return key >> SEQ_BITS, key & SEQ_MAX
