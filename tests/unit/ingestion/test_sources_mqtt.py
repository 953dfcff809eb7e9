"""The MQTT source on a broker in memory: what is acknowledged, when, and what is taken twice."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from pydantic import ValidationError

from fieldloop_contract.errors import FixConfiguration, OutOfSpace
from fieldloop_contract.profile import ChannelProfile, StreamProfile
from fieldloop_ingestion.sources.mqtt import UNACKNOWLEDGED_MAX, MqttOptions, MqttSource
from fieldloop_runtime.mqtt import Disconnected
from support.sources import FakeClock, Store, context_of, stream_of
from support.worlds import MemoryBroker

JSON = {"topics": ["t/1"], "json": {"fields": {"a": "/a"}}}


def source_on(
    broker: MemoryBroker, store: Store, clock: FakeClock | None = None, **options: object
) -> MqttSource:
    made = MqttOptions.model_validate({**JSON, **options})

    def connect(_settings: object, _id: str, _topics: Iterable[str]) -> MemoryBroker:
        return broker.connect()

    now = (clock or FakeClock()).now
    return MqttSource(made, context_of(store.stream, now, store.recall), connect)


def unacknowledged(broker: MemoryBroker) -> int:
    return len(set(broker.in_flight) - set(broker._acks))


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker(window=200)


@pytest.fixture
def store() -> Store:
    return Store(stream_of("a"))


def test_nothing_is_acknowledged_before_it_is_on_disk(broker: MemoryBroker, store: Store):
    source = source_on(broker, store)
    for i in range(3):
        broker.publish("t/1", json.dumps({"a": i}).encode())
    source.poll(store, 0.0)
    assert len(store.frames) == 3
    assert unacknowledged(broker) == 3
    source.committed("e1", 0)
    assert unacknowledged(broker) == 3
    source.committed("e1", 2)
    assert unacknowledged(broker) == 1
    source.committed("e1", 99)
    assert unacknowledged(broker) == 0


def test_a_watermark_of_another_epoch_says_nothing_of_rows_it_does_not_hold(
    broker: MemoryBroker, store: Store
):
    source = source_on(broker, store)
    broker.publish("t/1", b'{"a": 1}')
    source.poll(store, 0.0)
    source.committed("other", 99)
    assert unacknowledged(broker) == 1
    store.epoch, store.seq = "e2", 0  # the log began a new file
    broker.publish("t/1", b'{"a": 2}')
    source.poll(store, 0.0)
    source.committed("e2", 1)
    assert unacknowledged(broker) == 0, "what came before in the log is on disk too"


def test_a_bad_message_is_dead_lettered_and_acknowledged_and_does_not_stop_the_others(
    broker: MemoryBroker, store: Store
):
    source = source_on(broker, store)
    for payload in (b"nonsense", b'{"a": 1}', b'{"b": 1}', b'{"a": 1e300}', b'{"a": 2}'):
        broker.publish("t/1", payload)
    source.poll(store, 0.0)
    assert store.rows() == [(1.0,), (2.0,)]
    codes = [code for code, _ in store.letters]
    assert codes == ["json.syntax", "reading.field", "reading.not-finite"]
    source.committed("e1", store.commit())
    assert unacknowledged(broker) == 0


def test_bad_messages_alone_are_acknowledged_too(broker: MemoryBroker, store: Store):
    source = source_on(broker, store)
    for _ in range(5):
        broker.publish("t/1", b"nonsense")
    source.poll(store, 0.0)
    assert unacknowledged(broker) == 5
    store.commit()  # the watermark is where it was: the loop has nothing to say
    source.poll(store, 0.0)
    assert unacknowledged(broker) == 0


def test_a_bad_message_behind_one_that_is_not_on_disk_waits_for_it(
    broker: MemoryBroker, store: Store
):
    source = source_on(broker, store)
    broker.publish("t/1", b'{"a": 1}')
    broker.publish("t/1", b"nonsense")
    source.poll(store, 0.0)
    source.committed("e1", 0)
    source.poll(store, 0.0)
    assert unacknowledged(broker) == 2


def test_messages_that_are_not_acknowledged_are_bounded(broker: MemoryBroker, store: Store):
    source = source_on(broker, store)
    for i in range(3 * UNACKNOWLEDGED_MAX):
        broker.publish("t/1", b'{"a": %d}' % i)
    for _ in range(10):
        source.poll(store, 0.0)
    assert len(store.frames) == UNACKNOWLEDGED_MAX
    assert len(store.state["mqtt"]) < 2_000


def test_a_message_half_in_the_log_is_finished_after_a_kill(broker: MemoryBroker, store: Store):
    options = {"json": {"fields": {"a": "/a"}, "items": "/all"}}
    source = source_on(broker, store, **options)
    broker.publish("t/1", json.dumps({"all": [{"a": i} for i in range(7)]}).encode())
    store.refuse_every = 4
    with pytest.raises(OutOfSpace):
        source.poll(store, 0.0)
    assert len(store.frames) == 3
    store.commit()
    broker.killed()
    store.refuse_every = 0
    again = source_on(broker, store, **options)
    again.poll(store, 0.0)
    assert store.rows() == [(float(i),) for i in range(7)]


def test_a_repetition_over_a_new_connection_is_not_taken_twice(broker: MemoryBroker, store: Store):
    source = source_on(broker, store)
    broker.publish("t/1", b'{"a": 1}')
    source.poll(store, 0.0)
    broker.connect()  # the session made a new connection by itself
    source.poll(store, 0.0)
    assert len(store.frames) == 1
    source.committed("e1", store.commit())
    assert unacknowledged(broker) == 0, "acknowledged over the new connection"


def test_two_equal_messages_are_two_readings(broker: MemoryBroker, store: Store):
    source = source_on(broker, store)
    for _ in range(2):
        broker.publish("t/1", b'{"a": 1}')
    source.poll(store, 0.0)
    assert len(store.frames) == 2


def test_retained_messages_are_ignored_unless_wanted(broker: MemoryBroker, store: Store):
    broker.publish("t/1", b'{"a": 1}', retained=True)
    source_on(broker, store).poll(store, 0.0)
    assert not store.frames
    assert unacknowledged(broker) == 0
    broker.publish("t/1", b'{"a": 1}', retained=True)
    source_on(broker, store, retained="take").poll(store, 0.0)
    assert len(store.frames) == 1


def test_topics_that_are_no_longer_wanted_are_unsubscribed(broker: MemoryBroker, store: Store):
    source_on(broker, store, topics=["old/#", "t/1"]).poll(store, 0.0)
    source_on(broker, store).poll(store, 0.0)
    assert broker.unsubscribed == ["old/#"]
    source_on(broker, store).poll(store, 0.0)
    assert broker.unsubscribed == ["old/#"]


def test_nothing_is_written_while_nothing_comes(broker: MemoryBroker, store: Store):
    source = source_on(broker, store)
    source.poll(store, 0.0)
    store.state.clear()
    for _ in range(10):
        source.poll(store, 0.0)
    assert store.state == {}


def test_a_block_without_a_time_ends_when_it_came(broker: MemoryBroker, store: Store):
    clock = FakeClock()
    source = source_on(broker, store, clock)
    broker.publish("t/1", b'{"a": [1, 2, 3]}')
    source.poll(store, 0.0)
    [frame] = store.frames
    assert frame.t1_ns == clock.now().utc_ns + 10_000_000


def test_a_time_belongs_to_the_row_that_is_stated(broker: MemoryBroker, store: Store):
    fields = {"a": "/a"}
    for of, t0 in (("first", 1_790_000_000), ("last", 1_789_999_999.98)):
        time = {"pointer": "/t", "of": of}
        source = source_on(broker, store, json={"fields": fields, "time": time})
        broker.publish("t/1", b'{"a": [1, 2, 3], "t": 1790000000}')
        source.poll(store, 0.0)
        assert store.frames[-1].t0_ns == round(t0 * 100) * 10_000_000


def test_senml_comes_in_by_the_same_way(broker: MemoryBroker):
    channels = [ChannelProfile(name="t", unit="Cel"), ChannelProfile(name="h", unit="%RH")]
    store = Store(StreamProfile(id="s1", rate_hz=1, channels=channels))
    names = {"t": "dev1:t", "h": "dev1:h"}
    source = source_on(broker, store, json=None, senml={"names": names})
    broker.publish(
        "t/1",
        b'[{"bn":"dev1:","bt":1790000000,"n":"t","u":"Cel","v":21},{"n":"h","u":"%RH","v":40},'
        b'{"n":"t","u":"K","v":300,"t":1},{"n":"h","u":"%RH","v":41,"t":1},'
        b'{"n":"t","u":"Cel","v":22,"t":2},{"n":"h","u":"%RH","v":42,"t":2}]',
    )
    source.poll(store, 0.0)
    assert store.rows() == [(21.0, 40.0), (22.0, 42.0)]
    assert [code for code, _ in store.letters] == ["senml.record", "senml.incomplete"]


def test_a_lost_connection_is_a_fault_until_it_is_back(broker: MemoryBroker, store: Store):
    source = source_on(broker, store)
    source.poll(store, 0.0)
    assert source.fault is None
    broker._events.append(Disconnected("gone"))
    source.poll(store, 0.0)
    assert source.fault == "no connection to the broker: gone"
    broker.connect()
    source.poll(store, 0.0)
    assert source.fault is None


# ---- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"topics": []},
        {"topics": ["a/#/b"]},
        {"topics": ["a+/b"]},
        {"json": None},
        {"senml": {"names": {"a": "n"}}},
        {"json": {"fields": {"a": "no-slash"}}},
        {"broker": {"host": "h", "unknown": 1}},
        {"json": {"fields": {"a": "/a"}, "time": {"pointer": "/t", "unit": "hours"}}},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object]):
    with pytest.raises(ValidationError):
        MqttOptions.model_validate({**JSON, **options} if options else {})


def test_a_mapping_has_just_the_channels_of_the_stream(broker: MemoryBroker, store: Store):
    with pytest.raises(FixConfiguration, match="are filled"):
        source_on(broker, store, json={"fields": {"a": "/a", "b": "/b"}})
    senml = {"names": {"a": "n"}, "units": {"b": "K"}}
    with pytest.raises(FixConfiguration, match="units name no channels"):
        source_on(broker, store, json=None, senml=senml)


def test_the_password_can_stand_in_a_file(tmp_path: Path, store: Store):
    secret = tmp_path / "secret"
    secret.write_text("hush\n", encoding="utf-8")
    seen = []

    def connect(settings: object, client_id: str, _topics: Iterable[str]) -> MemoryBroker:
        seen.append((settings.password, client_id))
        return MemoryBroker()

    context = context_of(store.stream, FakeClock().now, store.recall)
    options = MqttOptions.model_validate({**JSON, "password_file": str(secret)})
    MqttSource(options, context, connect)
    assert seen == [("hush", "fieldloop-src")]
    options = MqttOptions.model_validate({**JSON, "password_file": str(tmp_path / "no")})
    with pytest.raises(FixConfiguration, match="password_file"):
        MqttSource(options, context, connect)
