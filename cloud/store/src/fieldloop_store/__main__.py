"""`python -m fieldloop_store`: back up, restore, export, bills of models. Needs no service."""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fieldloop_contract.errors import FieldloopError, FixConfiguration
from fieldloop_store.backup import restore, take
from fieldloop_store.engine import Store
from fieldloop_store.export import export_all, export_stream
from fieldloop_store.mlbom import ml_bom
from fieldloop_store.registry import find_model, load_bundle

_EXAMPLES = """
  python -m fieldloop_store backup --store sqlite:////var/lib/fieldloop/store.sqlite \\
      --keys /var/lib/fieldloop/keys /backup/2026-11-22
  python -m fieldloop_store restore --store postgresql://fieldloop@db/fieldloop \\
      --keys /var/lib/fieldloop/keys /backup/2026-11-22
  python -m fieldloop_store export --store URL --all /export
  python -m fieldloop_store mlbom --store URL --fleet demo activity 3 > activity-3.cdx.json
  python -m fieldloop_store export --store URL --fleet demo --device pump-7 --stream imu \\
      --from 2026-11-01 --to 2026-11-02 /export/imu.parquet

A backup holds private keys if --keys is given: guard it as you guard them. After a restore, start
telemetry: it asks the devices for the rows that came since, and what they still hold comes again.
"""
_CONFIGURATION, _FAILED = 78, 1  # as fieldloop_runtime.life.ExitCode, which the store does without


def main() -> int:
    """Parse the command line and do it; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="fieldloop-store",
        description="Backup, restore and export of the store, on SQLite or PostgreSQL.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("backup", "copy store, registry and keys into a new folder, while services run"),
        ("restore", "fill an empty store from such a folder, while none runs"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--store", required=True, help="URL of the store")
        command.add_argument("--keys", type=Path, help="delivery's folder of keys")
        command.add_argument("folder", type=Path, help="the backup")
    export = commands.add_parser("export", help="write open files")
    export.add_argument("--store", required=True, help="URL of the store")
    export.add_argument("--all", action="store_true", help="everything, into a folder")
    export.add_argument("--fleet", help="with --device and --stream: samples of one stream")
    export.add_argument("--device")
    export.add_argument("--stream")
    export.add_argument("--from", dest="begin", help="ISO time (UTC) or ns, inclusive")
    export.add_argument("--to", dest="end", help="ISO time (UTC) or ns, exclusive")
    export.add_argument("path", type=Path, help="folder, or file ending in .parquet or .csv")
    bill = commands.add_parser("mlbom", help="a model's bill of materials (CycloneDX)")
    bill.add_argument("--store", required=True, help="URL of the store")
    bill.add_argument("--fleet", required=True)
    bill.add_argument("model", help="name of the model")
    bill.add_argument("version", type=int, help="its version")
    arguments = parser.parse_args()
    try:
        if arguments.command == "backup":
            backup = take(
                arguments.store, arguments.folder, keys=arguments.keys, now_ns=time.time_ns()
            )
            told: dict[str, Any] = {"rows": backup.rows, "files": len(backup.files)}
        elif arguments.command == "restore":
            told = {"rows": restore(arguments.folder, arguments.store, keys=arguments.keys).rows}
        elif arguments.command == "mlbom":
            told = _ml_bom(arguments)
        else:
            told = _export(arguments)
    except FixConfiguration as error:
        sys.stderr.write(f"fieldloop-store: {error}\n")
        return _CONFIGURATION
    except FieldloopError as error:
        sys.stderr.write(f"fieldloop-store: {error}\n")
        return _FAILED
    sys.stdout.write(json.dumps(told) + "\n")
    return 0


def _ml_bom(arguments: argparse.Namespace) -> dict[str, Any]:
    store = Store.open(arguments.store, create=False)
    try:
        row = find_model(store, arguments.fleet, arguments.model, arguments.version)
        if row is None:
            raise FixConfiguration(f"there is no {arguments.model} {arguments.version}")
        return ml_bom(load_bundle(store, row.digest)[0], row.digest)
    finally:
        store.close()


def _export(arguments: argparse.Namespace) -> dict[str, object]:
    one = (arguments.fleet, arguments.device, arguments.stream)
    if arguments.all == any(one) or (any(one) and not all(one)):
        raise FixConfiguration("say --all, or --fleet, --device and --stream")
    store = Store.open(arguments.store, create=False)
    try:
        if arguments.all:
            return {"rows": export_all(store, arguments.path)}
        count = export_stream(
            store,
            *one,
            arguments.path,
            t0_ns=parse_time(arguments.begin),
            t1_ns=parse_time(arguments.end),
        )
        return {"samples": count}
    finally:
        store.close()


def parse_time(text: str | None) -> int | None:
    """UTC in ns from ns or an ISO time; a time without zone is UTC. Raises FixConfiguration.

    >>> parse_time("1970-01-01T00:00:01")
    1000000000
    """
    if text is None:
        return None
    if text.isdigit():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise FixConfiguration(f"{text!r} is no time") from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp()) * 10**9 + moment.microsecond * 1000


if __name__ == "__main__":
    sys.exit(main())
