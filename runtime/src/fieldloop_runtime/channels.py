"""Tests what a client may publish, since MQTT 3.1.1 denies in silence.

A connection of its own in MQTT 5, whose acknowledgement of a publication carries a reason. What is
published is an empty message: on an up channel it means "a test", and nothing is made of it.
Subscriptions are named where the broker refuses them; mosquitto's access list grants every one and
denies the delivery, so what may be read shows only when something comes.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from fieldloop_contract.errors import RetryLater
from fieldloop_runtime.mqtt import QOS, tls_context
from fieldloop_runtime.settings import MqttSettings


@dataclass(slots=True)
class Verdict:
    """What a test of channels found.

    Attributes:
        refused: topic or filter to the broker's reason.
        heard: topics of which a retained message came.
    """

    refused: dict[str, str] = field(default_factory=dict)
    heard: set[str] = field(default_factory=set)


def try_channels(
    settings: MqttSettings,
    client_id: str,
    *,
    write: Sequence[str] = (),
    read: Sequence[str] = (),
    listen_s: float = 1.0,
    limit_s: float = 20.0,
) -> Verdict:
    """Publish an empty message to each of `write`, subscribe to each of `read`.

    Args:
        listen_s: how long retained messages are waited for.
        limit_s: for everything.

    Raises:
        RetryLater: no connection, or the broker did not answer in time; the message says why.
    """
    events: queue.Queue[tuple[str, Any]] = queue.Queue()
    client = paho.Client(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        protocol=paho.MQTTv5,
        reconnect_on_failure=False,
    )
    client.connect_timeout = settings.connect_timeout_s
    if settings.username:
        client.username_pw_set(settings.username, settings.password or None)
    tls = tls_context(settings)
    if tls is not None:
        client.tls_set_context(tls)
    client.on_connect = lambda _c, _u, _f, code, _p: events.put(("connected", code))
    client.on_disconnect = lambda _c, _u, _f, code, _p: events.put(("gone", code))
    client.on_publish = lambda _c, _u, mid, code, _p: events.put(("published", (mid, code)))
    client.on_subscribe = lambda _c, _u, mid, codes, _p: events.put(("subscribed", (mid, codes)))
    client.on_message = lambda _c, _u, message: events.put(("heard", message.topic))
    try:
        client.connect(settings.host, settings.port, settings.keepalive_s)
    except (OSError, ValueError) as error:
        raise RetryLater(
            f"{settings.host}:{settings.port}: {error}", code="mqtt.connect"
        ) from error
    client.loop_start()
    try:
        return _talk(client, events, write, read, listen_s, time.monotonic() + limit_s)
    finally:
        client.disconnect()
        client.loop_stop()


def _talk(
    client: paho.Client,
    events: queue.Queue[tuple[str, Any]],
    write: Sequence[str],
    read: Sequence[str],
    listen_s: float,
    deadline_s: float,
) -> Verdict:
    verdict = Verdict()
    waiting: dict[tuple[str, int], str] = {}
    quiet_until_s = deadline_s
    connected = False
    while True:
        now_s = time.monotonic()
        if connected and not waiting and now_s >= quiet_until_s:
            return verdict
        if now_s > deadline_s:
            raise RetryLater("the broker did not answer in time", code="mqtt.silent")
        try:
            kind, value = events.get(timeout=min(0.2, max(0.0, deadline_s - now_s) + 0.01))
        except queue.Empty:
            continue
        if kind == "connected":
            if value.is_failure:
                raise RetryLater(f"the broker refuses the connection: {value}", code="mqtt.refused")
            connected = True
            for topic in write:
                waiting["published", client.publish(topic, b"", QOS).mid] = topic
            for filter_ in read:
                waiting["subscribed", client.subscribe(filter_, QOS)[1] or 0] = filter_
            quiet_until_s = now_s + (listen_s if read else 0.0)
        elif kind == "gone":
            raise RetryLater(f"the broker ended the connection: {value}", code="mqtt.refused")
        elif kind == "heard":
            verdict.heard.add(value)
        else:
            mid, codes = value
            code: ReasonCode = codes[0] if isinstance(codes, list) else codes
            topic = waiting.pop((kind, mid), "")
            if code.is_failure:
                verdict.refused[topic] = str(code)
