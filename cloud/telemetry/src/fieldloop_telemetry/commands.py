"""The commands beside `run`: devices, machines, labels, retention, and the export of a bare log.

They write telemetry's tables as telemetry does, each change one transaction, while the service runs
or not. Each prints one JSON document.
"""

from __future__ import annotations

import argparse
import getpass
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fieldloop_contract.errors import FixConfiguration
from fieldloop_contract.frames import Frame
from fieldloop_store import devices, machines
from fieldloop_store.auditing import audit_trail
from fieldloop_store.engine import Store
from fieldloop_store.export import open_sink, write_samples
from fieldloop_store.labels import import_csv
from fieldloop_store.retention import load_policy, retire

Answer = dict[str, Any]
_CHUNK_ROWS = 500
_ACTIONS = ("list", "audit", "rename", "retire", "reinstate", "replace", "erase")


def add_commands(commands: Any) -> dict[str, Callable[[argparse.Namespace], Answer]]:
    """Add the parsers; returns what each command does, by name."""
    command = commands.add_parser("devices", help="list, rename, retire, replace, erase devices")
    _common(command)
    command.add_argument("action", choices=_ACTIONS)
    command.add_argument("device", nargs="?", help="its id")
    command.add_argument("value", nargs="?", help="rename: the name; replace: the new device's id")

    command = commands.add_parser("machines", help="machines, and the streams that measure them")
    _common(command)
    command.add_argument("action", choices=("list", "put", "assign", "assignments"))
    command.add_argument("machine", nargs="?")
    command.add_argument("--site", default="")
    command.add_argument("--nameplate", default="{}", help="a JSON object")
    command.add_argument("--device", help="assign: whose stream")
    command.add_argument("--stream")
    command.add_argument("--mounting", default="")
    command.add_argument("--from-ns", type=int, help="assign: from when; now by default")
    command.add_argument("--to-ns", type=int, help="assign: until when; open by default")

    command = commands.add_parser("labels", help="import labels from a CSV file")
    _common(command)
    command.add_argument("action", choices=("import",))
    command.add_argument("file", type=Path, help="header: device,stream,t0_ns,t1_ns,label")
    command.add_argument("--source", default="csv", help="the id under which these labels stand")
    command.add_argument("--annotator", default="", help="for lines that name none")

    command = commands.add_parser("retain", help="apply a retention policy once")
    command.add_argument("--store", required=True, help="URL of the store")
    command.add_argument("--policy", required=True, help="the policy, a JSON file")

    command = commands.add_parser("export-log", help="write a device's bare log file as open files")
    command.add_argument("log", type=Path, help="the log's SQLite file; no cloud is needed")
    command.add_argument("folder", type=Path)
    command.add_argument("--format", choices=("parquet", "csv"), default="csv")
    return {
        "devices": _devices,
        "machines": _machines,
        "labels": _labels,
        "retain": _retain,
        "export-log": _export_log,
    }


def _common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--store", required=True, help="URL of the store")
    command.add_argument("--fleet", required=True)
    command.add_argument("--actor", default="", help="who does it, for the audit; the user's name")


def _devices(arguments: argparse.Namespace) -> Answer:
    fleet, device, value = arguments.fleet, arguments.device, arguments.value
    if arguments.action not in ("list", "audit") and device is None:
        raise FixConfiguration(f"{arguments.action} which device?")
    if arguments.action in ("rename", "replace") and value is None:
        raise FixConfiguration(f"{arguments.action} {device} to what?")
    who: Any = {"actor": _actor(arguments), "now_ns": time.time_ns()}
    store = Store.open(arguments.store)
    try:
        match arguments.action:
            case "list":
                return {"devices": [asdict(row) for row in devices.list_devices(store, fleet)]}
            case "audit":
                found = audit_trail(store, fleet, device=device)
                return {"changes": [asdict(row) for row in found]}
            case "rename":
                devices.rename_device(store, fleet, device, value, **who)
            case "retire":
                devices.retire_device(store, fleet, device, **who)
            case "reinstate":
                devices.reinstate_device(store, fleet, device, **who)
            case "replace":
                devices.replace_device(store, fleet, device, value, **who)
            case "erase":
                return asdict(devices.erase_device(store, fleet, device, **who))
        return {"device": device, "done": arguments.action}
    finally:
        store.close()


def _machines(arguments: argparse.Namespace) -> Answer:
    fleet, machine, now_ns = arguments.fleet, arguments.machine, time.time_ns()
    if arguments.action in ("put", "assign") and machine is None:
        raise FixConfiguration(f"{arguments.action} which machine?")
    if arguments.action == "assign" and not (arguments.device and arguments.stream):
        raise FixConfiguration("assign needs --device and --stream")
    store = Store.open(arguments.store)
    try:
        if arguments.action == "list":
            names = ("machine", "site", "nameplate")
            rows = machines.list_machines(store, fleet)
            return {"machines": [dict(zip(names, row, strict=True)) for row in rows]}
        if arguments.action == "assignments":
            found = machines.assignments_of(store, fleet, device=arguments.device, machine=machine)
            return {"assignments": [asdict(row) for row in found]}
        if arguments.action == "put":
            try:
                plate = json.loads(arguments.nameplate)
            except ValueError as error:
                raise FixConfiguration(f"--nameplate is no JSON: {error}") from error
            if not isinstance(plate, dict):
                raise FixConfiguration("--nameplate is a JSON object")
            machines.put_machine(
                store, fleet, machine, site=arguments.site, nameplate=plate, now_ns=now_ns
            )
        else:
            machines.assign_stream(
                store,
                fleet,
                arguments.device,
                arguments.stream,
                machine,
                from_ns=now_ns if arguments.from_ns is None else arguments.from_ns,
                to_ns=arguments.to_ns,
                mounting=arguments.mounting,
                actor=_actor(arguments),
                now_ns=now_ns,
            )
        return {"machine": machine, "done": arguments.action}
    finally:
        store.close()


def _labels(arguments: argparse.Namespace) -> Answer:
    store = Store.open(arguments.store)
    try:
        done = import_csv(
            store,
            arguments.fleet,
            arguments.file,
            source=arguments.source,
            annotator=arguments.annotator,
            now_ns=time.time_ns(),
        )
    finally:
        store.close()
    refused = [{"label": at, "reason": reason} for at, reason in done.refused[:100]]
    return {
        "stored": done.stored,
        "again": done.again,
        "refused": len(done.refused),
        "first_refused": refused,
    }


def _retain(arguments: argparse.Namespace) -> Answer:
    policy = load_policy(arguments.policy)
    store = Store.open(arguments.store)
    deleted: dict[str, int] = {}
    try:
        for step in retire(store, policy, time.time_ns()):
            deleted[step.table] = deleted.get(step.table, 0) + step.deleted
    finally:
        store.close()
    return {"removed": deleted}


def _export_log(arguments: argparse.Namespace) -> Answer:
    """Samples of each stream as a table, everything else as JSON lines in one table a kind."""
    try:
        from fieldloop_buffer import Kind, Reader, unpack_frame  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise FixConfiguration(
            "reading a log needs fieldloop-buffer", hint="install fieldloop-telemetry[export]"
        ) from error
    if not arguments.log.is_file():
        raise FixConfiguration(f"there is no log at {arguments.log}")
    if arguments.folder.exists() and any(arguments.folder.iterdir()):
        raise FixConfiguration(f"{arguments.folder} is not empty")

    def rows(kind: Kind, stream: str | None = None) -> Iterator[Any]:
        reader, cursor = Reader(str(arguments.log)), None
        try:
            while True:
                chunk = reader.read(
                    cursor,
                    kinds=(kind,),
                    streams=None if stream is None else (stream,),
                    limit=_CHUNK_ROWS,
                )
                yield from chunk.rows
                if chunk.cursor == cursor:
                    return
                cursor = chunk.cursor
        finally:
            reader.close()

    def framed(kind: Kind, stream: str) -> Iterator[tuple[str, int, Frame]]:
        for row in rows(kind, stream):
            yield row.epoch, row.seq, unpack_frame(row.payload)

    counts: Answer = {}
    for kind in Kind:
        if kind in (Kind.FRAME, Kind.SAMPLE):
            for stream in sorted({row.stream for row in rows(kind)}):
                name = f"{kind.value}s-{stream}"
                path = arguments.folder / f"{name}.{arguments.format}"
                counts[name] = write_samples(framed(kind, stream), path)
            continue
        path = arguments.folder / f"{kind.value}s.{arguments.format}"
        types = {"epoch": "string", "seq": "int64", "stream": "string", "t_ns": "int64"}
        found = 0
        with open_sink(path, types | {"document": "string"}) as sink:
            for row in rows(kind):
                document = row.payload.decode()
                values = {"epoch": row.epoch, "seq": row.seq, "stream": row.stream}
                sink.write([values | {"t_ns": row.t_ns, "document": document}])
                found += 1
        counts[f"{kind.value}s"] = found
    return {"rows": counts}


def _actor(arguments: argparse.Namespace) -> str:
    if arguments.actor:
        return str(arguments.actor)
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
