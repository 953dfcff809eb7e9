"""A lamp beside the machine: results and alarms on the device's own broker, with no cloud."""

from __future__ import annotations

import json
import signal as signals
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fieldloop_contract.frames import Frame
from fieldloop_inference.slots import Phase
from fieldloop_runtime.mqtt import Received, Session
from fieldloop_runtime.settings import MqttSettings
from support.broker import Mosquitto
from support.bundles import frame, make_bundle
from support.device import DEVICE, Bench, InstantTrial
from support.inference_process import Process

TOPIC = f"local/{DEVICE}/inference"


def noise(level: float, count: int, first: int) -> list[Frame]:
    rng = np.random.default_rng(first)
    samples = rng.normal(0, level, (count, 16, 3)).astype(np.float32)
    return [frame(s, 10**18, 16 * (first + i)) for i, s in enumerate(samples)]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A device with a model that watches, and is quiet."""
    device = Bench(tmp_path, begin_trial=InstantTrial).open()
    device.put(noise(1.0, 20, 0))
    output = {"name": "residual", "kind": "reconstruction", "threshold": 0.03}
    bundle = make_bundle("autoencoder", task="anomaly", outputs=[output])
    device.source.order(device.source.add(*bundle))
    device.until(Phase.ACTIVE)
    device.idle()
    device.close()
    yield device
    device.input.close()


class Lamp:
    """A client of the local broker that remembers what it saw last."""

    def __init__(self, port: int) -> None:
        self.seen: dict[str, Any] = {}
        self.session = Session(
            MqttSettings(port=port, reconnect_base_s=0.1, reconnect_cap_s=0.2),
            "lamp",
            subscriptions=[f"{TOPIC}/#"],
        )
        self.session.start()

    def until(self, condition: Callable[[dict[str, Any]], bool], timeout_s: float = 40.0) -> None:
        end_s = time.monotonic() + timeout_s
        while time.monotonic() < end_s:
            event = self.session.poll(0.2)
            if isinstance(event, Received):
                self.seen[event.topic.removeprefix(f"{TOPIC}/")] = json.loads(event.payload)
            if condition(self.seen):
                return
        raise AssertionError(f"the lamp saw only {self.seen}")


def test_the_lamp_sees_alarms_while_the_cloud_is_gone(
    bench: Bench, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    own = Mosquitto(tmp_path / "own").start()
    lamp = Lamp(own.port)
    settings = {
        "FIELDLOOP_LOCAL_MQTT_HOST": "127.0.0.1",
        "FIELDLOOP_LOCAL_MQTT_PORT": str(own.port),
        "FIELDLOOP_LOCAL_MQTT_RECONNECT_BASE_S": "0.1",
        "FIELDLOOP_LOCAL_MQTT_RECONNECT_CAP_S": "0.2",
    }
    service = Process(bench, mosquitto.port, **settings)
    try:
        lamp.until(lambda seen: seen.get("status") == {"state": "online"})
        lamp.until(lambda seen: seen.get("main/alarm", {}).get("alarm") is False)
        mosquitto.kill()
        bench.put(noise(4.0, 20, 20))
        lamp.until(lambda seen: seen["main/alarm"]["alarm"] is True)
        assert lamp.seen["main/alarm"]["t_ns"] >= 10**18
        lamp.until(lambda seen: seen.get("main/result", {}).get("alarm") is True)
        assert lamp.seen["main/result"]["model"]["name"] == "activity"
        # The local broker loses all it held, and is told again.
        own.kill()
        lamp.seen.clear()
        own.start()
        lamp.until(lambda seen: seen.get("main/alarm", {}).get("alarm") is True)
        lamp.until(lambda seen: {"main/result", "status"} <= set(seen))
        # Killed, the service can say nothing; its will does, and the alarm stands after it.
        service.end(signals.SIGKILL)
        lamp.until(lambda seen: seen["status"] == {"state": "offline"})
        service = Process(bench, mosquitto.port, **settings)
        lamp.until(lambda seen: seen["status"] == {"state": "online"})
        bench.put(noise(1.0, 20, 40))
        lamp.until(lambda seen: seen["main/alarm"]["alarm"] is False)
        assert service.end() is not None
        lamp.until(lambda seen: seen["status"] == {"state": "offline"})
    finally:
        service.process.kill()
        lamp.session.stop()
        own.kill()


def test_without_the_setting_there_is_no_second_connection(
    bench: Bench, mosquitto: Mosquitto
) -> None:
    lamp = Lamp(mosquitto.port)
    service = Process(bench, mosquitto.port)
    try:
        bench.put(noise(4.0, 20, 20))
        with pytest.raises(AssertionError):
            lamp.until(bool, timeout_s=4)
    finally:
        service.process.kill()
        service.process.wait()
        lamp.session.stop()
