"""The device's own broker: newest result and alarm of each slot, retained, for a PLC or a lamp.

Owner thread only; it hands messages to a `Session` of its own, which connects by itself. Works
whether or not the cloud's broker can be reached. Retained topics, all at QoS 1:

    local/{device}/inference/status          {"state":"online"} or, also as last will, "offline"
    local/{device}/inference/{slot}/result   the newest result row of the active model
    local/{device}/inference/{slot}/alarm    {"slot","alarm","stream","t_ns"}

Nothing is shown that a power cut could take: a row is published once it is durable. Between two of
them rows are passed over, since only the newest counts; this is no stream of results. A broker that
comes back without its memory is told everything again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final, Protocol

from fieldloop_contract.errors import RetryLater
from fieldloop_contract.ids import check_id
from fieldloop_runtime.mqtt import Connected, Session, Will

ROOT: Final = "local"
EVENTS_PER_TURN: Final = 50


class Broker(Protocol):
    """What is asked of a session."""

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        """Hand over a message, or raise RetryLater."""


@dataclass(slots=True)
class _Retained:
    """One retained topic: what shall be there, and what waits to become durable.

    Two places are enough: `held` waits for the watermark, `newest` takes its place when it has
    passed, so that a row becomes visible however fast others follow.
    """

    held: tuple[int, bytes] | None = None
    newest: tuple[int, bytes] | None = None
    shown: bytes | None = None
    sent: bool = True

    def put(self, seq: int, payload: bytes) -> None:
        # A seq that goes back is another epoch's: the old row is beyond any watermark to come.
        if self.held is None or seq <= self.held[0]:
            self.held, self.newest = (seq, payload), None
        else:
            self.newest = (seq, payload)

    def ripen(self, durable_seq: int) -> None:
        """Take what has become durable."""
        while self.held is not None and self.held[0] <= durable_seq:
            payload = self.held[1]
            self.held, self.newest = self.newest, None
            if payload != self.shown:
                self.shown, self.sent = payload, False


class Outlet:
    """Publishes to the local broker. Owner thread only."""

    def __init__(self, device: str, service: str, broker: Broker) -> None:
        self.published = 0
        self._root = f"{ROOT}/{check_id(device, 'device')}/{service}"
        self._broker = broker
        self._topics: dict[str, _Retained] = {}

    def result(self, slot: str, seq: int, payload: bytes) -> None:
        """The newest result of a slot."""
        self._put(f"{slot}/result", seq, payload)

    def alarm(self, slot: str, seq: int, *, alarm: bool, stream: str, t_ns: int) -> None:
        """The alarm of a slot as of the row `seq`.

        Args:
            t_ns: of the window that raised or cleared it; 0 where none did.
        """
        document = {"slot": slot, "alarm": alarm, "stream": stream, "t_ns": t_ns}
        payload = json.dumps(document, separators=(",", ":")).encode()
        self._put(f"{slot}/alarm", seq, payload)

    def _put(self, topic: str, seq: int, payload: bytes) -> None:
        self._topics.setdefault(topic, _Retained()).put(seq, payload)

    def connected(self) -> None:
        """The broker may have forgotten everything."""
        for retained in self._topics.values():
            retained.sent = retained.shown is None

    def step(self, durable_seq: int) -> None:
        """Publish what has become durable; what cannot be sent is sent later, or replaced."""
        for topic, retained in self._topics.items():
            retained.ripen(durable_seq)
            if retained.sent or retained.shown is None:
                continue
            try:
                self._broker.publish(f"{self._root}/{topic}", retained.shown, retain=True)
            except RetryLater:
                return
            retained.sent = True
            self.published += 1


def status(device: str, service: str, state: str) -> Will:
    """The status message; as last will with state "offline"."""
    topic = f"{ROOT}/{check_id(device, 'device')}/{service}/status"
    return Will(topic, json.dumps({"state": state}, separators=(",", ":")).encode())


def listen(session: Session, outlet: Outlet, device: str, service: str) -> None:
    """Take what the session has to say: after each connection everything is told again."""
    for _ in range(EVENTS_PER_TURN):
        event = session.poll()
        if event is None:
            return
        if isinstance(event, Connected):
            online = status(device, service, "online")
            try:
                session.publish(online.topic, online.payload, retain=True)
            except RetryLater:
                continue  # it went again; the next connection tells
            outlet.connected()
