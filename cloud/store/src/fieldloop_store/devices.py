"""The registry of devices: named, retired, replaced, erased.

A device's id is its identity on the wire and never changes; what a person calls it is its `name`. A
row of `devices` appears when a device is first heard; what people say of it is written here, each
change in one transaction with its entry in `device_audit`.

Telemetry's `devices` command calls the writing functions, and whoever administrates in its place;
reading is for all. Any thread. All raise RetryLater where the database is away.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Table, and_, delete, insert, or_, select, update

from fieldloop_contract.errors import RejectedInput
from fieldloop_contract.ids import check_id
from fieldloop_store.auditing import checked_text, write_audit
from fieldloop_store.engine import Store, insert_into
from fieldloop_store.ledger import logs_of
from fieldloop_store.machines import end_assignments
from fieldloop_store.retirement import add_retired, lock_retirement, of_log, ranges_of
from fieldloop_store.rows import LOG_TABLES, LogKey
from fieldloop_store.schema import datasets, devices, ledgers, metadata, stream_assignments

ROWS_MAX = 10_000
_ERASE_ROWS = 2_000
ACTIVE, RETIRED, REPLACED = "active", "retired", "replaced"


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """A device as the registry knows it."""

    device: str
    name: str
    state: str
    successor: str | None
    first_seen_ns: int


@dataclass(frozen=True, slots=True)
class Erasure:
    """What an erasure removed, and which datasets (by digest) were made from the device's data."""

    rows: dict[str, int]
    datasets: list[str]


def list_devices(store: Store, fleet: str) -> list[DeviceRow]:
    """All devices of a fleet by id, at most `ROWS_MAX`."""
    d = devices.c
    query = (
        select(d.device, d.name, d.state, d.successor, d.first_seen_ns)
        .where(d.fleet == fleet)
        .order_by(d.device)
        .limit(ROWS_MAX)
    )
    with store.read() as connection:
        return [
            DeviceRow(r.device, r.name or r.device, r.state or ACTIVE, r.successor, r.first_seen_ns)
            for r in connection.execute(query)
        ]


def rename_device(
    store: Store, fleet: str, device: str, name: str, *, actor: str, now_ns: int
) -> None:
    """Say what people call a device. Raises RejectedInput: no such device, or no such name."""
    _change(store, fleet, device, "renamed", {"name": checked_text(name, "name")}, actor, now_ns)


def retire_device(store: Store, fleet: str, device: str, *, actor: str, now_ns: int) -> None:
    """Take a device out of service: its streams leave their machines, its rows stay.

    What it still sends is stored all the same. Raises RejectedInput: no such device.
    """
    with store.begin() as connection:
        end_assignments(connection, fleet, device, now_ns)
        _set(connection, fleet, device, "retired", {"state": RETIRED}, actor, now_ns)


def reinstate_device(store: Store, fleet: str, device: str, *, actor: str, now_ns: int) -> None:
    """Bring a retired device back into service; streams are assigned anew by hand."""
    values = {"state": ACTIVE, "successor": None}
    _change(store, fleet, device, "reinstated", values, actor, now_ns)


def replace_device(
    store: Store, fleet: str, old: str, new: str, *, actor: str, now_ns: int
) -> None:
    """Put `new` in the place of `old`: its name and, from now on, its machines.

    `new` need not have been heard yet. Raises RejectedInput: no device `old`, or `old` is `new`.
    """
    check_id(new, "device")
    if old == new:
        raise RejectedInput("a device cannot replace itself", code="device.replace")
    with store.begin() as connection:
        first = {"fleet": fleet, "device": new, "first_seen_ns": now_ns}
        connection.execute(insert_into(connection, devices).on_conflict_do_nothing(), first)
        name = connection.execute(
            select(devices.c.name).where(devices.c.fleet == fleet, devices.c.device == old)
        ).scalar()
        for row in end_assignments(connection, fleet, old, now_ns):
            connection.execute(
                insert(stream_assignments).values(
                    fleet=fleet,
                    device=new,
                    stream=row.stream,
                    from_ns=now_ns,
                    machine=row.machine,
                    mounting=row.mounting,
                )
            )
        gone = {"state": REPLACED, "successor": new}
        _set(connection, fleet, old, "replaced", gone, actor, now_ns)
        taken = {"state": ACTIVE, "name": name}
        _set(connection, fleet, new, "replaces", taken, actor, now_ns, {"predecessor": old})


def erase_device(store: Store, fleet: str, device: str, *, actor: str, now_ns: int) -> Erasure:
    """Remove every row of a device, and every label of it, from all tables.

    What stays: who erased it, when and how many rows, and which seqs of each log they were, so that
    the device is not asked for them again. Take its access to the broker away first, or it comes
    back. Copies in backups, in datasets and on the device itself are not touched; the datasets are
    named. An erasure that was interrupted is finished by doing it again.

    Raises:
        RejectedInput: the id cannot be one.
    """
    check_id(fleet, "fleet")
    check_id(device, "device")
    removed: dict[str, int] = defaultdict(int)
    with store.begin() as connection:
        write_audit(connection, fleet, device, "erasure begun", actor, {}, now_ns)
        logs = logs_of(connection, fleet=fleet, device=device)
        for log in logs:
            produced = connection.execute(
                select(ledgers.c.produced).where(of_log(ledgers, log))
            ).scalar()
            if produced:
                lock_retirement(connection)
                add_retired(connection, log, [(1, produced)])
    for table in LOG_TABLES.values():
        own = and_(table.c.fleet == fleet, table.c.device == device)
        if table.name == "annotations":
            own = or_(own, and_(table.c.fleet == fleet, table.c.about_device == device))
        while (count := _erase_some(store, table, own)) > 0:
            removed[table.name] += count
    with store.begin() as connection:
        for table in metadata.sorted_tables:
            kept = table.name in LOG_TABLES or table.name in ("retired", "device_audit")
            if not kept and {"fleet", "device"} <= set(table.c.keys()):
                own = and_(table.c.fleet == fleet, table.c.device == device)
                removed[table.name] += connection.execute(delete(table).where(own)).rowcount
        named = _datasets_of(connection, fleet, device)
        rows = {name: count for name, count in sorted(removed.items()) if count}
        detail = {"rows": rows, "datasets": named}
        write_audit(connection, fleet, device, "erased", actor, detail, now_ns)
    return Erasure(rows, named)


def _erase_some(store: Store, table: Table, own: Any) -> int:
    key = [table.c[name] for name in ("fleet", "device", "service", "epoch", "seq")]
    with store.begin() as connection:
        if connection.dialect.name == "sqlite":
            # Overwrite what is freed, so that it cannot be read from the file.
            connection.exec_driver_sql("PRAGMA secure_delete=ON")
        lock_retirement(connection)
        by_log: dict[LogKey, list[int]] = defaultdict(list)
        for row in connection.execute(select(*key).where(own).limit(_ERASE_ROWS)):
            by_log[LogKey(*row[:4])].append(row[4])
        for log, seqs in by_log.items():
            for at in range(0, len(seqs), 500):
                some = seqs[at : at + 500]
                connection.execute(delete(table).where(of_log(table, log), table.c.seq.in_(some)))
            add_retired(connection, log, ranges_of(seqs))
    return sum(len(seqs) for seqs in by_log.values())


def _datasets_of(connection: Connection, fleet: str, device: str) -> list[str]:
    """Datasets whose query or summary names the device."""
    named = []
    needle = json.dumps(device)
    query = select(datasets.c.digest, datasets.c.query, datasets.c.summary)
    for row in connection.execute(query.where(datasets.c.fleet == fleet).limit(ROWS_MAX)):
        if needle in json.dumps([row.query, row.summary]):
            named.append(row.digest)
    return sorted(named)


def _change(
    store: Store,
    fleet: str,
    device: str,
    action: str,
    values: dict[str, Any],
    actor: str,
    now_ns: int,
) -> None:
    with store.begin() as connection:
        _set(connection, fleet, device, action, values, actor, now_ns)


def _set(
    connection: Connection,
    fleet: str,
    device: str,
    action: str,
    values: dict[str, Any],
    actor: str,
    now_ns: int,
    detail: dict[str, Any] | None = None,
) -> None:
    d = devices.c
    changed = connection.execute(
        update(devices)
        .where(d.fleet == fleet, d.device == device)
        .values(**values, changed_ns=now_ns)
    )
    if changed.rowcount != 1:
        raise RejectedInput(f"no device {device!r:.80} in {fleet!r:.80}", code="device.unknown")
    write_audit(connection, fleet, device, action, actor, {**values, **(detail or {})}, now_ns)
