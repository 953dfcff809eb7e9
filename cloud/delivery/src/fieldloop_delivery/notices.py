"""Notifications of what happens to rollouts: by MQTT, and by a signed webhook.

Each row of the audit trail is one CloudEvent, due by each channel that is switched on, in the
store and so across restarts. A receiver may see one twice (after a kill between sending and noting
it) and knows it by its id.

The webhook (`fieldloop_runtime.webhook`) is tried again with full-jitter back-off, in order; after
`TRIES_MAX` it is given up, and the oldest beyond `QUEUE_MAX` too, each with a log line.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random

from fieldloop_contract.errors import FieldloopError, RetryLater
from fieldloop_contract.messages import Event
from fieldloop_contract.topics import notice_topic
from fieldloop_delivery.publisher import Sender
from fieldloop_runtime import webhook
from fieldloop_runtime.backoff import full_jitter
from fieldloop_runtime.journal import Journal
from fieldloop_store.engine import Store
from fieldloop_store.steering import (
    MQTT,
    WEBHOOK,
    AuditRow,
    drop_notices,
    due_notices,
    settle_notices,
)

TRIES_MAX = 12
QUEUE_MAX = 1_000
TIMEOUT_S = 10.0
BACKOFF_BASE_S, BACKOFF_CAP_S = 1.0, 900.0
POLL_S = 1.0
WINDOW = 16


def notice(fleet: str, row: AuditRow) -> bytes:
    """A row of the audit trail as a CloudEvent."""
    event = Event(
        id=f"{row.rollout}-{row.id}",
        source=f"{fleet}/_cloud/delivery",
        type=row.type,
        time=datetime.fromtimestamp(row.at_ns / 1e9, UTC).isoformat(timespec="milliseconds"),
        data={"rollout": row.rollout, "by": row.actor, "why": row.reason, **row.detail},
    )
    return event.encode()


class MqttNotices:
    """Publishes notices on the owner's session. Owner thread only."""

    def __init__(self, session: Sender, store: Store, fleet: str) -> None:
        self._session = session
        self._store = store
        self._fleet = fleet
        self._topic = notice_topic(fleet, "delivery")
        self._flying: dict[int, int] = {}

    def pump(self) -> None:
        """Hand over what is due; raises RetryLater where the store is away."""
        flying = set(self._flying.values())
        for row in due_notices(self._store, self._fleet, MQTT, limit=2 * WINDOW):
            if row.id in flying:
                continue
            if len(self._flying) >= WINDOW:
                return
            try:
                token = self._session.publish(self._topic, notice(self._fleet, row))
            except RetryLater:
                return
            self._flying[token] = row.id

    def taken(self, token: int) -> None:
        """The broker took a message."""
        row = self._flying.pop(token, None)
        if row is not None:
            settle_notices(self._store, [row], MQTT)

    def disconnected(self) -> None:
        """What was in flight is sent again."""
        self._flying.clear()


class Webhook:
    """Posts notices, in a thread of its own, so that a slow receiver stops nobody else."""

    def __init__(
        self,
        url: str,
        secret: str,
        store: Store,
        fleet: str,
        journal: Journal,
        *,
        backoff_base_s: float = BACKOFF_BASE_S,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._url = webhook.check_url(url)
        self._secret = secret
        self._store = store
        self._fleet = fleet
        self._journal = journal
        self._base_s = backoff_base_s
        self._now_s = now_s
        self._random = Random()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; what is due stays due."""
        self._stop.set()
        self._thread.join(TIMEOUT_S + 1)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                dropped = drop_notices(self._store, self._fleet, WEBHOOK, keep=QUEUE_MAX)
                if dropped:
                    self._journal.error("webhook.dropped", notices=dropped, bound=QUEUE_MAX)
                for row in due_notices(self._store, self._fleet, WEBHOOK, limit=20):
                    self._deliver(row)
                    if self._stop.is_set():
                        return
            except FieldloopError as error:
                self._journal.warning("webhook.store", error=str(error))
            self._stop.wait(POLL_S)

    def _deliver(self, row: AuditRow) -> None:
        """Post one notice until it is taken or given up."""
        body = notice(self._fleet, row)
        fault = ""
        for number in range(TRIES_MAX):
            fault, again = self._post(json.loads(body)["id"], body)
            if not fault or not again:
                break
            pause_s = full_jitter(number, self._base_s, BACKOFF_CAP_S, self._random)
            if self._stop.wait(pause_s):
                return
        if fault:
            self._journal.error("webhook.given-up", notice=row.id, type=row.type, reason=fault)
        settle_notices(self._store, [row.id], WEBHOOK)

    def _post(self, notice_id: str, body: bytes) -> tuple[str, bool]:
        """What went wrong, or ""; and whether trying again may help."""
        try:
            webhook.post(
                self._url,
                body,
                secret=self._secret,
                message_id=notice_id,
                at_s=int(self._now_s()),
                content_type="application/cloudevents+json",
                timeout_s=TIMEOUT_S,
            )
        except FieldloopError as error:
            return str(error), isinstance(error, RetryLater)
        return "", False
