"""What the broker shall hold, and the work of making it so, at the broker's pace.

`want` states all retained messages that delivery owns. What the broker has not confirmed on the
current connection is published, a bounded number at a time: metadata first (timestamp last), then
orders, then chunks. On each connection, and now and then, a sweep reads back chunks and orders:
what is right is left, what is wrong is replaced, what nobody needs is cleared. Owner thread only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from fieldloop_contract.errors import FieldloopError, RetryLater
from fieldloop_contract.manifest import sha256
from fieldloop_contract.topics import blob_filter, meta_filter
from fieldloop_runtime.journal import Journal

SWEEP_QUIET_S = 1.5
SWEEP_S_MAX = 120.0
REPAIR_EVERY_S = 1.0
_META, _TIMESTAMP, _ORDER, _CHUNK, _CLEAR = range(5)


class Sender(Protocol):
    """The part of an MQTT session that is used here."""

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        """Hand over a message; RetryLater when it cannot be taken now."""

    def subscribe(self, *filters: str) -> None:
        """Add filters."""

    def unsubscribe(self, *filters: str) -> None:
        """Remove filters."""


@dataclass(frozen=True, slots=True)
class Item:
    """One retained message: sha256 of its payload; the payload itself where it is held."""

    digest: str
    payload: bytes | None = None


class Publisher:
    """Keeps a broker as it shall be.

    Args:
        load: gives the payload of an item without one, by digest; None where it is not to be had.
        orders: filter of the fleet's orders, read back in each sweep.
    """

    def __init__(
        self,
        session: Sender,
        fleet: str,
        load: Callable[[str], bytes | None],
        *,
        window: int,
        journal: Journal,
        orders: str = "",
    ) -> None:
        self.published = 0
        self._session = session
        self._load = load
        self._window = window
        self._journal = journal
        blobs = blob_filter(fleet)
        self._sweep_filters = [blobs, orders] if orders else [blobs]
        self._order_levels = orders.split("/") if orders else []
        self._meta_prefix = meta_filter(fleet)[:-1]
        self._blob_prefix = blobs[:-1]
        self._wanted: dict[str, Item] = {}
        self._held: dict[str, str] = {}
        self._queues: tuple[dict[str, None], ...] = tuple({} for _ in range(5))
        self._flying: dict[int, tuple[str, str]] = {}
        self._flying_topics: Counter[str] = Counter()
        self._repaired_s: dict[str, float] = {}
        self._later_s: dict[str, float] = {}
        self._online = False
        self._sweeping = False
        self._sweep_begun_s = self._sweep_heard_s = 0.0

    @property
    def settled(self) -> bool:
        """Whether the broker has confirmed all that is wanted."""
        idle = not self._flying and not any(self._queues) and not self._sweeping
        return self._online and idle

    @property
    def waiting(self) -> int:
        """Messages to be published yet."""
        return sum(len(q) for q in self._queues) + len(self._flying)

    def want(self, items: Mapping[str, Item]) -> None:
        """State all retained messages; what was wanted before and is not now is cleared."""
        gone = [topic for topic in self._wanted if topic not in items]
        self._wanted = dict(items)
        for topic in gone:
            self._forget(topic)
            self._queues[_CLEAR][topic] = None
        for topic, item in items.items():
            self._queues[_CLEAR].pop(topic, None)
            if self._held.get(topic) != item.digest:
                self._enqueue(topic)

    def demand(self, topics: Iterable[str], now_s: float) -> None:
        """Publish these again, if they are ours, and not more often than every second."""
        for topic in topics:
            if topic in self._wanted:
                self._repair(topic, now_s)

    def connected(self, now_s: float) -> None:
        """A new connection: nothing is known of what the broker holds."""
        self._online = True
        self._held.clear()
        self._flying.clear()
        self._flying_topics.clear()
        for topic in self._wanted:
            if not topic.startswith(self._blob_prefix):
                self._enqueue(topic)  # orders at once: what waits for a sweep is only the bulk
        self.sweep(now_s)

    def sweep(self, now_s: float) -> None:
        """Read back all chunks and orders; those that are right need not be sent."""
        if not self._online:
            return
        self._sweeping = True
        self._sweep_begun_s = self._sweep_heard_s = now_s
        for topic in [t for t in self._held if self._is_swept(t)]:
            del self._held[topic]
        self._session.subscribe(*self._sweep_filters)

    def disconnected(self) -> None:
        """The connection is gone, and with it what was on its way."""
        self._online = self._sweeping = False
        for topic, _ in self._flying.values():
            self._enqueue(topic)
        self._flying.clear()
        self._flying_topics.clear()

    def taken(self, token: int) -> None:
        """The broker took a publication."""
        topic, digest = self._flying.pop(token, ("", ""))
        self._flying_topics[topic] -= 1
        if self._flying_topics[topic] <= 0:
            del self._flying_topics[topic]
        if digest and self._wanted.get(topic, Item("")).digest == digest:
            self._held[topic] = digest
            self.published += 1

    def received(self, topic: str, payload: bytes, now_s: float) -> None:
        """Something under one of our topics: our own echo, a sweep's find, or an intruder."""
        if not self._is_swept(topic) and not topic.startswith(self._meta_prefix):
            return
        self._sweep_heard_s = now_s
        item = self._wanted.get(topic)
        if item is None:
            if payload:
                self._queues[_CLEAR][topic] = None
        elif sha256(payload) == item.digest:
            self._held[topic] = item.digest
            self._forget(topic, held=True)
        elif not self._on_its_way(topic):
            self._repair(topic, now_s)

    def pump(self, now_s: float) -> None:
        """Publish what there is room for."""
        if not self._online:
            return
        if self._sweeping:
            quiet = now_s - self._sweep_heard_s > SWEEP_QUIET_S
            if quiet or now_s - self._sweep_begun_s > SWEEP_S_MAX:
                self._end_sweep()
        for topic in [t for t, due_s in self._later_s.items() if now_s >= due_s]:
            del self._later_s[topic]
            self.demand([topic], now_s)
        while len(self._flying) < self._window:
            following = self._next()
            if following is None or not self._send(following):
                return

    def _end_sweep(self) -> None:
        self._sweeping = False
        self._session.unsubscribe(*self._sweep_filters)
        lost = [
            topic
            for topic, item in self._wanted.items()
            if self._is_swept(topic)
            and self._held.get(topic) != item.digest
            and not self._on_its_way(topic)
        ]
        for topic in lost:
            self._enqueue(topic)
        if lost:
            self._journal.info("sweep.lost", messages=len(lost))

    def _is_swept(self, topic: str) -> bool:
        """Whether a sweep reads this topic back: a chunk, or an order of our service."""
        if topic.startswith(self._blob_prefix):
            return True
        levels = topic.split("/")
        wanted = self._order_levels
        return len(levels) == len(wanted) > 0 and all(
            w in ("+", level) for w, level in zip(wanted, levels, strict=True)
        )

    def _next(self) -> str | None:
        for priority, queue in enumerate(self._queues):
            if priority == _CHUNK and self._sweeping:
                return None
            if queue:
                topic = next(iter(queue))
                del queue[topic]
                return topic
        return None

    def _send(self, topic: str) -> bool:
        item = self._wanted.get(topic)
        try:
            payload = b"" if item is None else self._payload(item)
            if payload is None:
                return True
            token = self._session.publish(topic, payload, retain=True)
        except RetryLater:
            if item is None:
                self._queues[_CLEAR][topic] = None
            else:
                self._enqueue(topic)
            return False
        except FieldloopError as error:
            self._journal.error("chunk.unreadable", topic=topic, error=str(error))
            return True
        self._flying_topics[topic] += 1
        self._flying[token] = (topic, item.digest if item is not None else "")
        return True

    def _payload(self, item: Item) -> bytes | None:
        return item.payload if item.payload is not None else self._load(item.digest)

    def _enqueue(self, topic: str) -> None:
        if topic not in self._wanted:
            return
        if topic.startswith(self._blob_prefix):
            priority = _CHUNK
        elif topic.startswith(self._meta_prefix):
            priority = _TIMESTAMP if topic.endswith("/timestamp.json") else _META
        else:
            priority = _ORDER
        self._queues[priority][topic] = None

    def _forget(self, topic: str, *, held: bool = False) -> None:
        for queue in self._queues:
            queue.pop(topic, None)
        if not held:
            self._held.pop(topic, None)
            self._repaired_s.pop(topic, None)
            self._later_s.pop(topic, None)

    def _on_its_way(self, topic: str) -> bool:
        return topic in self._flying_topics or any(topic in queue for queue in self._queues)

    def _repair(self, topic: str, now_s: float) -> None:
        """Publish again, now or as soon as the last time is long enough ago."""
        due_s = self._repaired_s.get(topic, float("-inf")) + REPAIR_EVERY_S
        if now_s < due_s:
            self._later_s[topic] = due_s
            return
        self._repaired_s[topic] = now_s
        self._later_s.pop(topic, None)
        self._held.pop(topic, None)
        self._enqueue(topic)
