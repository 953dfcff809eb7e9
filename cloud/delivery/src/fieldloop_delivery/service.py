"""The running service: one owner loop over the store, the repository and the broker.

The loop polls the MQTT session, looks at the store each `look_s`, and lets the publisher work. It
owns all state; beside it run the session's thread and, where one is set, the webhook's.
"""

from __future__ import annotations

import time

from fieldloop_contract.errors import FieldloopError, RetryLater
from fieldloop_contract.topics import blob_topic, channel_filter, meta_filter
from fieldloop_delivery.fleet import Fleet
from fieldloop_delivery.notices import MqttNotices, Webhook
from fieldloop_delivery.publisher import Publisher
from fieldloop_delivery.settings import DeliverySettings
from fieldloop_runtime.health import Health
from fieldloop_runtime.journal import Journal, Throttle
from fieldloop_runtime.life import ExitCode, Life
from fieldloop_runtime.mqtt import Connected, Disconnected, Event, Published, Received, Session
from fieldloop_store.engine import Store
from fieldloop_store.queries import EventCursor, events_since

POLL_S = 0.1
EVENTS_BURST = 500
CHUNK_MISSING = "chunk.missing"
CHUNKS_OF_EVENT_MAX = 64
LOOK_SILENT_S_MAX = 300.0
WARN_EVERY_S = 86_400.0


class Delivery:
    """Delivery of one fleet. Owner thread only."""

    def __init__(
        self,
        settings: DeliverySettings,
        store: Store,
        fleet: Fleet,
        *,
        health: Health,
        journal: Journal,
    ) -> None:
        self._settings = settings
        self._store = store
        self._fleet = fleet
        self._health = health
        self._journal = journal
        self._noise = Throttle(30)
        self._session = Session(
            settings.mqtt,
            f"{settings.fleet}/_delivery",
            subscriptions=[meta_filter(settings.fleet)],
            confirm=True,
        )
        self.publisher = Publisher(
            self._session,
            settings.fleet,
            fleet.read,
            window=settings.window,
            journal=journal,
            orders=channel_filter("desired", fleet=settings.fleet, service=settings.service),
        )
        self._notices = MqttNotices(self._session, store, settings.fleet)
        self._webhook: Webhook | None = None
        if settings.webhook_url:
            self._webhook = Webhook(
                settings.webhook_url, settings.webhook_secret, store, settings.fleet, journal
            )
        self._looked_s = self._warned_s = float("-inf")
        self._swept_s = 0.0
        self._cursor = EventCursor(time.time_ns(), "", "", "", 0)

    def run(self, life: Life) -> None:
        """Until told to stop."""
        self._session.start()
        if self._webhook is not None:
            self._webhook.start()
        try:
            while not life.stop.is_set():
                event = self._session.poll(POLL_S)
                for _ in range(EVENTS_BURST):
                    if event is None:
                        break
                    self._take(event, time.monotonic())
                    event = self._session.poll()
                self._turn(time.monotonic())
                dead = self._webhook is not None and not self._webhook.alive
                if dead or not self._session.alive:
                    life.fail(ExitCode.THREAD_DIED)
        finally:
            if self._webhook is not None:
                self._webhook.stop()
            self._session.stop()

    def _take(self, event: Event, now_s: float) -> None:
        match event:
            case Connected():
                self._swept_s = now_s
                self.publisher.connected(now_s)
            case Disconnected():
                self.publisher.disconnected()
                self._notices.disconnected()
            case Published(token):
                self.publisher.taken(token)
                try:
                    self._notices.taken(token)
                except RetryLater as error:  # it is due still, and sent again
                    self._journal.warning("store.away", error=str(error))
            case Received(topic, payload):
                self.publisher.received(topic, payload, now_s)

    def _turn(self, now_s: float) -> None:
        if now_s - self._looked_s >= self._settings.look_s:
            self._looked_s = now_s
            try:
                items = self._fleet.look(time.time_ns())
                if items is not None:
                    self.publisher.want(items)
                self._health.tick("look", LOOK_SILENT_S_MAX)
                self._hear_missing(now_s)
                self._notices.pump()
            except RetryLater as error:
                if self._noise.allow(now_s):
                    self._journal.warning("store.away", error=str(error))
            except FieldloopError as error:
                if self._noise.allow(now_s):
                    self._journal.error("look.failed", code=error.code, error=str(error))
        if now_s - self._warned_s >= WARN_EVERY_S:
            self._warned_s = now_s
            for text in self._fleet.warnings(time.time_ns()):
                self._journal.warning("keys.expiring", reason=text)
        if now_s - self._swept_s >= self._settings.sweep_s:
            self._swept_s = now_s
            self.publisher.sweep(now_s)
        self.publisher.pump(now_s)
        self._health.tick("loop")

    def _hear_missing(self, now_s: float) -> None:
        """Publish again what devices say the broker does not have."""
        for event in events_since(
            self._store, self._settings.fleet, self._cursor, types=[CHUNK_MISSING]
        ):
            self._cursor = event.cursor
            chunks = event.data.get("chunks", [])
            named = chunks[:CHUNKS_OF_EVENT_MAX] if isinstance(chunks, list) else []
            topics = []
            for chunk in named:
                try:
                    topics.append(blob_topic(self._settings.fleet, str(chunk)))
                except FieldloopError:
                    continue  # a device may write anything into its events
            self.publisher.demand(topics, now_s)
