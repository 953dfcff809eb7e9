"""The MQTT session against a real broker that is killed, wiped, frozen and restricted."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from fieldloop_contract.errors import FixConfiguration, RetryLater
from fieldloop_contract.messages import Reported, Status, decode
from fieldloop_contract.topics import mosquitto_acl
from fieldloop_runtime.mqtt import Connected, Disconnected, Event, Published, Received, Session
from fieldloop_runtime.presence import Presence
from fieldloop_runtime.settings import MqttSettings
from support.broker import Mosquitto


def settings(broker: Mosquitto, **changes) -> MqttSettings:
    fast = {"reconnect_base_s": 0.05, "reconnect_cap_s": 0.2}
    return MqttSettings(host="127.0.0.1", port=broker.port, **{**fast, **changes})


def wait_for(session: Session, wanted: Callable[[Event], bool], timeout_s: float = 15) -> Event:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        event = session.poll(0.1)
        if event is not None and wanted(event):
            return event
    raise AssertionError("the event did not come")


def is_connected(event: Event) -> bool:
    return isinstance(event, Connected)


@pytest.fixture
def session(mosquitto: Mosquitto) -> Iterator[Session]:
    made = Session(settings(mosquitto), "one", subscriptions=["t/+"], confirm=True)
    made.start()
    yield made
    made.stop()


def test_a_message_goes_round_and_is_confirmed(session: Session):
    wait_for(session, is_connected)
    token = session.publish("t/a", b"hello")
    seen = {type(wait_for(session, lambda e: isinstance(e, Published | Received))) for _ in "ab"}
    assert seen == {Published, Received}
    assert token > 0


def test_publishing_while_offline_is_refused_not_queued(mosquitto: Mosquitto, session: Session):
    wait_for(session, is_connected)
    mosquitto.kill()
    wait_for(session, lambda e: isinstance(e, Disconnected))
    with pytest.raises(RetryLater):
        session.publish("t/a", b"lost")
    mosquitto.start()
    wait_for(session, is_connected)
    session.publish("t/b", b"kept")
    received = wait_for(session, lambda e: isinstance(e, Received))
    assert received.payload == b"kept"


def test_subscriptions_come_back_after_the_broker_was_killed(
    mosquitto: Mosquitto, session: Session
):
    wait_for(session, is_connected)
    session.subscribe("later/+")
    session.unsubscribe("t/+")
    for _ in range(3):
        mosquitto.kill()
        mosquitto.start()
        wait_for(session, is_connected)
    session.publish("t/a", b"no")
    session.publish("later/a", b"yes")
    assert wait_for(session, lambda e: isinstance(e, Received)).payload == b"yes"


def test_a_broker_that_never_answers_is_given_up_and_tried_again(mosquitto: Mosquitto):
    mosquitto.freeze()
    made = Session(settings(mosquitto, connect_timeout_s=0.5), "one")
    made.start()
    try:
        wait_for(made, lambda e: isinstance(e, Disconnected), 20)
        mosquitto.thaw()
        wait_for(made, is_connected)
    finally:
        made.stop()


def test_a_refused_login_is_not_taken_for_a_connection(tmp_path):
    extra = "allow_anonymous false"
    broker = Mosquitto(tmp_path / "m", extra=extra)
    conf = tmp_path / "m" / "mosquitto.conf"
    conf.write_text(conf.read_text().replace("allow_anonymous true\n", ""))
    broker.start()
    made = Session(settings(broker), "one", subscriptions=["t/+"])
    made.start()
    try:
        event = wait_for(made, lambda e: isinstance(e, Disconnected | Connected))
        assert isinstance(event, Disconnected)
        assert "refused" in event.reason
        assert not made.connected
    finally:
        made.stop()
        broker.kill()


def test_a_full_queue_is_bounded_and_counted(mosquitto: Mosquitto, monkeypatch):
    monkeypatch.setattr("fieldloop_runtime.mqtt._PUT_TIMEOUT_S", 0.01)
    made = Session(settings(mosquitto, queue_max=10), "one", subscriptions=["t/+"])
    other = Session(settings(mosquitto), "two")
    made.start()
    other.start()
    try:
        wait_for(other, is_connected)
        deadline = time.monotonic() + 10
        while not made.connected and time.monotonic() < deadline:
            time.sleep(0.01)
        for i in range(40):
            other.publish("t/a", b"%d" % i)
        while made.dropped < 25 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert made.dropped >= 25
        assert made.alive
    finally:
        made.stop()
        other.stop()


def test_the_last_will_and_the_retained_documents_tell_who_is_there(mosquitto: Mosquitto):
    presence = Presence("acme", "pump-7", "inference", versions={"fieldloop": "0.1.0"})
    made = Session(settings(mosquitto), "device", will=presence.will())
    watcher = Session(settings(mosquitto), "watcher", subscriptions=["fieldloop/v1/acme/+/+/+"])
    made.start()
    watcher.start()

    def next_status() -> Status:
        event = wait_for(watcher, lambda e: isinstance(e, Received) and e.topic.endswith("/status"))
        return decode(Status, event.payload)

    try:
        wait_for(watcher, is_connected)
        wait_for(made, is_connected)
        presence.connected(made)
        online = next_status()
        assert (online.state, online.session) == ("online", presence.session_id)
        report = Reported(session=presence.session_id, counters={"frames": 1})
        assert presence.report(made, report, now_s=10)
        assert not presence.report(made, report, now_s=20), "unchanged is not sent again"
        made.stop(goodbye=presence.will())
        assert next_status().state == "offline"
    finally:
        made.stop()
        watcher.stop()


def test_the_access_list_keeps_a_device_to_its_own_topics(tmp_path):
    broker = Mosquitto(tmp_path / "m", acl=mosquitto_acl("acme")).start()
    own, foreign = "fieldloop/v1/acme/pump-7/ingestion", "fieldloop/v1/acme/pump-8/ingestion"
    device = Session(
        settings(broker, username="acme/pump-7"),
        "device",
        subscriptions=[f"{own}/ack", f"{foreign}/ack", "fieldloop/v1/acme/_tuf/meta/+"],
    )
    cloud = Session(
        settings(broker, username="telemetry"),
        "cloud",
        subscriptions=["fieldloop/v1/acme/+/+/frames"],
    )
    device.start()
    cloud.start()
    try:
        wait_for(device, is_connected)
        wait_for(cloud, is_connected)
        device.publish(f"{foreign}/frames", b"forged")
        device.publish(f"{own}/frames", b"own")
        first = wait_for(cloud, lambda e: isinstance(e, Received))
        assert (first.topic, first.payload) == (f"{own}/frames", b"own")
        cloud.publish(f"{foreign}/ack", b"not yours")
        cloud.publish(f"{own}/ack", b"yours")
        assert wait_for(device, lambda e: isinstance(e, Received)).payload == b"yours"
    finally:
        device.stop()
        cloud.stop()
        broker.kill()


def test_tls_files_that_cannot_be_read_are_a_configuration_fault():
    with pytest.raises(FixConfiguration, match="FIELDLOOP_MQTT_CA_FILE"):
        Session(MqttSettings(ca_file="/nowhere"), "x")


# ---- durable sessions, acknowledged by hand -----------------------------------------------------


@pytest.fixture(params=["3.1.1", "5"])
def durable(mosquitto: Mosquitto, request: pytest.FixtureRequest) -> Callable[[], Session]:
    def make() -> Session:
        made = Session(
            settings(mosquitto, protocol=request.param),
            "durable",
            subscriptions=["t/+"],
            durable=True,
            manual_ack=True,
        )
        made.start()
        return made

    return make


@pytest.fixture
def sender(mosquitto: Mosquitto) -> Iterator[Session]:
    made = Session(settings(mosquitto), "sender", confirm=True)
    made.start()
    wait_for(made, is_connected)
    yield made
    made.stop()


def receive(session: Session, n: int) -> list[Received]:
    found = [wait_for(session, lambda e: isinstance(e, Received)) for _ in range(n)]
    return [event for event in found if isinstance(event, Received)]


def test_what_was_not_acknowledged_comes_again_with_its_packet_id(
    durable: Callable[[], Session], sender: Session
):
    first = durable()
    wait_for(first, is_connected)
    for i in range(3):
        sender.publish("t/a", b"%d" % i)
    one, two, three = receive(first, 3)
    assert not one.repeated
    assert one.token is not None
    assert first.acknowledge(one.token)
    first.stop()
    sender.publish("t/a", b"while away")
    second = durable()
    again = receive(second, 3)
    second.stop()
    assert [m.payload for m in again] == [b"1", b"2", b"while away"]
    assert [m.repeated for m in again] == [True, True, False]
    assert [m.packet_id for m in again[:2]] == [two.packet_id, three.packet_id]


def test_a_token_of_an_earlier_connection_acknowledges_nothing(
    mosquitto: Mosquitto, durable: Callable[[], Session], sender: Session
):
    session = durable()
    wait_for(session, is_connected)
    sender.publish("t/a", b"x")
    [old] = receive(session, 1)
    rival = Session(settings(mosquitto), "durable", durable=True, manual_ack=True)
    rival.start()  # the same client id: it throws the other one out
    wait_for(session, lambda e: isinstance(e, Disconnected))
    rival.stop()
    [new] = receive(session, 1)
    assert old.token is not None
    assert new.token is not None
    assert not session.acknowledge(old.token)
    assert session.acknowledge(new.token)
    session.stop()


def test_a_full_queue_drops_nothing_that_is_acknowledged_by_hand(
    mosquitto: Mosquitto, sender: Session, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("fieldloop_runtime.mqtt._PUT_TIMEOUT_S", 0.05)
    made = Session(
        settings(mosquitto, queue_max=10), "d", subscriptions=["t/+"], durable=True, manual_ack=True
    )
    made.start()
    wait_for(made, is_connected)
    for i in range(15):
        sender.publish("t/a", b"%d" % i)
    deadline = time.monotonic() + 10
    while made.dropped < 1 and time.monotonic() < deadline:
        time.sleep(0.02)
    seen: dict[bytes, None] = {}
    while len(seen) < 15 and time.monotonic() < deadline:
        event = made.poll(0.2)
        if isinstance(event, Received) and event.token is not None:
            seen[event.payload] = None
            made.acknowledge(event.token)
    made.stop()
    assert list(seen) == [b"%d" % i for i in range(15)]


def test_messages_of_qos_0_have_no_token(mosquitto: Mosquitto, durable: Callable[[], Session]):
    session = durable()
    wait_for(session, is_connected)
    subprocess.run(
        ["mosquitto_pub", "-p", str(mosquitto.port), "-t", "t/a", "-m", "x", "-q", "0"], check=True
    )
    [message] = receive(session, 1)
    session.stop()
    assert (message.token, message.packet_id) == (None, 0)
