"""One MQTT connection that a service's owner loop reads from: the only use of paho-mqtt.

paho's thread puts immutable events on a bounded queue and does nothing else; its callbacks never
raise. A supervising thread connects, waits, and connects again with full jitter, each time with a
new paho client, so that nothing that paho queued in memory survives a connection: what is sent
again is decided by the owner, from its log. Certificates are read anew for each connection, since
they are renewed while a service runs. `publish` while offline is refused, not queued.

`Connected` comes after the broker has granted all subscriptions. MQTT says nothing where an access
list denies a publication; so "sent" never means "arrived", and only the cloud's `ack` counts.

With `manual_ack` the broker is told "received" only when the owner calls `acknowledge`, and with
`durable` it keeps the session while this client is away, and sends again what was not acknowledged.
"""

from __future__ import annotations

import contextlib
import queue
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from fieldloop_contract.errors import FixConfiguration, RetryLater
from fieldloop_runtime.backoff import full_jitter
from fieldloop_runtime.journal import Journal, Throttle
from fieldloop_runtime.link import LinkMeter, wire_bytes
from fieldloop_runtime.settings import MqttSettings

QOS = 1
SESSION_EXPIRY_S = 0xFFFF_FFFF
"""MQTT 5, 3.1.2.11.2: the session of a durable client does not expire."""
MESSAGE_BYTES_MAX = 1 << 20
_PUT_TIMEOUT_S = 5.0
SUBSCRIBE_TIMEOUT_S = 15.0
STABLE_AFTER_S = 10.0
_CONNECT_BYTES, _TLS_BYTES, _PING_BYTES = 600, 6_000, 108
_POLL_S = 0.25


@dataclass(frozen=True, slots=True)
class Connected:
    """Connected, and every subscription granted (or named in `refused`)."""

    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection ended, or could not be made; it is being tried again."""

    reason: str


@dataclass(frozen=True, slots=True)
class Received:
    """A message.

    Attributes:
        token: what `acknowledge` takes; None where nothing is to be acknowledged.
        packet_id: of the delivery; kept when the broker sends a message again. 0 at QoS 0.
        repeated: the broker has tried to deliver this message before (DUP).
        mono_ns: monotonic time of receipt.
    """

    topic: str
    payload: bytes
    retained: bool
    token: int | None = None
    packet_id: int = 0
    repeated: bool = False
    mono_ns: int = 0


@dataclass(frozen=True, slots=True)
class Published:
    """The broker took the publication with this token; it says nothing about the cloud."""

    token: int


Event = Connected | Disconnected | Received | Published


@dataclass(frozen=True, slots=True)
class Will:
    """Published, retained, by the broker when this client is gone without a goodbye."""

    topic: str
    payload: bytes


@dataclass(slots=True)
class Link:
    """One connection: when it began, whether it was granted, whether and why it ended."""

    begun_s: float
    number: int = 0
    granted: threading.Event = field(default_factory=threading.Event)
    gone: threading.Event = field(default_factory=threading.Event)
    reason: str = "stopped"

    def end(self, reason: str) -> None:
        """Mark it as ended; the first reason stays."""
        if not self.gone.is_set():
            self.reason = reason
            self.gone.set()


class Session:
    """A supervised MQTT connection.

    One owner thread calls `poll`; any thread may call `publish`, `subscribe`, `unsubscribe`.

    Args:
        client_id: unique at the broker; a second client with it would throw this one out.
        subscriptions: filters (re)subscribed on every connection, at QoS 1.
        will: last will.
        confirm: whether `Published` events are wanted.
        durable: the broker keeps subscriptions and undelivered messages while this client is away;
            what an earlier run subscribed to and this one does not is for the owner to unsubscribe.
        manual_ack: messages are acknowledged by `acknowledge` only. One that finds the queue full
            ends the connection, so that it comes again; none is dropped.
        seed: of the jitter; None for a random one.
        meter: counts what crosses the link.
    """

    def __init__(
        self,
        settings: MqttSettings,
        client_id: str,
        *,
        subscriptions: Iterable[str] = (),
        will: Will | None = None,
        confirm: bool = False,
        durable: bool = False,
        manual_ack: bool = False,
        seed: int | None = None,
        meter: LinkMeter | None = None,
    ) -> None:
        self.dropped = 0
        self.connections = 0
        self.bytes_sent = 0
        self.bytes_received = 0
        self._meter = meter
        self._settings = settings
        self._client_id = client_id
        self._filters: dict[str, None] = dict.fromkeys(subscriptions)
        self._will = will
        self._confirm = confirm
        self._durable = durable
        self._manual_ack = manual_ack
        self._links = 0
        self._random = Random(seed)
        self._events: queue.Queue[Event] = queue.Queue(settings.queue_max)
        self._journal = Journal("mqtt")
        self._noise = Throttle(60)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._client: paho.Client | None = None
        self._ready = False
        self._thread: threading.Thread | None = None
        tls_context(settings)  # wrong files are a fault of the configuration, and said at once

    @property
    def connected(self) -> bool:
        """Whether the broker has granted the subscriptions of the current connection."""
        return self._ready

    @property
    def alive(self) -> bool:
        """Whether the supervising thread lives; if not, the process should end."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Begin connecting; returns at once."""
        self._thread = threading.Thread(target=self._supervise, name="mqtt", daemon=True)
        self._thread.start()

    def stop(self, goodbye: Will | None = None, timeout_s: float = 3.0) -> None:
        """Disconnect for good, after publishing `goodbye` retained, if connected."""
        if goodbye is not None and self._ready:
            with self._lock:
                client = self._client
            if client is not None:
                with contextlib.suppress(ValueError, RuntimeError):
                    info = client.publish(goodbye.topic, goodbye.payload, QOS, retain=True)
                    info.wait_for_publish(timeout_s)
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout_s + 2)

    def poll(self, timeout_s: float = 0.0) -> Event | None:
        """The next event, or None after `timeout_s`."""
        try:
            return self._events.get(block=timeout_s > 0, timeout=timeout_s or None)
        except queue.Empty:
            return None

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        """Hand a message to the broker at QoS 1.

        Returns:
            A token that `Published` carries when the broker took it.

        Raises:
            RetryLater: not connected, or too many messages in flight.
        """
        if len(payload) > MESSAGE_BYTES_MAX:
            raise ValueError(f"a message of {len(payload)} bytes")
        with self._lock:
            client = self._client
            if client is None or not self._ready:
                raise RetryLater("not connected to the broker", code="mqtt.offline")
            info = client.publish(topic, payload, QOS, retain=retain)
        if info.rc == paho.MQTT_ERR_QUEUE_SIZE:
            raise RetryLater("too many messages in flight", code="mqtt.window")
        if info.rc != paho.MQTT_ERR_SUCCESS:
            raise RetryLater(f"not sent: {paho.error_string(info.rc)}", code="mqtt.offline")
        self.bytes_sent += len(payload) + len(topic)
        self._spend(wire_bytes(len(payload) + len(topic)))
        return info.mid

    def acknowledge(self, token: int) -> bool:
        """Tell the broker that a message is safe, with `manual_ack`. Any thread.

        Returns:
            Whether it was handed to the connection. False where the message came over an earlier
            connection: the broker sends it again.
        """
        number, packet_id = token >> 16, token & 0xFFFF
        with self._lock:
            if self._client is None or number != self._links:
                return False
            return self._client.ack(packet_id, QOS) == paho.MQTT_ERR_SUCCESS

    def subscribe(self, *filters: str) -> None:
        """Add filters, now and for later connections."""
        with self._lock:
            self._filters.update(dict.fromkeys(filters))
            if self._client is not None and self._ready and filters:
                self._client.subscribe(self._requests(filters))

    def unsubscribe(self, *filters: str) -> None:
        """Remove filters."""
        with self._lock:
            for item in filters:
                self._filters.pop(item, None)
            if self._client is not None and self._ready and filters:
                self._client.unsubscribe(list(filters))

    def _requests(self, filters: Iterable[str]) -> Any:
        if self._settings.protocol == "5":
            return [(f, SubscribeOptions(qos=QOS)) for f in filters]
        return [(f, QOS) for f in filters]

    def _supervise(self) -> None:
        attempt = 0
        while not self._stop.is_set():
            with self._lock:
                self._links += 1
                link = Link(begun_s=time.monotonic(), number=self._links)
            self._attempt(link)
            self._put(Disconnected(link.reason))
            if self._stop.is_set():
                return
            stable = link.granted.is_set() and time.monotonic() - link.begun_s > STABLE_AFTER_S
            attempt = 0 if stable else attempt + 1
            if self._noise.allow():
                self._journal.warning("mqtt.disconnected", reason=link.reason, attempt=attempt)
            base, cap = self._settings.reconnect_base_s, self._settings.reconnect_cap_s
            self._stop.wait(full_jitter(attempt, base, cap, self._random))

    def _attempt(self, link: Link) -> None:
        """One connection from beginning to end; `link.reason` says why it ended."""
        settings = self._settings
        client = self._dial(link)
        if client is None:
            return
        with self._lock:
            self._client = client
        client.loop_start()
        pinged_s = time.monotonic()
        self._spend(_TLS_BYTES if settings.ca_file else _CONNECT_BYTES)
        granted_by_s = link.begun_s + settings.connect_timeout_s + SUBSCRIBE_TIMEOUT_S
        while not self._stop.is_set() and not link.gone.wait(_POLL_S):
            if not link.granted.is_set() and time.monotonic() > granted_by_s:
                link.end("the broker did not answer in time")
            if time.monotonic() - pinged_s >= settings.keepalive_s:
                pinged_s = time.monotonic()
                self._spend(_PING_BYTES)
        with self._lock:
            self._client, self._ready = None, False
        client.disconnect()
        client.loop_stop()

    def _dial(self, link: Link) -> paho.Client | None:
        """Connect, and send CONNECT; None where that fails, and `link.reason` says why."""
        settings = self._settings
        try:
            client = self._make_client(link)
        except FixConfiguration as error:  # certificates are renewed in place; this one may be half
            link.reason = str(error)
            return None
        arguments: dict[str, Any] = {}
        if settings.protocol == "5":
            arguments = {
                "clean_start": not self._durable,
                "properties": _connect_properties(
                    durable=self._durable,
                    receive_max=settings.inflight_max if self._manual_ack else None,
                ),
            }
        try:
            client.connect(settings.host, settings.port, settings.keepalive_s, **arguments)
        except (OSError, ValueError) as error:
            link.reason = f"{type(error).__name__}: {error}"
            return None
        return client

    def _spend(self, size: int) -> None:
        if self._meter is not None:
            self._meter.spend(size)

    def _make_client(self, link: Link) -> paho.Client:
        settings = self._settings
        five = settings.protocol == "5"
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            clean_session=None if five else not self._durable,
            protocol=paho.MQTTv5 if five else paho.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=self._manual_ack,
        )
        client.connect_timeout = settings.connect_timeout_s
        client.max_inflight_messages_set(settings.inflight_max)
        client.max_queued_messages_set(settings.inflight_max * 4)
        if settings.username:
            client.username_pw_set(settings.username, settings.password or None)
        tls = tls_context(settings)
        if tls is not None:
            client.tls_set_context(tls)
        if self._will is not None:
            client.will_set(self._will.topic, self._will.payload, QOS, retain=True)
        self._set_callbacks(client, link)
        return client

    def _set_callbacks(self, client: paho.Client, link: Link) -> None:
        asked: list[str] = []

        def on_connect(c: paho.Client, _u: Any, _f: Any, code: ReasonCode, _p: Any) -> None:
            if code.is_failure:
                link.end(f"refused: {code}")
                return
            with self._lock:
                asked.extend(self._filters)
            if asked:
                c.subscribe(self._requests(asked))
            else:
                self._grant(link, ())

        def on_subscribe(
            _c: paho.Client, _u: Any, _mid: int, codes: list[ReasonCode], _p: Any
        ) -> None:
            if not link.granted.is_set():
                pairs = zip(asked, codes, strict=False)
                self._grant(link, tuple(f for f, code in pairs if code.is_failure))

        def on_message(_c: paho.Client, _u: Any, message: paho.MQTTMessage) -> None:
            self.bytes_received += len(message.payload) + len(message.topic)
            self._spend(wire_bytes(len(message.payload) + len(message.topic)))
            if self._manual_ack and link.gone.is_set():
                return  # it comes again, in order, over the next connection
            token = None
            if self._manual_ack and message.qos:
                token = link.number << 16 | message.mid
            received = Received(
                message.topic,
                bytes(message.payload),
                bool(message.retain),
                token,
                message.mid,
                bool(message.dup),
                time.monotonic_ns(),
            )
            if not self._put(received) and token is not None:
                link.end("the queue is full")

        def on_publish(_c: paho.Client, _u: Any, mid: int, _code: ReasonCode, _p: Any) -> None:
            if self._confirm:
                self._put(Published(mid))

        def on_disconnect(_c: paho.Client, _u: Any, _f: Any, code: ReasonCode, _p: Any) -> None:
            link.end(str(code))

        client.on_connect = self._guard(on_connect, link)
        client.on_subscribe = self._guard(on_subscribe, link)
        client.on_message = self._guard(on_message, link)
        client.on_publish = self._guard(on_publish, link)
        client.on_disconnect = self._guard(on_disconnect, link)

    def _grant(self, link: Link, refused: tuple[str, ...]) -> None:
        self.connections += 1
        self._ready = True
        link.granted.set()
        if refused:
            self._journal.error("mqtt.subscription_refused", filters=refused)
        self._put(Connected(refused))

    def _guard(self, callback: Callable[..., None], link: Link) -> Callable[..., None]:
        """An exception in a callback kills paho's thread while it looks connected: never let it."""

        def guarded(*arguments: Any) -> None:
            try:
                callback(*arguments)
            except Exception as error:  # noqa: BLE001 - logged, and the connection is made anew
                self._journal.error("mqtt.callback_failed", trace=True, error=str(error))
                link.end(f"callback failed: {error}")

        return guarded

    def _put(self, event: Event) -> bool:
        try:
            self._events.put(event, timeout=0 if self._stop.is_set() else _PUT_TIMEOUT_S)
            return True
        except (queue.Full, ValueError):
            self.dropped += 1
            if self._noise.allow():
                self._journal.error("mqtt.queue_full", dropped=self.dropped)
            return False


def tls_context(settings: MqttSettings) -> ssl.SSLContext | None:
    """TLS as the settings say; None where they name no authority.

    Raises:
        FixConfiguration: a file cannot be used.
    """
    if not settings.ca_file:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if settings.cert_file:
            context.load_cert_chain(settings.cert_file, settings.key_file or None)
    except (OSError, ssl.SSLError) as error:
        raise FixConfiguration(
            f"TLS files cannot be used: {error}",
            hint="check FIELDLOOP_MQTT_CA_FILE, _CERT_FILE, _KEY_FILE",
        ) from error
    return context


def _connect_properties(*, durable: bool, receive_max: int | None) -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    if durable:
        properties.SessionExpiryInterval = SESSION_EXPIRY_S
    if receive_max is not None:
        properties.ReceiveMaximum = receive_max
    return properties
