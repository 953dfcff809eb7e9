"""`fleet run`: looks at container rollouts again and again, and writes results back as tags.

A process of its own beside the delivery service: a call to balena may take its whole time-out, and
the orders of models must not wait for it. One for each fleet.
"""

from __future__ import annotations

import time
from typing import Final

from fieldloop_contract.errors import FieldloopError, FixConfiguration, RetryLater
from fieldloop_delivery.fleets.containers import ContainerRollouts
from fieldloop_delivery.fleets.inventory import CachedInventory
from fieldloop_delivery.fleets.open import open_backend
from fieldloop_delivery.fleets.results import ModelTags
from fieldloop_delivery.policy import Plan
from fieldloop_delivery.settings import DeliverySettings
from fieldloop_runtime.health import Health
from fieldloop_runtime.journal import Journal, Throttle
from fieldloop_runtime.life import Life
from fieldloop_store.engine import Store
from fieldloop_store.steering import MQTT, WEBHOOK

IDLE_S: Final = 10.0
LOOK_SILENT_S_MAX: Final = 600.0


def run(
    running: Life,
    settings: DeliverySettings,
    store: Store,
    plan: Plan,
    *,
    health: Health,
    journal: Journal,
) -> None:
    """Until told to stop.

    Raises:
        FixConfiguration: nobody manages this fleet's containers.
    """
    balena = settings.balena
    if not balena.fleet:
        raise FixConfiguration(
            "nobody manages this fleet's containers, so there is nothing to run",
            code="fleet.unmanaged",
            hint="with balena, set FIELDLOOP_BALENA_FLEET",
        )
    backend = open_backend(settings, store)
    inventory = CachedInventory(backend, fresh_s=balena.fresh_s, stale_s_max=balena.stale_s_max)
    rollouts = ContainerRollouts(
        store,
        settings.fleet,
        balena.fleet,
        backend,
        inventory,
        plan,
        journal=journal,
        grace_s=balena.grace_s,
        due=(MQTT if settings.notices else 0) + (WEBHOOK if settings.webhook_url else 0),
    )
    tags = ModelTags(store, settings.fleet, backend, inventory)
    noise = Throttle(60)
    journal.info("service.started", fleet=settings.fleet, balena=balena.fleet)
    try:
        while not running.stop.is_set():
            try:
                busy = bool(rollouts.look(time.time_ns()))
                busy = tags.look(time.time_ns()) or busy
                health.tick("look", LOOK_SILENT_S_MAX)
            except RetryLater as error:
                busy = True
                if noise.allow():
                    journal.warning("fleet.away", code=error.code, error=str(error))
            except FieldloopError as error:
                busy = False
                if noise.allow():
                    journal.error("look.failed", code=error.code, error=str(error))
            health.tick("loop", LOOK_SILENT_S_MAX)
            running.stop.wait(min(settings.look_s, IDLE_S) if busy else IDLE_S)
    finally:
        backend.close()
