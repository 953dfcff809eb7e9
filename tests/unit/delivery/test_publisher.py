"""The broker's contents are made what they shall be, a bounded number of messages at a time."""

from __future__ import annotations

from fieldloop_contract.errors import RetryLater
from fieldloop_contract.manifest import sha256
from fieldloop_contract.topics import Topic, blob_topic, channel_filter, meta_topic
from fieldloop_delivery.publisher import SWEEP_QUIET_S, Item, Publisher
from fieldloop_runtime.journal import Journal

FLEET = "acme"
CHUNKS = {sha256(d): d for d in (b"one", b"two", b"three")}
FIRST = next(iter(CHUNKS))
ORDER = str(Topic(FLEET, "pump-7", "inference", "desired"))
META = {name: meta_topic(FLEET, name) for name in ("timestamp.json", "1.root.json")}


class Broker:
    """A session with a broker that keeps retained messages, and takes them when told to."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}
        self.log: list[str] = []
        self.flying: list[int] = []
        self.filters: set[str] = set()
        self.room = 1000
        self._token = 0

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        if len(self.flying) >= self.room:
            raise RetryLater("too many messages in flight")
        assert retain
        self.log.append(topic)
        if payload:
            self.held[topic] = payload
        else:
            self.held.pop(topic, None)
        self._token += 1
        self.flying.append(self._token)
        return self._token

    def subscribe(self, *filters: str) -> None:
        self.filters |= set(filters)

    def unsubscribe(self, *filters: str) -> None:
        self.filters -= set(filters)


def items(*names: str) -> dict[str, Item]:
    wanted = {t: Item(sha256(n.encode()), n.encode()) for n, t in META.items() if n in names}
    if "order" in names:
        wanted[ORDER] = Item(sha256(b"order"), b"order")
    if "chunks" in names:
        wanted |= {blob_topic(FLEET, c): Item(c) for c in CHUNKS}
    return wanted


EVERYTHING = items("timestamp.json", "1.root.json", "order", "chunks")


def make(window: int = 16) -> tuple[Publisher, Broker]:
    broker = Broker()
    publisher = Publisher(broker, FLEET, CHUNKS.get, window=window, journal=Journal("test"))
    return publisher, broker


def settle(publisher: Publisher, broker: Broker, now_s: float = 0.0) -> float:
    for _ in range(50):
        now_s += SWEEP_QUIET_S + 0.1
        publisher.pump(now_s)
        while broker.flying:
            publisher.taken(broker.flying.pop(0))
    return now_s


def test_wiped_broker_is_filled_metadata_first_timestamp_after_it():
    publisher, broker = make()
    publisher.want(EVERYTHING)
    publisher.connected(0.0)
    settle(publisher, broker)
    assert broker.held[ORDER] == b"order"
    assert set(broker.held) == set(EVERYTHING)
    assert broker.log[:3] == [META["1.root.json"], META["timestamp.json"], ORDER]
    assert publisher.settled
    assert not broker.filters


def test_what_a_sweep_finds_right_is_not_sent_again():
    publisher, broker = make()
    publisher.want(EVERYTHING)
    publisher.connected(0.0)
    kept = FIRST
    publisher.received(blob_topic(FLEET, kept), CHUNKS[kept], 0.5)
    settle(publisher, broker)
    sent = {t for t in broker.log if "/_blob/" in t}
    assert sent == {blob_topic(FLEET, c) for c in CHUNKS if c != kept}


def test_what_a_sweep_finds_wrong_or_needless_is_replaced_or_cleared():
    publisher, broker = make()
    publisher.want(EVERYTHING)
    publisher.connected(0.0)
    wrong, stray = blob_topic(FLEET, FIRST), blob_topic(FLEET, sha256(b"stray"))
    broker.held |= {wrong: b"flipped", stray: b"stray"}
    publisher.received(wrong, b"flipped", 0.5)
    publisher.received(stray, b"stray", 0.5)
    settle(publisher, broker)
    assert broker.held[wrong] == CHUNKS[FIRST]
    assert stray not in broker.held


def test_no_more_than_the_window_is_on_its_way():
    publisher, broker = make(window=2)
    publisher.want(EVERYTHING)
    publisher.connected(0.0)
    publisher.pump(10.0)
    assert len(broker.flying) == 2
    publisher.taken(broker.flying.pop(0))
    publisher.pump(10.0)
    assert len(broker.flying) == 2
    settle(publisher, broker, 10.0)
    assert set(broker.held) == set(EVERYTHING)


def test_full_session_loses_nothing():
    publisher, broker = make()
    broker.room = 1
    publisher.want(EVERYTHING)
    publisher.connected(0.0)
    settle(publisher, broker)
    assert set(broker.held) == set(EVERYTHING)


def test_what_was_on_its_way_when_the_connection_broke_is_sent_again():
    publisher, broker = make()
    publisher.want(items("order"))
    publisher.connected(0.0)
    publisher.pump(0.0)
    broker.held.clear()
    broker.flying.clear()
    publisher.disconnected()
    publisher.pump(1.0)
    assert broker.held == {}
    publisher.connected(2.0)
    settle(publisher, broker, 2.0)
    assert broker.held == {ORDER: b"order"}


def test_nothing_is_sent_twice_while_nothing_changes():
    publisher, broker = make()
    publisher.want(EVERYTHING)
    publisher.connected(0.0)
    now_s = settle(publisher, broker)
    sent = len(broker.log)
    for _ in range(5):
        publisher.want(dict(EVERYTHING))
        now_s = settle(publisher, broker, now_s)
    assert len(broker.log) == sent


def test_chunks_no_longer_wanted_are_cleared():
    publisher, broker = make()
    publisher.want(EVERYTHING)
    publisher.connected(0.0)
    now_s = settle(publisher, broker)
    publisher.want(items("timestamp.json", "1.root.json", "order"))
    settle(publisher, broker, now_s)
    assert not [t for t in broker.held if "/_blob/" in t]


def test_missing_chunk_is_sent_again_and_a_strangers_topic_is_not():
    publisher, broker = make()
    publisher.want(EVERYTHING)
    publisher.connected(0.0)
    now_s = settle(publisher, broker)
    chunk = blob_topic(FLEET, FIRST)
    sent = len(broker.log)
    publisher.demand([chunk, blob_topic(FLEET, sha256(b"stray"))], now_s)
    publisher.demand([chunk], now_s)
    settle(publisher, broker, now_s)
    assert broker.log[sent:].count(chunk) <= 2
    assert set(broker.log[sent:]) == {chunk}


def test_intruder_is_overwritten_but_not_at_his_own_pace():
    publisher, broker = make()
    publisher.want(EVERYTHING)
    publisher.connected(0.0)
    now_s = settle(publisher, broker)
    topic, sent = META["timestamp.json"], len(broker.log)
    for i in range(100):
        broker.held[topic] = b"evil"
        publisher.received(topic, b"evil", now_s + i / 100)
        publisher.pump(now_s + i / 100)
        while broker.flying:
            publisher.taken(broker.flying.pop(0))
    assert len(broker.log) - sent <= 2
    settle(publisher, broker, now_s + 1)
    assert broker.held[topic] == b"timestamp.json"


def with_orders() -> tuple[Publisher, Broker]:
    broker = Broker()
    publisher = Publisher(
        broker,
        FLEET,
        {sha256(b"order"): b"order", **CHUNKS}.get,
        window=16,
        journal=Journal("test"),
        orders=channel_filter("desired", fleet=FLEET, service="inference"),
    )
    return publisher, broker


def test_bogus_retained_orders_are_replaced_or_cleared_by_the_sweep():
    publisher, broker = with_orders()
    publisher.want({ORDER: Item(sha256(b"order"))})
    publisher.connected(0.0)
    now_s = settle(publisher, broker)
    stranger = str(Topic(FLEET, "pump-9", "inference", "desired"))
    broker.held |= {ORDER: b"evil", stranger: b"evil"}
    publisher.sweep(now_s)
    publisher.received(ORDER, b"evil", now_s)
    publisher.received(stranger, b"evil", now_s)
    settle(publisher, broker, now_s + 1)
    assert broker.held == {ORDER: b"order"}


def test_order_that_the_broker_lost_is_sent_again_by_the_sweep():
    publisher, broker = with_orders()
    publisher.want({ORDER: Item(sha256(b"order"))})
    publisher.connected(0.0)
    now_s = settle(publisher, broker)
    broker.held.clear()
    publisher.sweep(now_s)
    settle(publisher, broker, now_s)
    assert broker.held == {ORDER: b"order"}
    assert publisher.settled
