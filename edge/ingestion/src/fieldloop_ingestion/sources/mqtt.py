"""MQTT: topics of a local broker, as JSON or SenML, acknowledged only after the commit.

    kind: mqtt
    topics: [sensors/pump/imu]
    json:
      fields: {ax: /acc/0, ay: /acc/1, az: /acc/2}
      time: {pointer: /ts, unit: ms}

The session at the broker is persistent and each message is acknowledged by hand: the loop says by
`committed` how far the log is on disk, and only what lies within is acknowledged. So a message sent
at QoS 1 waits at the broker while this service is down or its disk is full, within the broker's own
bound. The broker sends again what was not acknowledged; what was committed before is known by its
packet id and content, kept in the log's state, and not taken twice. QoS 0 promises nothing.

A message that cannot be used is dead-lettered with its reason and acknowledged: it would never be
right. Throughput is bounded by the broker's window of unacknowledged messages (mosquitto:
`max_inflight_messages`, 20 by default) in each commit.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fieldloop_contract.errors import FixConfiguration, RetryLater
from fieldloop_contract.ids import Text
from fieldloop_contract.profile import StreamProfile
from fieldloop_ingestion.source import Context, Sink
from fieldloop_ingestion.sources.framing import (
    Instant,
    Piece,
    Refused,
    frames_of,
    put,
    same_channels,
)
from fieldloop_ingestion.sources.jsonfields import JsonMapping, JsonReader, Reading
from fieldloop_ingestion.sources.senml import SenmlMapping, SenmlReader
from fieldloop_runtime.mqtt import Connected, Disconnected, Event, Received, Session
from fieldloop_runtime.settings import MqttSettings

MESSAGES_PER_POLL = 64
UNACKNOWLEDGED_MAX = 64
"""Messages taken and not acknowledged; as many are remembered, in a state of about 1 KiB."""
_POLL_S = 0.05
_KEY_CHARS = 12
_STOP_TIMEOUT_S = 1.0


class MqttOptions(BaseModel):
    """Options of an MQTT source."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    topics: list[Text] = Field(
        min_length=1, max_length=64, description="topic filters; + and # as in MQTT"
    )
    broker: MqttSettings = Field(
        default=MqttSettings(), description="how to reach the local broker"
    )
    password_file: str = Field(default="", description="file that holds the broker's password")
    client_id: str = Field(
        default="",
        max_length=128,
        description="unique at the broker and always the same; by default fieldloop-{source id}",
    )
    json_: JsonMapping | None = Field(
        default=None, alias="json", description="messages are JSON, read by pointers"
    )
    senml: SenmlMapping | None = Field(
        default=None, description="messages are SenML packs (RFC 8428)"
    )
    retained: Literal["ignore", "take"] = Field(
        default="ignore",
        description="retained messages come with each subscription and may be old",
    )
    message_bytes_max: Annotated[int, Field(ge=16, le=1 << 20)] = Field(
        default=256 * 1024, description="larger messages are dead-lettered"
    )

    @model_validator(mode="after")
    def _consistent(self) -> MqttOptions:
        if (self.json_ is None) == (self.senml is None):
            raise ValueError("either json or senml says how messages are read")
        for topic in self.topics:
            levels = topic.split("/")
            wild = [level for level in levels if "+" in level or "#" in level]
            if any(level not in ("+", "#") for level in wild) or "#" in levels[:-1]:
                raise ValueError(f"{topic!r:.60} is not a topic filter")
        return self


class Link(Protocol):
    """What of a `Session` is used."""

    @property
    def alive(self) -> bool: ...  # noqa: D102 - of Session
    def start(self) -> None: ...  # noqa: D102
    def stop(self, *, timeout_s: float) -> None: ...  # noqa: D102
    def poll(self) -> Event | None: ...  # noqa: D102
    def acknowledge(self, token: int) -> bool: ...  # noqa: D102
    def unsubscribe(self, *filters: str) -> None: ...  # noqa: D102


def connect(settings: MqttSettings, client_id: str, topics: Iterable[str]) -> Link:
    """A persistent session whose messages are acknowledged by hand."""
    return Session(settings, client_id, subscriptions=topics, durable=True, manual_ack=True)


@dataclass(slots=True)
class _Taken:
    """A message whose pieces are all in the log, perhaps not yet on disk."""

    key: str
    token: int
    epoch: str
    seq: int | None


@dataclass(slots=True)
class _Current:
    """A message on its way into the log."""

    key: str
    token: int | None
    pieces: Iterator[Piece]
    waiting: Piece | None = None
    done: int = 0
    epoch: str = ""
    seq: int | None = None


class MqttSource:
    """See the module."""

    Options: ClassVar[type[BaseModel]] = MqttOptions

    def __init__(
        self,
        options: MqttOptions,
        context: Context,
        link: Callable[[MqttSettings, str, Iterable[str]], Link] = connect,
    ) -> None:
        self.fault: str | None = None
        self._options = options
        self._context = context
        self.check(options, context.stream)
        self._read = _reader(options, context.stream)
        self._unacknowledged: deque[_Taken] = deque()
        self._current: _Current | None = None
        state = json.loads(context.recall("mqtt") or "{}")
        self._recent: deque[str] = deque(state.get("taken", []), UNACKNOWLEDGED_MAX)
        self._partial: tuple[str, int] = (state.get("partial", ""), state.get("pieces", 0))
        self._stale = [t for t in state.get("topics", []) if t not in options.topics]
        self._dirty = state.get("topics") != options.topics
        client_id = options.client_id or f"fieldloop-{context.id}"
        self._link: Link | None = link(_broker(options), client_id, options.topics)
        self._link.start()

    @classmethod
    def check(cls, options: MqttOptions, stream: StreamProfile) -> None:
        """Whether the options fit the stream.

        Raises:
            FixConfiguration: with what does not.
        """
        if options.json_ is not None:
            same_channels(stream, options.json_.fields)
        if options.senml is not None:
            same_channels(stream, options.senml.names)
            names = {channel.name for channel in stream.channels}
            if unknown := sorted(set(options.senml.units) - names):
                raise FixConfiguration(f"units name no channels: {unknown}")

    def poll(self, sink: Sink, now_s: float) -> float:  # noqa: ARG002 - of the protocol
        """Put at most `MESSAGES_PER_POLL` messages into the sink."""
        link = self._link
        if link is None:
            return _POLL_S
        if not link.alive:
            raise RetryLater("the thread of the connection has ended", code="mqtt.thread")
        self._acknowledge(self._refused_only())  # no watermark will ever speak of them
        try:
            for _ in range(MESSAGES_PER_POLL):
                if self._current is None:
                    if len(self._unacknowledged) >= UNACKNOWLEDGED_MAX:
                        return _POLL_S
                    event = link.poll()
                    if event is None:
                        return _POLL_S
                    self._take_event(link, event)
                if self._current is not None:
                    self._put(sink, self._current)
            return 0.0
        finally:
            self._remember(sink)

    def committed(self, epoch: str, seq: int) -> None:
        """Acknowledge what the log holds on disk: all up to `seq` of `epoch`, in order."""
        waiting = self._unacknowledged
        safe = 0
        for number, taken in enumerate(waiting, start=1):
            if taken.seq is None:
                # Nothing of it is in the log but a dead letter: it goes with what is before it.
                safe = number if safe == number - 1 else safe
            elif taken.epoch == epoch and taken.seq <= seq:
                safe = number  # and all before it, those of an earlier epoch too
        self._acknowledge(safe)

    def _refused_only(self) -> int:
        """How many messages at the head left nothing but dead letters, in an earlier turn."""
        found = 0
        for taken in self._unacknowledged:
            if taken.seq is not None:
                break
            found += 1
        return found

    def _acknowledge(self, n: int) -> None:
        for _ in range(n):
            taken = self._unacknowledged.popleft()
            if self._link is not None:
                self._link.acknowledge(taken.token)

    def close(self) -> None:
        """Disconnect. What was not acknowledged comes again."""
        link, self._link = self._link, None
        if link is not None:
            link.stop(timeout_s=_STOP_TIMEOUT_S)

    def _take_event(self, link: Link, event: Event) -> None:
        if isinstance(event, Disconnected):
            self.fault = f"no connection to the broker: {event.reason}"
        elif isinstance(event, Connected):
            refused = ", ".join(event.refused)
            self.fault = f"the broker refused {refused}" if refused else None
            if self._stale:
                link.unsubscribe(*self._stale)  # the broker would keep them for ever
                self._stale = []
        elif isinstance(event, Received):
            self._take_message(link, event)

    def _take_message(self, link: Link, message: Received) -> None:
        key = _key(message)
        if message.retained and self._options.retained == "ignore":
            if message.token is not None:
                link.acknowledge(message.token)
            return
        if message.repeated and message.token is not None and key in self._recent:
            for taken in self._unacknowledged:
                if taken.key == key:
                    taken.token = message.token  # to be acknowledged over the new connection
                    return
            link.acknowledge(message.token)
            return
        self._current = _Current(key, message.token, self._pieces(message))
        if message.repeated and self._partial[0] == key:
            for _ in range(self._partial[1]):
                _next(self._current.pieces)
                self._current.done += 1
        self._partial = ("", 0)

    def _pieces(self, message: Received) -> Iterator[Piece]:
        stream = self._context.stream
        now = self._context.clock()
        waited_ns = max(now.mono_ns - message.mono_ns, 0) if message.mono_ns else 0
        received_ns = now.utc_ns - waited_ns
        for item in self._read(message.payload, received_ns):
            if isinstance(item, Refused):
                yield item
                continue
            rows = len(item.values) // len(stream.channels)
            before_ns = round((rows - 1) * 1e9 / stream.rate_hz)
            if item.t_ns is None:
                t0_ns = received_ns - before_ns
            else:
                t0_ns = item.t_ns - (before_ns if item.of == "last" else 0)
            yield from frames_of(stream, item.values, Instant.of(now, t0_ns))

    def _put(self, sink: Sink, current: _Current) -> None:
        """Put the rest of a message into the sink; where it raises, the place in it is kept."""
        while True:
            if current.waiting is None:
                current.waiting = _next(current.pieces)
                if current.waiting is None:
                    break
            seq = put(sink, current.waiting)
            current.waiting = None
            current.done += 1
            self._dirty = True
            if seq is not None:
                current.seq, current.epoch = seq, sink.epoch
        self._current = None
        self._dirty = True
        if current.token is not None:
            self._recent.append(current.key)
            self._unacknowledged.append(
                _Taken(current.key, current.token, current.epoch, current.seq)
            )

    def _remember(self, sink: Sink) -> None:
        """Write what was taken, in the transaction of its rows."""
        if not self._dirty:
            return
        state: dict[str, Any] = {"topics": self._options.topics, "taken": list(self._recent)}
        if self._current is not None and self._current.done:
            state |= {"partial": self._current.key, "pieces": self._current.done}
        sink.remember("mqtt", json.dumps(state, separators=(",", ":")))
        self._dirty = False


def _next(pieces: Iterator[Piece]) -> Piece | None:
    """The next piece. A message on which the reader fails must not come for ever: it is refused."""
    try:
        return next(pieces, None)
    except Exception as error:  # noqa: BLE001 - the generator has ended; the message is done
        return Refused("reading.failed", f"{type(error).__name__}: {error!s:.200}")


def _key(message: Received) -> str:
    """Knows a delivery again: a broker keeps the packet id when it sends a message again."""
    head = f"{message.packet_id}\n{message.topic}\n".encode("utf-8", "surrogateescape")
    return hashlib.sha256(head + message.payload).hexdigest()[:_KEY_CHARS]


def _reader(
    options: MqttOptions, stream: StreamProfile
) -> Callable[[bytes, int], Iterator[Reading | Refused]]:
    channels = [(channel.name, channel.unit) for channel in stream.channels]
    bytes_max = options.message_bytes_max
    if options.json_ is not None:
        by_pointer = JsonReader(options.json_, [name for name, _ in channels])
        return lambda payload, _now_ns: by_pointer.read(payload, bytes_max)
    assert options.senml is not None  # one of the two is given
    packs = SenmlReader(options.senml, channels)
    return lambda payload, now_ns: packs.read(payload, bytes_max, now_ns)


def _broker(options: MqttOptions) -> MqttSettings:
    if not options.password_file:
        return options.broker
    try:
        password = Path(options.password_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise FixConfiguration(f"password_file cannot be read: {error}") from error
    return options.broker.model_copy(update={"password": password})
