"""The owner loop: broker -> door -> group commit -> acknowledgement, in this order and no other.

One thread owns the group, the outbox and the writing connection. An acknowledgement is added to the
outbox only after the transaction that holds its rows has committed. While the store is away the
loop keeps at most one full group and then stops reading; nothing is acknowledged, devices keep
their rows and send them again.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from random import Random

from fieldloop_contract.errors import RetryLater
from fieldloop_contract.topics import CHANNELS, Direction, channel_filter
from fieldloop_runtime.backoff import full_jitter
from fieldloop_runtime.health import Health
from fieldloop_runtime.journal import Journal, Throttle
from fieldloop_runtime.life import ExitCode, Life
from fieldloop_runtime.mqtt import Connected, Disconnected, Received, Session
from fieldloop_store.engine import Store
from fieldloop_store.ingest import Outcome, store_intake
from fieldloop_store.letters import Letter
from fieldloop_telemetry.acks import Outbox
from fieldloop_telemetry.discovery import Discovery, discovery_filters
from fieldloop_telemetry.door import Parcel, admit
from fieldloop_telemetry.group import Group
from fieldloop_telemetry.metrics import Metrics
from fieldloop_telemetry.settings import CommitSettings, TelemetrySettings, fleet_names

_POLL_S = 0.25
_TICK_LIMIT_S = 60.0
_RETRY_BASE_S = 0.2
_MESSAGES_PER_TURN = 200
_UNREADABLE_MAX = 10_000
_UNREADABLE_ALARM = 3


def subscriptions(settings: TelemetrySettings) -> list[str]:
    """All up channels of the fleets.

    Rows go to one replica of a shared group. Presence goes to each: it is retained, and brokers do
    not give retained messages to shared subscriptions; storing it twice changes nothing.
    """
    rows = [
        channel_filter(c.name, fleet=fleet, share=settings.share if c.logged else "")
        for fleet in fleet_names(settings.fleets)
        for c in CHANNELS.values()
        if c.direction is Direction.UP
    ]
    return rows + discovery_filters(settings.home_assistant)


class Telemetry:
    """The service. One thread calls `run`, or `turn` again and again.

    Args:
        discovery: is told of the messages that are for Home Assistant's discovery.
        after_commit: called between a commit and its acknowledgement; for crash tests.
    """

    def __init__(
        self,
        settings: CommitSettings,
        *,
        session: Session,
        store: Store,
        health: Health,
        journal: Journal,
        discovery: Discovery | None = None,
        after_commit: Callable[[], None] = lambda: None,
        seed: int | None = None,
    ) -> None:
        self._settings = settings
        self._session = session
        self._store = store
        self._health = health
        self._journal = journal
        self._discovery = discovery
        self._after_commit = after_commit
        self._unreadable = Unreadable()
        self._random = Random(seed)
        self._noise = Throttle(30)
        self._refusals = Throttle(10)
        self._metrics = Metrics(health.registry)
        self._group = Group(settings.rows_max, settings.bytes_max, settings.age_ms / 1000)
        self._outbox = Outbox()
        self._received_ns = 0
        self._attempt = 0
        self._retry_at_s = float("-inf")
        self._store_fault: str | None = None
        self._denied: tuple[str, ...] = ()
        health.condition("store", lambda: self._store_fault)
        health.condition("subscriptions", self._subscription_fault)

    def run(self, life: Life) -> None:
        """Work until stopped, then commit and acknowledge what is there."""
        while not life.stop.is_set():
            self.turn()
            if not self._session.alive:
                self._journal.error("mqtt.thread_died")
                life.fail(ExitCode.THREAD_DIED)
        if self._group.rows:
            self._commit(time.monotonic())
        self._send()

    def turn(self) -> None:
        """One round: read a bounded number of messages, commit if due, acknowledge."""
        self._health.tick("loop", _TICK_LIMIT_S)
        for _ in range(_MESSAGES_PER_TURN):
            now_s = time.monotonic()
            wait_s = self._wait_s(now_s)
            if wait_s <= 0 or self._group.full:
                break
            event = self._session.poll(min(wait_s, _POLL_S))
            if event is None:
                break
            if isinstance(event, Received):
                self._take(event, now_s)
            elif isinstance(event, Connected):
                self._connected(event)
            elif isinstance(event, Disconnected):
                self._journal.debug("broker.disconnected", reason=event.reason)
        now_s = time.monotonic()
        wait_s = self._wait_s(now_s)
        if self._group.rows and wait_s <= 0:
            self._commit(now_s)
        elif self._group.full:
            time.sleep(min(wait_s, _POLL_S))
        self._send()

    def _wait_s(self, now_s: float) -> float:
        """Seconds until there is something to do besides reading."""
        due_s = self._group.wait_s(now_s)
        return _POLL_S if due_s is None else max(due_s, self._retry_at_s - now_s)

    def _connected(self, event: Connected) -> None:
        self._denied = event.refused
        if self._discovery is not None:
            self._discovery.connected()
        self._journal.info("broker.connected", refused=list(event.refused))

    def _subscription_fault(self) -> str | None:
        return f"the broker refused {', '.join(self._denied)}" if self._denied else None

    def _take(self, message: Received, now_s: float) -> None:
        if self._discovery is not None and self._discovery.notice(message.topic, message.payload):
            return
        # Never backwards, so that the order of arrival can be read by time.
        self._received_ns = max(self._received_ns + 1, time.time_ns())
        parcel = admit(message.topic, message.payload, self._received_ns)
        if parcel.log is None:
            self._metrics.bad_topics.inc()
            return
        self._metrics.messages.labels(message.topic.rsplit("/", 1)[-1]).inc()
        if parcel.letters:
            self._count_refusals(parcel)
        if parcel.newest_ns is not None:
            self._metrics.lag_s.observe(max(0.0, (self._received_ns - parcel.newest_ns) / 1e9))
        self._group.add(parcel, now_s, self._received_ns)
        self._metrics.pending.set(self._group.rows)

    def _count_refusals(self, parcel: Parcel) -> None:
        for letter in parcel.letters:
            self._metrics.refused.labels(letter.code).inc()
        self._count_unreadable(parcel.letters[0])
        if self._refusals.allow():
            first = parcel.letters[0]
            self._journal.warning(
                "input.refused",
                fleet=first.log.fleet,
                device=first.log.device,
                by=first.log.service,
                channel=first.channel,
                code=first.code,
                reason=first.reason,
                refused=len(parcel.letters),
                unreported=self._refusals.suppressed,
            )

    def _count_unreadable(self, letter: Letter) -> None:
        """A batch of rows without a seq cannot be acknowledged, so its device sends it for ever."""
        if letter.seq or not CHANNELS[letter.channel].logged:
            return
        self._metrics.undecodable.inc()
        if self._unreadable.came(letter):
            self._journal.error(
                UNREADABLE_EVENT,
                fleet=letter.log.fleet,
                device=letter.log.device,
                by=letter.log.service,
                channel=letter.channel,
                code=letter.code,
                reason=letter.reason,
            )

    def _commit(self, now_s: float) -> None:
        try:
            with self._metrics.commit_s.time():
                outcome = store_intake(self._store, self._group.intake)
        except RetryLater as error:
            self._metrics.failures.inc()
            cap_s = self._settings.retry_cap_s
            delay_s = full_jitter(self._attempt, _RETRY_BASE_S, cap_s, self._random)
            self._attempt += 1
            self._retry_at_s = time.monotonic() + delay_s
            self._store_fault = str(error)
            if self._noise.allow(now_s):
                self._journal.warning("store.away", error=str(error), attempt=self._attempt)
            return
        if self._store_fault is not None:
            self._journal.info("store.back", attempts=self._attempt)
        self._store_fault, self._attempt, self._retry_at_s = None, 0, float("-inf")
        self._after_commit()
        for log, seqs in self._group.seqs.items():
            self._outbox.add(log, seqs)
        self._group.clear()
        self._metrics.pending.set(0)
        self._metrics.count(outcome)
        self._alarm(outcome)

    def _alarm(self, outcome: Outcome) -> None:
        for conflict in outcome.conflicts[:10]:
            self._journal.error(
                CONFLICT_EVENT,
                table=conflict.table,
                fleet=conflict.log.fleet,
                device=conflict.log.device,
                by=conflict.log.service,
                epoch=conflict.log.epoch,
                seq=conflict.seq,
                conflicts=len(outcome.conflicts),
            )

    def _send(self) -> None:
        if len(self._outbox) and self._session.connected:
            before = self._outbox.sent
            self._outbox.send(self._session.publish)
            self._metrics.acks.inc(self._outbox.sent - before)


class Unreadable:
    """Counts how often each batch that cannot be read came; bounded, forgets the oldest."""

    def __init__(self) -> None:
        self._times: OrderedDict[tuple[object, ...], int] = OrderedDict()

    def came(self, letter: Letter) -> bool:
        """Whether this is the time to raise an alarm: once, when it came for the third time."""
        key = (letter.log, letter.key)
        times = self._times.pop(key, 0) + 1
        self._times[key] = times
        if len(self._times) > _UNREADABLE_MAX:
            self._times.popitem(last=False)
        return times == _UNREADABLE_ALARM


UNREADABLE_EVENT = "batch.unreadable"
"""Journal event of a batch that comes again and again and cannot be read: a fault of its sender,
or a device of a later release than this cloud."""
CONFLICT_EVENT = "row.conflict"
"""Journal event of a key that came with two contents: most often a cloned SD card."""
