"""`python -m fieldloop_telemetry`: run the service, print the books, administrate its tables.

Owns the composition root: everything the loop needs is made here and passed in.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import uuid
from functools import partial
from random import Random

from fieldloop_contract.errors import FieldloopError, Isolate, RejectedInput, RetryLater
from fieldloop_runtime import health, journal, life
from fieldloop_runtime.backoff import full_jitter
from fieldloop_runtime.journal import Journal
from fieldloop_runtime.life import ExitCode, Life
from fieldloop_runtime.mqtt import Session
from fieldloop_runtime.settings import help_text, load
from fieldloop_store.engine import Store
from fieldloop_store.retention import load_policy
from fieldloop_telemetry.books import print_books
from fieldloop_telemetry.commands import add_commands
from fieldloop_telemetry.discovery import Discovery
from fieldloop_telemetry.housekeeping import Housekeeping
from fieldloop_telemetry.service import Telemetry, subscriptions
from fieldloop_telemetry.settings import StoreSettings, TelemetrySettings

_EXAMPLE = """
  FIELDLOOP_STORE_URL=sqlite:////var/lib/fieldloop/store.sqlite python -m fieldloop_telemetry run
  python -m fieldloop_telemetry ledger --store sqlite:////var/lib/fieldloop/store.sqlite
  python -m fieldloop_telemetry devices --store URL --fleet demo replace pump-7 pump-8
  python -m fieldloop_telemetry machines --store URL --fleet demo assign press-2 \
      --device pump-8 --stream imu
  python -m fieldloop_telemetry labels --store URL --fleet demo import labels.csv
  python -m fieldloop_telemetry retain --store URL --policy retention.json
  python -m fieldloop_telemetry export-log ingestion.sqlite exported/

Backup, restore and export of the store: python -m fieldloop_store --help

"""


def main() -> int:
    """Parse the command line and do it; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="fieldloop-telemetry",
        description="Takes what devices send over MQTT, commits it to the store, and only then\n"
        "acknowledges it. Rows that are wrong go to the dead letters with their reason.",
        epilog=_EXAMPLE + help_text(TelemetrySettings),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="run the service; settings come from the environment")
    ledger = commands.add_parser(
        "ledger", help="print the books of every log; exit status 1 if they do not balance"
    )
    ledger.add_argument("--store", required=True, help="URL of the store")
    ledger.add_argument("--fleet", help="only this fleet")
    ledger.add_argument("--device", help="only this device")
    ledger.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    others = add_commands(commands)
    arguments = parser.parse_args()
    if arguments.command == "run":
        return life.run("telemetry", run)
    try:
        if arguments.command in others:
            json.dump(others[arguments.command](arguments), sys.stdout, ensure_ascii=False)
            sys.stdout.write("\n")
            return ExitCode.OK
        balanced = print_books(
            arguments.store,
            fleet=arguments.fleet,
            device=arguments.device,
            as_json=arguments.json,
            out=sys.stdout,
        )
    except (RejectedInput, Isolate) as error:
        sys.stderr.write(f"fieldloop-telemetry: {error}\n")
        return ExitCode.FAILED
    except FieldloopError as error:
        sys.stderr.write(f"fieldloop-telemetry: {error}\n")
        return ExitCode.CONFIGURATION
    return ExitCode.OK if balanced else ExitCode.FAILED


def run(current: Life) -> None:
    """The composition root of the service."""
    settings = load(TelemetrySettings, os.environ)
    journal.configure(settings.log_level)
    log = Journal("telemetry")
    state = health.Health()
    policy = load_policy(settings.care.retention_file) if settings.care.retention_file else None
    stop_health = health.serve(state, settings.health)
    store = open_store(settings.store, current, log)
    if store is None:
        stop_health()
        return
    session = Session(
        settings.mqtt,
        f"telemetry-{uuid.uuid4().hex[:12]}",
        subscriptions=subscriptions(settings),
    )
    discovery = None
    if settings.home_assistant.mode != "off":
        discovery = Discovery(
            settings.home_assistant,
            store=store,
            publish=partial(session.publish, retain=True),
            journal=log,
        )
    keeping = Housekeeping(
        settings.care,
        store=store,
        publish=session.publish,
        health=state,
        journal=log,
        policy=policy,
        home=None if discovery is None else discovery.step,
    )
    session.start()
    current.spawn("housekeeping", partial(keeping.run, current))
    log.info("service.started", fleets=settings.fleets, share=settings.share)
    try:
        Telemetry(
            settings.commit,
            session=session,
            store=store,
            health=state,
            journal=log,
            discovery=discovery,
        ).run(current)
    finally:
        current.stop.set()
        current.join()
        session.stop()
        store.close()
        stop_health()
        log.info("service.stopped", exit_code=int(current.exit_code))


def open_store(settings: StoreSettings, current: Life, log: Journal) -> Store | None:
    """Open the store, waiting for it as long as the service is wanted; None when it is not."""
    random, attempt = Random(), 0
    while not current.stop.is_set():
        try:
            return Store.open(
                settings.url, busy_timeout_s=settings.busy_timeout_s, checkpoints=True
            )
        except RetryLater as error:
            log.warning("store.away", error=str(error), attempt=attempt)
            current.stop.wait(full_jitter(attempt, 0.5, 10.0, random))
            attempt += 1
    return None


if __name__ == "__main__":
    sys.exit(main())
