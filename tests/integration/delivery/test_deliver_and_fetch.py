"""Delivery and a device over a real broker that is killed, wiped and attacked on the way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fieldloop_contract.manifest import MODEL_FILE, sha256
from fieldloop_contract.topics import blob_filter, blob_topic, meta_filter
from support.broker import Mosquitto
from support.delivering import DeliveryProcess, Onlooker, UpdateDevice, blobs, wait_for
from support.signed import FLEET, bundle, chunks


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    server = Mosquitto(tmp_path / "broker").start()
    yield server
    server.kill()


@pytest.fixture
def made() -> Iterator[list[Any]]:
    """Everything to be ended after a test."""
    things: list[Any] = []
    yield things
    for thing in reversed(things):
        getattr(thing, "close", getattr(thing, "kill", None))()


def make_delivery(made: list[Any], folder: Path, broker: Mosquitto, **slot: Any) -> DeliveryProcess:
    slots = [{"model": "activity", "streams": {"imu": "imu"}, **slot}]
    delivery = DeliveryProcess(folder / "delivery", broker.port, slots=slots)
    made.append(delivery)
    return delivery


def make_device(made: list[Any], folder: Path, delivery: Any, name: str, **k: Any) -> UpdateDevice:
    device = UpdateDevice(folder / name, delivery, name, **k)
    made.append(device)
    return device


def test_first_model_reaches_a_device_and_then_the_fleet(tmp_path, broker, made):
    delivery = make_delivery(made, tmp_path, broker, waves=[{"count": 1}, {"percent": 100}])
    one = delivery.register(1)
    for name in ("pump-1", "pump-2"):
        delivery.online(name)
    delivery.start()
    devices = {n: make_device(made, tmp_path, delivery, n).start() for n in ("pump-1", "pump-2")}
    first = wait_for(
        lambda: next((n for n, d in devices.items() if d.said("ready")), None), 30, "first wave"
    )
    other = next(n for n in devices if n != first)
    assert devices[first].file(one, MODEL_FILE) == bundle(1)[1][MODEL_FILE]
    time.sleep(1.0)
    assert not devices[other].said("ordered"), "silence passed a wave"
    delivery.online(first, active=one, state="ACTIVE")
    time.sleep(0.6)
    assert not devices[other].said("ordered"), "an installation without windows passed a wave"
    delivery.windows(first, one, 20)
    devices[other].ready(1)
    delivery.online(other, active=one, state="ACTIVE")
    delivery.windows(other, one, 20)
    row = delivery.wait_rollout(1, "completed")
    assert [w["passed"] for w in row.document["waves"]] == [True, True]
    assert row.document["figures"]["windows"] == 40
    delivery.online("pump-3")
    late = make_device(made, tmp_path, delivery, "pump-3").start()
    late.ready(1)
    assert delivery.stop() == 0


def test_version_that_fails_is_taken_back_and_cleared_from_the_broker(tmp_path, broker, made):
    delivery = make_delivery(made, tmp_path, broker, waves=[{"count": 1}, {"percent": 100}])
    one = delivery.register(1)
    delivery.online("pump-1", active=one, state="ACTIVE")
    delivery.start()
    delivery.wait_rollout(1, "running")
    wait_for(lambda: delivery.order_version("pump-1"), what="order")
    delivery.windows("pump-1", one, 20)
    delivery.wait_rollout(1, "completed")
    two = delivery.register(2)
    wait_for(lambda: delivery.order_version("pump-1") == 2, what="second order")
    eye = Onlooker(broker.port, blob_filter(FLEET))
    made.append(eye)
    both = set(chunks(*bundle(1))) | set(chunks(*bundle(2)))
    wait_for(lambda: blobs(eye.look()) == both, what="chunks of both")
    delivery.event("pump-1", "model.rolled-back", model=two.model_dump(), reason="crashed")
    row = delivery.wait_rollout(2, "halted")
    assert "pump-1: model.rolled-back: crashed" in row.document["verdict"]
    wait_for(lambda: delivery.order_version("pump-1") == 3, what="order to go back")
    wait_for(lambda: blobs(eye.look()) == set(chunks(*bundle(1))), what="clearing")
    time.sleep(1.0)
    assert delivery.order_version("pump-1") == 3, "the same order was sent twice"


def test_recalled_version_is_taken_from_all(tmp_path, broker, made):
    delivery = make_delivery(made, tmp_path, broker, waves=[{"percent": 100}])
    one = delivery.register(1)
    delivery.online("pump-1", active=one, state="ACTIVE")
    delivery.start()
    wait_for(lambda: delivery.order_version("pump-1"), what="order")
    delivery.windows("pump-1", one, 20)
    delivery.wait_rollout(1, "completed")
    device = make_device(made, tmp_path, delivery, "pump-1").start()
    device.ready(1)
    delivery.recall(1)
    wait_for(lambda: len(device.said("ordered")) == 2, what="the recall")
    assert not [r for r in device.said("refused") if r["code"].startswith("desired")]


def test_broker_wiped_in_the_middle_of_a_download(tmp_path, broker, made):
    delivery = make_delivery(made, tmp_path, broker)
    one = delivery.register(1, size=1_000_000)
    delivery.online("pump-1")
    delivery.start()
    device = make_device(made, tmp_path, delivery, "pump-1", chunk_delay_s=0.05).start()
    wait_for(lambda: device.chunks_on_disk() > 3, what="some chunks")
    broker.kill()
    broker.start()
    said = device.ready(1, 40)
    assert device.file(one, MODEL_FILE) == bundle(1, size=1_000_000)[1][MODEL_FILE]
    assert said["update.chunks"] <= len(chunks(*bundle(1, size=1_000_000))) + 1


def test_device_killed_in_the_middle_goes_on_where_it_was(tmp_path, broker, made):
    delivery = make_delivery(made, tmp_path, broker)
    one = delivery.register(1, size=1_000_000)
    delivery.online("pump-1")
    delivery.start()
    device = make_device(made, tmp_path, delivery, "pump-1", chunk_delay_s=0.05).start()
    wait_for(lambda: device.chunks_on_disk() > 8, what="some chunks")
    device.kill()
    had = device.chunks_on_disk()
    device.start()
    said = device.ready(1, 40)
    total = len(chunks(*bundle(1, size=1_000_000)))
    assert said["update.chunks"] <= total - had + 1, "what was there was fetched again"
    assert device.file(one, MODEL_FILE) == bundle(1, size=1_000_000)[1][MODEL_FILE]


def test_attacker_on_the_chunk_topics_changes_nothing(tmp_path, broker, made):
    """Flipped, truncated, swapped and repeated chunks, live and retained, until it is done."""
    delivery = make_delivery(made, tmp_path, broker)
    manifest, files = bundle(1, size=600_000)
    honest = chunks(manifest, files)
    one = delivery.register(1, size=600_000)
    delivery.online("pump-1")
    delivery.start()
    device = make_device(made, tmp_path, delivery, "pump-1", chunk_delay_s=0.05).start()
    attacker = Onlooker(broker.port)
    made.append(attacker)
    wait_for(lambda: device.chunks_on_disk() > 2, what="some chunks")
    digests = list(honest)
    for index, digest in enumerate(digests):
        data = honest[digest]
        other = honest[digests[index - 1]]
        wrong = [bytes([data[0] ^ 1]) + data[1:], data[:-1], other, data, data]
        for payload in wrong[: 3 if index % 2 else 5]:
            attacker.publish(blob_topic(FLEET, digest), payload)
    told: set[str] = set()

    def relay() -> bool:
        # What a service's log and telemetry do: the device's complaint becomes an event.
        for line in device.said("missing"):
            new = [c for c in line["chunks"] if c not in told]
            told.update(new)
            if new:
                delivery.event("pump-1", "chunk.missing", chunks=new)
        return bool(device.said("ready"))

    wait_for(relay, 40, "the download")
    assert device.file(one, MODEL_FILE) == files[MODEL_FILE]
    assert [r for r in device.said("refused") if r["code"] == "chunk.damaged"]


def test_killed_delivery_goes_on_and_orders_nothing_twice(tmp_path, broker, made):
    delivery = make_delivery(made, tmp_path, broker, waves=[{"count": 1}, {"percent": 100}])
    one = delivery.register(1)
    for name in ("pump-1", "pump-2", "pump-3"):
        delivery.online(name)
    delivery.start()
    first = wait_for(
        lambda: next(
            (n for n in ("pump-1", "pump-2", "pump-3") if delivery.order_version(n)), None
        ),
        what="first order",
    )
    delivery.kill()
    delivery.online(first, active=one, state="ACTIVE")
    delivery.windows(first, one, 20)
    delivery.start()
    wait_for(lambda: delivery.order_version("pump-2") and delivery.order_version("pump-3"))
    delivery.kill()
    delivery.start()
    for name in ("pump-1", "pump-2", "pump-3"):
        delivery.online(name, active=one, state="ACTIVE")
        delivery.windows(name, one, 20)
    delivery.wait_rollout(1, "completed")
    assert [delivery.order_version(n) for n in ("pump-1", "pump-2", "pump-3")] == [1, 1, 1]


def test_strangers_metadata_is_replaced_and_leftovers_are_cleared(tmp_path, broker, made):
    attacker = Onlooker(broker.port)
    made.append(attacker)
    stray = sha256(b"stray")
    attacker.publish(f"{meta_filter(FLEET)[:-1]}timestamp.json", b"{}")
    attacker.publish(f"{meta_filter(FLEET)[:-1]}9.snapshot.json", b"{}")
    attacker.publish(blob_topic(FLEET, stray), b"stray")
    time.sleep(0.3)
    delivery = make_delivery(made, tmp_path, broker)
    delivery.start()
    eye = Onlooker(broker.port, meta_filter(FLEET), blob_filter(FLEET))
    made.append(eye)
    metadata = delivery.folder / "fleet" / "metadata"
    expected = {
        f"{meta_filter(FLEET)[:-1]}{path.name}": path.read_bytes() for path in metadata.iterdir()
    }
    wait_for(lambda: eye.look() == expected, 15, "a clean broker")
