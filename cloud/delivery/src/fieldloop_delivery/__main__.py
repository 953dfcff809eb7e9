"""`fieldloop-delivery`: keys, the running service, and what it is doing.

The composition root: everything that the service stands on is made here and passed in.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fieldloop_contract.errors import FieldloopError
from fieldloop_delivery.fleet import Fleet
from fieldloop_delivery.keys import KeyRing
from fieldloop_delivery.policy import load_policy
from fieldloop_delivery.repository import Lifetimes, Repository
from fieldloop_delivery.service import Delivery
from fieldloop_delivery.settings import DeliverySettings
from fieldloop_runtime import health, journal, life
from fieldloop_runtime.settings import help_text, load
from fieldloop_store.engine import Store
from fieldloop_store.rollouts import list_rollouts

_ABOUT = """\
Signs models, publishes them to the broker as retained messages, and rolls them out in waves.

  fieldloop-delivery keys init --fleet acme --dir delivery   make keys and a signed repository
  fieldloop-delivery root --dir delivery > root.json         what devices embed
  fieldloop-delivery run                                     the service; settings below
  fieldloop-delivery status                                  rollouts, from the store

`keys init` leaves private keys in DIR/keys. In production move root-*.pem to offline media, and
targets-1.pem once the fleet's model names exist; bring them back only to sign.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="fieldloop-delivery",
        description=_ABOUT,
        epilog=help_text(DeliverySettings),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True)
    keys = commands.add_parser("keys", help="make the fleet's keys")
    actions = keys.add_subparsers(dest="action", required=True)
    init = actions.add_parser("init", help="make all keys and the first signed repository")
    init.add_argument("--fleet", required=True, help="id of the fleet")
    init.add_argument("--dir", type=Path, required=True, help="folder of keys/ and metadata/")
    init.add_argument("--root-keys", type=int, default=3, help="number of root keys")
    init.add_argument("--root-threshold", type=int, default=2, help="of them must sign a root")
    root = commands.add_parser("root", help="print the newest root.json, which devices embed")
    root.add_argument("--fleet", help="id of the fleet; checked against the repository if given")
    root.add_argument("--dir", type=Path, required=True, help="folder of the repository")
    root.add_argument("--out", type=Path, help="file to write instead of stdout")
    commands.add_parser("run", help="run the service")
    commands.add_parser("status", help="print rollouts from the store")
    return top


def main(arguments: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Run one command; returns the exit status."""
    options = parser().parse_args(arguments)
    log_level = environ.get("FIELDLOOP_LOG_LEVEL", "INFO")
    journal.configure(log_level)
    variables = {k: v for k, v in environ.items() if k != "FIELDLOOP_LOG_LEVEL"}
    if options.command == "run":
        return life.run("delivery", lambda running: serve(running, variables))
    try:
        if options.command == "keys":
            return init_keys(options)
        if options.command == "root":
            return print_root(options)
        return print_status(variables)
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
        fleet = Fleet(store, repository, policy, service=settings.service, journal=log)
        log.info("service.started", fleet=settings.fleet, slots=[s.slot for s in policy.slots])
        Delivery(settings, store, fleet, health=state, journal=log).run(running)
    finally:
        stop_health()
        store.close()


def init_keys(options: argparse.Namespace) -> int:
    """`keys init`."""
    repository = Repository.create(
        options.dir,
        KeyRing(options.dir / "keys"),
        fleet=options.fleet,
        now=datetime.now(UTC),
        root_keys=options.root_keys,
        root_threshold=options.root_threshold,
    )
    print(f"repository of fleet {repository.fleet} in {options.dir}")  # noqa: T201
    return 0


def print_root(options: argparse.Namespace) -> int:
    """`root`."""
    payload = Repository.root_of(options.dir, fleet=options.fleet)
    if options.out is not None:
        options.out.write_bytes(payload)
    else:
        sys.stdout.write(payload.decode())
    return 0


def print_status(environ: Mapping[str, str]) -> int:
    """`status`."""
    settings = load(DeliverySettings, environ)
    store = Store.open(settings.store_url)
    try:
        for row in reversed(list_rollouts(store, settings.fleet)):
            verdict = row.document.get("verdict", "")
            print(f"{row.slot}  {row.model} {row.version}  {row.state}  {verdict}")  # noqa: T201
    finally:
        store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
