"""The MQTT source on a real mosquitto that is killed, and with the source killed under it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest

from fieldloop_contract.errors import RetryLater
from fieldloop_ingestion.source import Source
from fieldloop_ingestion.sources.mqtt import MqttOptions, MqttSource
from fieldloop_runtime.mqtt import Published, Session
from fieldloop_runtime.settings import MqttSettings
from support.broker import Mosquitto
from support.sources import (
    SUITE,
    Store,
    check_kills_neither_lose_nor_double,
    commit,
    context_of,
    poll,
    real_now,
    run_until,
    stream_of,
)

FAST = {"reconnect_base_s": 0.05, "reconnect_cap_s": 0.2}


class BrokerWorld:
    """A sensor that publishes two readings at a time at QoS 1, each time it is asked to."""

    endless = False

    def __init__(self, broker: Mosquitto, protocol: str) -> None:
        self.stream = stream_of("a", "b")
        self.broker = broker
        self.options = MqttOptions.model_validate(
            {
                "topics": ["t/+"],
                "broker": {
                    "host": "127.0.0.1", "port": broker.port, "protocol": protocol, **FAST
                },
                "json": {"fields": {"a": "/a", "b": "/b"}, "items": "/items"},
            }
        )  # fmt: skip
        self._rows: list[tuple[float, ...]] = []
        settings = MqttSettings(host="127.0.0.1", port=broker.port, **FAST)
        self._sensor = Session(settings, "sensor", confirm=True)
        self._sensor.start()
        self._links: list[Source] = []
        self.quiet = False

    def open(self, store: Store) -> Source:
        made = MqttSource(self.options, context_of(self.stream, real_now, store.recall))
        self._links.append(made)
        deadline_s = time.monotonic() + 10  # the first subscription makes the session
        while not made._link.connected and time.monotonic() < deadline_s:
            time.sleep(0.01)
        return made

    def step(self) -> float:
        time.sleep(0.003)
        if not self.quiet:
            self._publish()
        return time.monotonic()

    def _publish(self) -> None:
        value = float(len(self._rows) // 12)
        items = [{"a": value, "b": 1}, {"a": value, "b": 2}]
        deadline_s = time.monotonic() + 10
        while time.monotonic() < deadline_s:
            try:
                token = self._sensor.publish("t/1", json.dumps({"items": items}).encode())
            except RetryLater:
                time.sleep(0.01)
                continue
            while (event := self._sensor.poll(5)) is not None:
                if isinstance(event, Published) and event.token == token:
                    self._rows += [(value, 1.0), (value, 2.0)]
                    return
        raise AssertionError("the sensor could not publish")

    def rows(self) -> list[tuple[float, ...]]:
        return self._rows

    def killed(self) -> None:
        """What a kill does to a connection: it ends, and nothing more is said."""
        for source in self._links:
            source.close()
        self._links.clear()

    def end(self) -> None:
        self.killed()
        self._sensor.stop()


@pytest.fixture(params=["3.1.1", "5"])
def world(mosquitto: Mosquitto, request: pytest.FixtureRequest) -> Iterator[BrokerWorld]:
    made = BrokerWorld(mosquitto, request.param)
    yield made
    made.end()


@pytest.mark.parametrize("check", SUITE, ids=lambda check: check.__name__.removeprefix("check_"))
def test_mqtt(world: BrokerWorld, check: Callable[[BrokerWorld], None]):
    check(world)


@pytest.mark.parametrize("seed", [1, 2])
def test_kills_neither_lose_nor_double_a_reading(world: BrokerWorld, seed: int):
    check_kills_neither_lose_nor_double(world, seed, rounds=40)


def test_a_broker_that_was_away_is_found_again(world: BrokerWorld):
    store = Store(world.stream)
    source = world.open(store)
    run_until(world, source, store, 10)
    world.quiet = True
    world.broker.kill()
    deadline_s = time.monotonic() + 10
    while source.fault is None and time.monotonic() < deadline_s:
        poll(source, store, world.step())
        commit(source, store)
    assert "no connection" in (source.fault or "")
    world.broker.start()
    while not source._link.connected and time.monotonic() < deadline_s:
        poll(source, store, world.step())
    world.quiet = False
    run_until(world, source, store, len(store.rows()) + 10)
    assert source.fault is None


def test_messages_wait_at_the_broker_while_nothing_is_committed(world: BrokerWorld):
    store = Store(world.stream)
    source = world.open(store)
    for _ in range(30):
        poll(source, store, world.step())
    world.quiet = True
    time.sleep(0.2)
    poll(source, store, world.step())
    assert len(store.frames) == 40, "mosquitto sends 20 messages that are not acknowledged"
    run_until(world, source, store, 60)
    assert store.rows() == world.rows()
