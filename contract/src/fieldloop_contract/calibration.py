"""The calibration record: what is normal for one machine under one model. Immutable.

A record is a pure function of log rows: the cloud can compute it again from the results that it
names. Its digest is in every result that it judged; another record is another digest.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fieldloop_contract import CONTRACT_VERSION
from fieldloop_contract.ids import Epoch, Id, Sha256, Text
from fieldloop_contract.manifest import sha256
from fieldloop_contract.messages import Count, Finite, Message, ModelRef, Seq, TimeNs, decode

RECORD_BYTES_MAX = 64 * 1024


class Calibration(Message):
    """Scores of the running windows of one slot, and the threshold that follows from them.

    The rows are the valid results of running windows of `slot` and `model` (role `active`) whose
    windows lie between the row `seq_first` and the row `seq_last` of the input log's `epoch` (at
    the end `epoch_last`), both inclusive; there are `windows` of them. `centre` is their median,
    `scale` 1.4826 times the median absolute deviation, `scores` counts them by logarithmic bin.

    A record that the cloud made says by which `method`, over which rows it passed (`excluded`,
    spans of time), and the `figures` that the threshold follows from; in one that a device made by
    itself these are absent.

    With `derived_from`, the digest of another model's record, the model had not served yet: it was
    given the retained frames of that record's rows, from the frame `seq_first` on.
    """

    v: Literal[1] = CONTRACT_VERSION
    fleet: Id
    device: Id
    slot: Id
    stream: Id
    machine: Text = ""
    model: ModelRef
    epoch: Epoch
    seq_first: Seq
    epoch_last: Epoch
    seq_last: Seq
    t0_ns: TimeNs
    t1_ns: TimeNs
    windows: Annotated[int, Field(ge=1, le=100_000)]
    centre: Finite
    scale: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    threshold: Finite
    scores: dict[Text, Count] = Field(default_factory=dict, max_length=200)
    regime: Text | None = None
    method: Text | None = None
    excluded: list[tuple[TimeNs, TimeNs]] | None = Field(default=None, max_length=100)
    figures: dict[Text, Finite] | None = Field(default=None, max_length=32)
    derived_from: Sha256 | None = None

    def digest(self) -> str:
        """sha256 of the encoded record: its identity."""
        return sha256(self.encode())


def parse_calibration(payload: bytes) -> Calibration:
    """Parse a record.

    Raises:
        LimitExceeded, MalformedMessage: it is too long or not a record.
    """
    return decode(Calibration, payload, RECORD_BYTES_MAX)
