"""A hostile device: harms nobody but itself, and ends nothing."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fieldloop_contract.messages import LedgerTotals, Reported, Status
from fieldloop_contract.topics import mosquitto_acl
from fieldloop_runtime.mqtt import Received, Session
from fieldloop_runtime.settings import MqttSettings
from fieldloop_store.engine import Store
from fieldloop_store.ingest import Intake, store_intake
from fieldloop_store.queries import device_services, frames_between
from fieldloop_telemetry.door import admit
from support.broker import Mosquitto
from support.telemetry import (
    EPOCH,
    Device,
    TelemetryProcess,
    annotation,
    count,
    event,
    frames,
    result,
    rows,
    wait_until,
)

LONG = os.environ.get("LONG_TESTS") == "1"
"""100,000 messages instead of the tenth part."""
_MUTATED = 100_000 if LONG else 10_000
_SENT = 3_000 if LONG else 1_000


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker with the contract's access list."""
    made = Mosquitto(tmp_path / "broker", acl=mosquitto_acl("demo")).start()
    yield made
    made.kill()


def client(port: int, user: str, *filters: str) -> Session:
    """A client whose user name is its identity."""
    session = Session(
        MqttSettings(port=port, username=user, inflight_max=500), user, subscriptions=filters
    )
    session.start()
    wait_until(lambda: session.connected)
    return session


def samples() -> list[tuple[str, bytes]]:
    """A good message for every channel."""
    totals = LedgerTotals(epoch=EPOCH, produced=9, stored=9, pending=0, withheld=0)
    return [
        ("frames", frames(range(1, 6))),
        ("samples", frames(range(10, 12))),
        ("results", rows([(21, result(21)), (22, result(22))])),
        ("events", rows([(31, event(31))])),
        ("annotations", rows([(41, annotation(41))])),
        ("status", Status(state="online", session="s").encode()),
        ("reported", Reported(session="s", ledgers=[totals]).encode()),
    ]


def mutate(chooser: random.Random, payload: bytes) -> bytes:
    """Another payload: bits, spans, lengths, nesting, numbers, or a splice."""
    data = bytearray(payload)
    for _ in range(chooser.choice((1, 1, 2, 5, 20))):
        at = chooser.randrange(len(data) + 1)
        match chooser.randrange(7):
            case 0 if data:
                data[at % len(data)] ^= 1 << chooser.randrange(8)
            case 1:
                del data[at : at + chooser.randrange(1, 40)]
            case 2:
                data[at:at] = chooser.randbytes(chooser.randrange(1, 40))
            case 3:
                data[at:at] = chooser.choice((b"[", b'{"a":', b"\x81", b"\xa1\x61a")) * 200
            case 4:
                number = chooser.choice(
                    (b"1e999", b"-1", b"9" * 400, b"NaN", b"\\ud800", b"\\u0000")
                )
                data[at : at + 3] = number
            case 5:
                data[at : at + 4] = data[: chooser.randrange(1, 30)]
            case _:
                data[at : at + 8] = chooser.choice(
                    (b"\x1b" + b"\xff" * 8, b"\xfb\x7f\xf0" + bytes(6))
                )
    return bytes(data)


def test_no_mutated_message_ends_the_door_or_the_store(tmp_path: Path) -> None:
    chooser = random.Random(20_26)
    store = Store.open(f"sqlite:///{tmp_path / 'store.sqlite'}")
    good = samples()
    unexpected: dict[str, int] = {}
    intake, devices = Intake(), [f"device-{n}" for n in range(20)]
    for n in range(1, _MUTATED + 1):
        channel, payload = chooser.choice(good)
        if chooser.random() < 0.1:
            channel = chooser.choice(good)[0]
        topic = f"fieldloop/v1/demo/{chooser.choice(devices)}/ingestion/{channel}"
        parcel = admit(topic, mutate(chooser, payload), n)
        if parcel.rows:
            intake.rows[parcel.table].extend(parcel.rows)
        intake.letters.extend(parcel.letters)
        for letter in parcel.letters:
            if letter.code == "door.unexpected":
                unexpected[letter.reason[:60]] = unexpected.get(letter.reason[:60], 0) + 1
        if parcel.presence is not None:
            intake.presence.append(parcel.presence)
        if n % 1_000 == 0:
            intake.received_ns = n
            store_intake(store, intake)
            intake = Intake()
    letters = count(store, "dead_letters")
    assert 0 < letters <= 20 * 1_000
    assert len(unexpected) <= 3, unexpected
    neighbour = admit("fieldloop/v1/demo/good/ingestion/frames", frames([1, 2]), 1)
    store_intake(store, Intake(rows={"frames": neighbour.rows}, received_ns=1))
    assert len(list(frames_between(store, "demo", device="good", stream="imu"))) == 2
    store.close()


def test_mutated_messages_over_the_broker_leave_the_neighbour_alone(
    tmp_path: Path, mosquitto: Mosquitto, device: Device, store: Store, telemetry: TelemetryProcess
) -> None:
    chooser = random.Random(7)
    hostile = Device(mosquitto.port, "hostile")
    good = samples()
    for n in range(1, _SENT + 1):
        channel, payload = chooser.choice(good)
        payload = mutate(chooser, payload) if n % 50 else chooser.randbytes(300_000)
        hostile.send("ingestion", channel, payload, retain=channel in ("status", "reported"))
        if n % 10 == 0:
            device.send("ingestion", "frames", frames([n // 10]))
        if n % 100 == 0:
            time.sleep(0.05)
    device.await_ack((1, _SENT // 10))
    assert telemetry.process is not None
    assert telemetry.process.poll() is None
    assert len(list(frames_between(store, "demo", device="subject-1", stream="imu"))) == _SENT // 10
    hostile.stop()
    # Whoever starts later meets the retained rubbish first.
    assert telemetry.stop() == 0
    telemetry.start()
    device.send("ingestion", "frames", frames([9_999]))
    device.await_ack((1, _SENT // 10), (9_999, 9_999))


def test_another_devices_topics_are_closed_and_its_acknowledgements_unheard(
    tmp_path: Path, broker: Mosquitto
) -> None:
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    service = TelemetryProcess(
        tmp_path, broker.port, url, FIELDLOOP_MQTT_USERNAME="telemetry"
    ).start()
    store = Store.open(url)
    root = "fieldloop/v1"
    good = client(broker.port, "demo/subject-1", f"{root}/demo/subject-1/+/ack")
    evil = client(broker.port, "demo/evil", f"{root}/demo/+/+/ack", f"{root}/#", "#")
    offline = Status(state="offline", session="").encode()
    closed = [
        (f"{root}/demo/subject-1/ingestion/frames", frames([1], value=6.0)),
        (f"{root}/demo/subject-1/ingestion/status", offline),
        (f"{root}/other/subject-1/ingestion/frames", frames([1])),
        (
            f"{root}/demo/subject-1/ingestion/ack",
            b'{"v":1,"epoch":"' + b"0" * 32 + b'","ranges":[]}',
        ),
        (f"{root}/demo/evil/ingestion/desired", b"{}"),
        (f"{root}/demo/_tuf/meta/timestamp.json", b"{}"),
        ("homeassistant/device/x/config", b"{}"),
    ]
    for topic, payload in closed:
        evil.publish(topic, payload, retain=True)
    # What it may say, with ids forged in the payload: they count for nothing.
    forged = event(5) | {"source": "demo/subject-1/ingestion"}
    evil.publish(f"{root}/demo/evil/ingestion/events", rows([(5, forged)]))
    evil.publish(f"{root}/demo/evil/ingestion/annotations", rows([(6, annotation(6))]))
    good.publish(f"{root}/demo/subject-1/ingestion/frames", frames([1]))

    def acked(session: Session) -> list[str]:
        topics = []
        while (item := session.poll()) is not None:
            if isinstance(item, Received):
                topics.append(item.topic)
        return topics

    heard: list[str] = []
    wait_until(lambda: bool(heard.extend(acked(good)) or heard))
    assert set(heard) == {f"{root}/demo/subject-1/ingestion/ack"}
    wait_until(lambda: count(store, "events") == 1 and count(store, "dead_letters") == 1)
    stored = list(frames_between(store, "demo", device="subject-1", stream="imu"))
    assert [row.frame.array()[0, 0] for row in stored] == [1.0]
    assert list(device_services(store, "demo")) == []
    assert count(store, "frames") == 1
    with store.read() as connection:
        who = connection.exec_driver_sql("SELECT device, code FROM dead_letters").all()
        source = connection.exec_driver_sql("SELECT device, document FROM events").one()
    assert [tuple(row) for row in who] == [("evil", "annotation.stranger")]
    assert source.device == "evil"
    assert json.loads(source.document)["source"] == "demo/subject-1/ingestion"
    # The wildcards were granted in name only: it hears its own acknowledgement and nobody else's.
    assert set(acked(evil)) <= {f"{root}/demo/evil/ingestion/ack"}
    for session in (good, evil):
        session.stop()
    store.close()
    assert service.stop() == 0
