"""`fieldloop-delivery`: keys, models from elsewhere, the running service, and what it is doing.

The composition root: everything that the service stands on is made here and passed in.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from fieldloop_contract.errors import FieldloopError
from fieldloop_delivery import commands
from fieldloop_delivery.bundles import ChunkSource
from fieldloop_delivery.fleet import Fleet
from fieldloop_delivery.fleets import commands as fleet_commands
from fieldloop_delivery.fleets import loop as fleet_loop
from fieldloop_delivery.keys import KeyRing
from fieldloop_delivery.packing import Packings
from fieldloop_delivery.policy import load_policy
from fieldloop_delivery.profiles import Profiles
from fieldloop_delivery.repository import Lifetimes, Repository
from fieldloop_delivery.service import Delivery
from fieldloop_delivery.settings import DeliverySettings
from fieldloop_runtime import health, journal, life
from fieldloop_runtime.settings import load
from fieldloop_store.engine import Store
from fieldloop_store.steering import MQTT, WEBHOOK


def main(arguments: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Run one command; returns the exit status."""
    options = commands.parser().parse_args(arguments)
    log_level = environ.get("FIELDLOOP_LOG_LEVEL", "INFO")
    journal.configure(log_level)
    variables = {k: v for k, v in environ.items() if k != "FIELDLOOP_LOG_LEVEL"}
    if options.command == "run":
        return life.run("delivery", lambda running: serve(running, variables))
    if options.command == "fleet" and options.action == "run":
        return life.run("delivery-fleet", lambda running: serve_fleet(running, variables))
    try:
        if options.command == "fleet":
            return fleet_commands.run(options, load(DeliverySettings, variables), variables)
        return commands.run(options, variables)
    except FieldloopError as error:
        print(f"fieldloop-delivery: {error}", file=sys.stderr)  # noqa: T201
        return int(life.ExitCode.CONFIGURATION)


def serve(running: life.Life, environ: Mapping[str, str]) -> None:
    """The service's body."""
    settings = load(DeliverySettings, environ)
    log = journal.Journal("delivery")
    folder = Path(settings.dir)
    lifetimes = Lifetimes(
        timestamp=timedelta(hours=settings.timestamp_hours),
        director=timedelta(days=settings.order_days),
    )
    policy = load_policy(Path(settings.policy))
    repository = Repository.open(
        folder, KeyRing(folder / "keys"), fleet=settings.fleet, lifetimes=lifetimes
    )
    store = Store.open(settings.store_url)
    state = health.Health()
    stop_health = health.serve(state, settings.health)
    try:
        chunks = ChunkSource(
            store,
            packings=Packings(folder / "packed", settings.chunk_bytes, compressed=settings.deltas),
            chunk_bytes=settings.chunk_bytes,
            retained_bytes_max=settings.retained_bytes_max,
            public=Path(settings.public_dir) if settings.public_dir else None,
        )
        fleet = Fleet(
            store, repository, policy, service=settings.service, journal=log, chunks=chunks,
            due=(MQTT if settings.notices else 0) + (WEBHOOK if settings.webhook_url else 0),
            profiles=Profiles(settings.profiles_dir, log),
        )  # fmt: skip
        log.info("service.started", fleet=settings.fleet, slots=[s.slot for s in policy.slots])
        Delivery(settings, store, fleet, health=state, journal=log).run(running)
    finally:
        stop_health()
        store.close()


def serve_fleet(running: life.Life, environ: Mapping[str, str]) -> None:
    """The body of `fleet run`: container rollouts, in a process beside the service."""
    settings = load(DeliverySettings, environ)
    plan = load_policy(Path(settings.policy)).containers
    log = journal.Journal("delivery-fleet")
    store = Store.open(settings.store_url)
    state = health.Health()
    stop_health = health.serve(state, settings.health)
    try:
        fleet_loop.run(running, settings, store, plan, health=state, journal=log)
    finally:
        stop_health()
        store.close()


if __name__ == "__main__":
    sys.exit(main())
