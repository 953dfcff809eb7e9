"""What a running console is made of: passed to every route and page, made once in `app`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fieldloop_console.actions import Actions
from fieldloop_console.conditions import Conditions
from fieldloop_console.gate import Gate
from fieldloop_console.pulse import Pulse
from fieldloop_console.settings import ConsoleSettings
from fieldloop_console.waveform import Waveforms
from fieldloop_runtime.journal import Journal
from fieldloop_store.engine import Store


@dataclass(frozen=True, slots=True)
class Console:
    """Store, settings, and the rooms that stand on them.

    Attributes:
        url: what people open, without a slash at the end.
        stop: set when the process ends; whoever waits for something ends too.
    """

    store: Store
    settings: ConsoleSettings
    gate: Gate
    actions: Actions
    pulse: Pulse
    waveforms: Waveforms
    conditions: Conditions
    url: str
    journal: Journal
    now_ns: Callable[[], int] = time.time_ns
    stop: threading.Event = field(default_factory=threading.Event)


def make_console(
    store: Store,
    settings: ConsoleSettings,
    *,
    url: str,
    journal: Journal,
    now_ns: Callable[[], int] = time.time_ns,
) -> Console:
    """Put a console together on an open store."""
    gate = Gate(store, now_ns, session_hours=settings.session_hours)
    return Console(
        store=store,
        settings=settings,
        gate=gate,
        actions=Actions(store, gate, now_ns),
        pulse=Pulse(store, settings.fleet_list(), now_ns),
        waveforms=Waveforms(store),
        conditions=Conditions(store, now_ns),
        url=url.rstrip("/"),
        journal=journal,
        now_ns=now_ns,
    )
