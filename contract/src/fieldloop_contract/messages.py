"""Messages in JSON: what each channel carries, as pydantic models.

Readers keep unknown fields (`extra="allow"`), so that a newer sender loses nothing on the way
through an older reader. Writers fill in only what is declared here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fieldloop_contract import CONTRACT_VERSION
from fieldloop_contract.batch import dump_json, load_json
from fieldloop_contract.errors import MalformedMessage
from fieldloop_contract.ids import Epoch, Id, Sha256, Text

RANGES_MAX = 1_000
STATUS_BYTES_MAX = 64 * 1024

Seq = Annotated[int, Field(ge=1, le=(1 << 63) - 1)]
TimeNs = Annotated[int, Field(ge=0, le=(1 << 63) - 1)]
Count = Annotated[int, Field(ge=0)]
Policy = Literal["drop_oldest", "drop_newest", "decimate"]
"""What goes when a log is full."""
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Message(BaseModel):
    """Base of all messages: frozen, keeps what it does not know."""

    model_config = ConfigDict(frozen=True, extra="allow", ser_json_inf_nan="constants")

    def encode(self) -> bytes:
        """The message as compact UTF-8 JSON, without fields that are None."""
        return dump_json(self.model_dump(mode="json", exclude_none=True))


MessageT = TypeVar("MessageT", bound=BaseModel)


def decode(model: type[MessageT], payload: bytes, bytes_max: int = STATUS_BYTES_MAX) -> MessageT:
    """Parse and check one message from the wire.

    Raises:
        LimitExceeded, MalformedMessage: with the first three faults in words.
    """
    return from_object(model, load_json(payload, bytes_max))


def from_object(model: type[MessageT], document: Any) -> MessageT:
    """Check one parsed message; MalformedMessage names the first three faults."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise MalformedMessage(
            f"{model.__name__}: {describe(error)}", code="message.invalid"
        ) from error


def describe(error: ValidationError, most: int = 3) -> str:
    """The first faults of a validation, each as `where: what`."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    shown = "; ".join(
        f"{'.'.join(str(p) for p in f['loc']) or 'document'}: {f['msg']}" for f in faults[:most]
    )
    rest = len(faults) - most
    return shown + (f"; and {rest} more" if rest > 0 else "")


class SeqRanges(Message):
    """Base of `ack` and `want`: inclusive ranges of seq within one epoch."""

    v: Literal[1] = CONTRACT_VERSION
    epoch: Epoch
    ranges: list[tuple[Seq, Seq]] = Field(max_length=RANGES_MAX)

    @model_validator(mode="after")
    def _ordered(self) -> SeqRanges:
        if any(first > last for first, last in self.ranges):
            raise ValueError("a range ends before it begins")
        return self


class Ack(SeqRanges):
    """What the cloud has committed to its own store; only this empties the device's accounts."""


class Want(SeqRanges):
    """What the cloud asks for again, after a restore from backup."""


class Annotation(Message):
    """A label of a span of a stream's time: by a person, a machine, or the data's own truth.

    `device` is whom it speaks of, which for a desk is another than the sender. `t0_ns` is
    inclusive, `t1_ns` exclusive, in the time base of the frames. `unknown` is not `normal`.
    """

    device: Id
    stream: Id
    t0_ns: TimeNs
    t1_ns: TimeNs
    label: Text
    annotator: Text = ""
    confidence: Annotated[float, Field(ge=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _forward(self) -> Annotation:
        if self.t1_ns <= self.t0_ns:
            raise ValueError("an annotation ends after it begins")
        return self


class ModelRef(Message):
    """Which model: name, monotonic version, sha256 of its manifest."""

    name: Id
    version: Annotated[int, Field(ge=1, le=(1 << 53))]
    digest: Sha256


class Result(Message):
    """What one model said of one window.

    `epoch`, `seq_first`, `seq_last` name the log rows the window was cut from. Probabilities and
    scores are dequantized; values carry the unit that the manifest states. `alarm` is the slot's
    alarm after this window. `running` is absent where the model does not tell running from idle; a
    window that is not running is evidence for nothing.
    """

    stream: Id
    slot: Id
    role: Literal["active", "shadow"] = "active"
    t0_ns: TimeNs
    t1_ns: TimeNs
    epoch: Epoch
    seq_first: Seq
    seq_last: Seq
    model: ModelRef
    task: Literal["classification", "anomaly", "regression"]
    label: Text | None = None
    probabilities: dict[str, Finite] | None = None
    score: Finite | None = None
    alarm: bool | None = None
    values: dict[str, Finite] | None = None
    latency_us: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    valid: bool = True
    calibration: Sha256 | None = None
    running: bool | None = None
    regime: Text | None = None


class Event(Message):
    """What happened, as CloudEvents 1.0; `source` is `fleet/device/service`."""

    specversion: Literal["1.0"] = "1.0"
    id: Text
    source: Text
    type: Annotated[str, Field(pattern=r"^[a-z0-9]+([.-][a-z0-9]+)*$", max_length=80)]
    time: Text
    datacontenttype: Literal["application/json"] = "application/json"
    data: dict[str, Any] = Field(default_factory=dict)


class LedgerTotals(Message):
    """The books of one log and epoch: produced = stored + pending + withheld + dropped.

    `stored` counts rows that the cloud acknowledged. Drops are by cause.
    """

    epoch: Epoch
    produced: Count
    stored: Count
    pending: Count
    withheld: Count
    dropped: dict[str, Count] = Field(default_factory=dict)

    @property
    def balanced(self) -> bool:
        """Whether the books balance."""
        accounted = self.stored + self.pending + self.withheld + sum(self.dropped.values())
        return self.produced == accounted


class Backlog(Message):
    """What waits for the cloud, and what becomes of it at the rates of the last minutes.

    `drain_h` is absent while the backlog does not shrink, `drops_in_h` while it does not grow.
    """

    rows: Count
    bytes: Count
    drain_h: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    drops_in_h: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


class StreamState(Message):
    """One stream as the device sees it."""

    stream: Id
    channels: list[str] = Field(max_length=64)
    units: list[str] = Field(max_length=64)
    rate_hz: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    samples: Count = 0


class SlotState(Message):
    """One slot: its state, the model that serves and the one on its way."""

    slot: Id
    state: Text
    active: ModelRef | None = None
    candidate: ModelRef | None = None
    previous: ModelRef | None = None
    reason: str = Field(default="", max_length=500)
    counts: dict[str, Count] = Field(default_factory=dict)
    latency_us: dict[str, Finite] = Field(default_factory=dict)
    document_version: Count = 0


class Reported(Message):
    """Retained: what a service is and has, republished whenever it changes.

    `profile` is the digest of the profile in force, where it came in an order.
    """

    v: Literal[1] = CONTRACT_VERSION
    session: Text
    ledgers: list[LedgerTotals] = Field(default_factory=list, max_length=64)
    streams: list[StreamState] = Field(default_factory=list, max_length=256)
    slots: list[SlotState] = Field(default_factory=list, max_length=64)
    counters: dict[str, Count] = Field(default_factory=dict)
    backlog: Backlog | None = None
    profile: Sha256 | None = None


class Capability(Message):
    """What a device can run, for the gate in the cloud and again on the device.

    `ops` are operator versions, where the device knows them; 0 and empty stand for "not known".
    """

    runtime: Text = ""
    runtime_version: Text = ""
    delegates: list[Text] = Field(default_factory=list, max_length=16)
    machine: Text = ""
    python: Text = ""
    memory_bytes: Count = 0
    disk_free_bytes: Count = 0
    ops: dict[str, Count] = Field(default_factory=dict, max_length=1_000)
    input_streams: list[StreamState] = Field(default_factory=list, max_length=256)


class Status(Message):
    """Retained, with a last will: online or offline, and of which session.

    A will of a session other than the last one that came online is out of date and is ignored.
    """

    v: Literal[1] = CONTRACT_VERSION
    state: Literal["online", "offline"]
    session: Text
    versions: dict[str, str] = Field(default_factory=dict)
    capability: Capability | None = None
