"""Presence: a service's retained `status`, its last will, and its retained `reported` document.

Whoever owns a retained message publishes it again: both documents go out on every connection, and
`reported` when it changed, at most once each `interval_s`.
"""

from __future__ import annotations

import time
import uuid

from fieldloop_contract.errors import RetryLater
from fieldloop_contract.messages import Capability, Reported, Status
from fieldloop_contract.topics import Topic
from fieldloop_runtime.link import LinkMeter
from fieldloop_runtime.mqtt import Session, Will


class Presence:
    """Publishes who is there. For the owner thread of its session.

    Args:
        versions: package name to version.
        capability: what this device can run, for services that run models.
        meter: the month's budget of the link, which may make reports rarer.
    """

    def __init__(
        self,
        fleet: str,
        device: str,
        service: str,
        *,
        versions: dict[str, str],
        capability: Capability | None = None,
        interval_s: float = 1.0,
        meter: LinkMeter | None = None,
    ) -> None:
        self.session_id = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
        self._status_topic = str(Topic(fleet, device, service, "status"))
        self._reported_topic = str(Topic(fleet, device, service, "reported"))
        self._online = Status(
            state="online", session=self.session_id, versions=versions, capability=capability
        )
        self._interval_s = interval_s
        self._meter = meter
        self._sent: bytes | None = None
        self._sent_at_s = float("-inf")

    def will(self) -> Will:
        """The last will: offline, of this session."""
        offline = Status(state="offline", session=self.session_id)
        return Will(self._status_topic, offline.encode())

    def connected(self, session: Session) -> None:
        """Say that we are there; call on every `Connected`."""
        self._sent = None
        session.publish(self._status_topic, self._online.encode(), retain=True)

    def report(self, session: Session, reported: Reported, now_s: float) -> bool:
        """Publish `reported` if it changed and the last one is old enough; True if it was sent."""
        if now_s - self._sent_at_s < self._interval_s or not session.connected:
            return False
        payload = reported.encode()
        if self._meter is not None:
            wait_s = self._meter.status_interval_s(len(payload), self._interval_s)
            if now_s - self._sent_at_s < wait_s:
                return False
        if payload == self._sent:
            return False
        try:
            session.publish(self._reported_topic, payload, retain=True)
        except RetryLater:
            return False
        self._sent, self._sent_at_s = payload, now_s
        return True
