"""Keeps Home Assistant's discovery and state messages as they should be; switchable.

    on      every device in service is announced and its values kept current
    clear   what an earlier run announced is removed
    off     nothing is read or written

What stands on the broker is learned from the broker: the retained announcements are read, and those
of ours that should not be there (a device retired or erased, or the mode is `clear`) are emptied.
All is sent again when the broker was reconnected, or Home Assistant says that it came online.

`notice` is for the owner loop and only takes note; `step` is for the housekeeping thread.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable

from fieldloop_contract.errors import RetryLater
from fieldloop_runtime.journal import Journal
from fieldloop_store.engine import Store
from fieldloop_store.fleet import devices_with_slots, slot_views
from fieldloop_telemetry import homeassistant as forms
from fieldloop_telemetry.settings import HomeAssistantSettings

_NOTICES_MAX = 20_000
_MESSAGES_PER_STEP = 100
Publish = Callable[[str, bytes], object]


def discovery_filters(settings: HomeAssistantSettings) -> list[str]:
    """What to subscribe to."""
    if settings.mode == "off":
        return []
    return [f"{settings.prefix}/status", f"{settings.prefix}/device/+/config"]


class Discovery:
    """The announcements of all devices.

    Args:
        publish: retained, to the broker; raises RetryLater where it cannot.
    """

    def __init__(
        self, settings: HomeAssistantSettings, *, store: Store, publish: Publish, journal: Journal
    ) -> None:
        self._settings = settings
        self._store = store
        self._publish = publish
        self._journal = journal
        self._notices: deque[tuple[str, bytes]] = deque(maxlen=_NOTICES_MAX)
        self._standing: dict[str, dict[str, str]] = {}
        self._sent: dict[str, bytes] = {}
        self._wanted: dict[str, bytes] = {}
        self._looked_at_s = float("-inf")

    def connected(self) -> None:
        """The broker was connected; it may have lost everything."""
        self._notices.append(("", b""))

    def notice(self, topic: str, payload: bytes) -> bool:
        """Take note of a message; False where it is none of ours."""
        own = topic.startswith(f"{self._settings.prefix}/") and self._settings.mode != "off"
        if own:
            self._notices.append((topic, payload))
        return own

    def step(self, now_s: float) -> None:
        """Bring the broker up to date, a bounded number of messages at a time.

        Raises:
            RetryLater: the store is away.
        """
        self._take_notices()
        if now_s - self._looked_at_s >= self._settings.interval_s:
            self._looked_at_s = now_s
            self._wanted = self._look() if self._settings.mode == "on" else {}
            self._empty_what_is_gone()
        budget = _MESSAGES_PER_STEP
        for topic, payload in list(self._wanted.items()):
            if budget == 0:
                break
            if self._sent.get(topic) == payload:
                continue
            try:
                self._publish(topic, payload)
            except RetryLater:
                return
            budget -= 1
            self._note_sent(topic, payload)

    def _empty_what_is_gone(self) -> None:
        gone = (self._standing.keys() | self._sent.keys()) - self._wanted.keys()
        for topic in gone:
            self._wanted[topic] = b""
            device = forms.device_of(topic)
            if device is not None:
                # Its values may be from an earlier run, of which nothing is known here.
                self._wanted[forms.state_topic(self._settings.state_root, *device)] = b""

    def _note_sent(self, topic: str, payload: bytes) -> None:
        if payload:
            self._sent[topic] = payload
            if topic.startswith(f"{self._settings.prefix}/device/"):
                self._standing[topic] = _platforms(payload)
            return
        self._sent.pop(topic, None)
        self._standing.pop(topic, None)
        self._wanted.pop(topic, None)

    def _take_notices(self) -> None:
        while self._notices:
            topic, payload = self._notices.popleft()
            if topic.endswith("/status"):
                if payload == b"online":
                    self._sent.clear()
            elif not topic:
                self._sent.clear()
                self._standing.clear()
            elif payload and forms.is_ours(payload):
                self._standing.setdefault(topic, _platforms(payload))

    def _look(self) -> dict[str, bytes]:
        """What should stand on the broker now: announcements and values by topic."""
        settings = self._settings
        wanted: dict[str, bytes] = {}
        for fleet, device, name in devices_with_slots(self._store, settings.devices_max):
            views = slot_views(self._store, fleet, device)
            state_topic = forms.state_topic(settings.state_root, fleet, device)
            config_topic = forms.config_topic(settings.prefix, fleet, device)
            entities = forms.components(fleet, device, views, state_topic)
            standing = self._standing.get(config_topic, {})
            removed = {key: p for key, p in standing.items() if key not in entities}
            wanted[state_topic] = forms.state(views)
            wanted[config_topic] = forms.config(fleet, device, name, entities, removed)
        return wanted


def _platforms(payload: bytes) -> dict[str, str]:
    """The entities that an announcement brings, as platform by key; those it removes left out."""
    parts = json.loads(payload).get("cmps")
    if not isinstance(parts, dict):
        return {}
    return {
        str(key): str(part.get("p"))
        for key, part in parts.items()
        if isinstance(part, dict) and len(part) > 1
    }
