"""The running service: one owner loop over the store, and the ways out.

A look at the events each `look_s`, a judgement of the commissionings each `assess_s`, and notices
as they are due. With the store away it waits; with a channel away the notice is tried again. There
is no other thread but the session's.
"""

from __future__ import annotations

import time

from prometheus_client import Counter, Gauge

from fieldloop_contract.errors import FieldloopError, RetryLater
from fieldloop_machines.attendant import EVENTS_AT_ONCE, Attendant
from fieldloop_machines.channels import SERVICE, channels_of
from fieldloop_machines.outbox import send_due
from fieldloop_machines.settings import MachinesSettings
from fieldloop_machines.watching import watch
from fieldloop_runtime.health import Health
from fieldloop_runtime.journal import Journal, Throttle
from fieldloop_runtime.life import ExitCode, Life
from fieldloop_runtime.mqtt import Session
from fieldloop_store.alarms import count_open
from fieldloop_store.engine import Store

LOOP_SILENT_S_MAX = 120.0


def serve(life: Life, settings: MachinesSettings, health: Health) -> None:
    """Look after the machines until `life` ends.

    Raises:
        FixConfiguration: the store's URL, or a channel, is set up wrongly.
    """
    journal = Journal(SERVICE)
    session = (
        Session(settings.mqtt, f"{settings.fleet}/_{SERVICE}", confirm=False)
        if settings.publish
        else None
    )
    channels = channels_of(settings, session)
    store = Store.open(settings.store_url)
    standing = Gauge("fieldloop_machines_alarms_open", "open alarms", registry=health.registry)
    taken = Counter("fieldloop_machines_events", "alarm events taken", registry=health.registry)
    attendant = Attendant(
        store,
        settings.fleet,
        channels=sorted(channels),
        broker=settings.mqtt.host,
        journal=journal,
        settle_ns=int(settings.settle_s * 1e9),
    )
    away = Throttle(60.0)
    assessed_s = float("-inf")
    journal.info("service.started", fleet=settings.fleet, channels=sorted(channels))
    if session is not None:
        session.start()
    try:
        while not life.stop.is_set():
            health.tick("look", LOOP_SILENT_S_MAX)
            try:
                count = attendant.look(time.time_ns())
                taken.inc(count)
                if time.monotonic() - assessed_s >= settings.assess_s:
                    assessed_s = time.monotonic()
                    attendant.assess(time.time_ns())
                    watch(
                        store, settings.fleet, journal, now_ns=time.time_ns(),
                        span_ns=round(settings.watch_s * 1e9),
                    )  # fmt: skip
                send_due(store, settings.fleet, channels, journal, time.time_ns())
                standing.set(count_open(store, settings.fleet))
                if count >= EVENTS_AT_ONCE:
                    continue
            except RetryLater as error:
                if away.allow():
                    journal.warning("store.away", error=str(error))
            except FieldloopError as error:
                if away.allow():
                    journal.error("look.failed", code=error.code, error=str(error))
            _listen(session, life, settings.look_s)
    finally:
        if session is not None:
            session.stop()
        store.close()
        journal.info("service.stopped")


def _listen(session: Session | None, life: Life, seconds: float) -> None:
    """Wait for the next look; the session's events are taken, so that its queue stays empty."""
    end_s = time.monotonic() + seconds
    while not life.stop.is_set() and (left_s := end_s - time.monotonic()) > 0:
        if session is None:
            life.stop.wait(left_s)
            continue
        session.poll(min(left_s, 0.5))
        if not session.alive:
            life.fail(ExitCode.THREAD_DIED)
