"""Writing what devices sent: each row once, what was refused with its reason, who is there.

One call of `write` is one transaction. Rows that are already there are left as they are; the same
key with other content is a conflict, kept among the dead letters so that neither is lost. The owner
thread of telemetry calls this; on PostgreSQL any number of replicas may.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Connection,
    Float,
    Integer,
    LargeBinary,
    String,
    select,
)
from sqlalchemy.exc import SQLAlchemyError

from fieldloop_contract.errors import RetryLater
from fieldloop_contract.messages import Status
from fieldloop_store import schema
from fieldloop_store.engine import Store, insert_into
from fieldloop_store.letters import CONFLICT, Letter, keep_letters
from fieldloop_store.presence import Presence, write_presence
from fieldloop_store.rows import COLUMNS, DIGEST_AT, LOG_TABLES, LogKey, Row, content

_KEYS_IN_QUERY = 500
_PG_TYPES: dict[type[Any], str] = {
    String: "text",
    JSON: "text",
    BigInteger: "int8",
    Integer: "int4",
    Float: "float8",
    LargeBinary: "bytea",
    Boolean: "bool",
}

UNSTORABLE = "row.unstorable"


@dataclass(slots=True)
class Intake:
    """What one transaction shall store: rows by table, dead letters, presence."""

    rows: dict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))
    letters: list[Letter] = field(default_factory=list)
    presence: list[Presence] = field(default_factory=list)
    received_ns: int = 0

    def __bool__(self) -> bool:
        return bool(self.letters or self.presence or any(self.rows.values()))


@dataclass(frozen=True, slots=True)
class Conflict:
    """A key that came again with other content."""

    table: str
    log: LogKey
    seq: int


@dataclass(slots=True)
class Outcome:
    """What a transaction did.

    Attributes:
        new: rows stored, by table.
        again: rows that were there already, the same.
        conflicts: rows that were there with other content.
        letters: dead letters kept; `overflowed`: counted only.
        ignored_wills: last wills of a session that is not the last one seen.
    """

    new: dict[str, int] = field(default_factory=dict)
    again: int = 0
    conflicts: list[Conflict] = field(default_factory=list)
    letters: int = 0
    overflowed: int = 0
    ignored_wills: int = 0

    def add(self, other: Outcome) -> None:
        """Take in what another transaction did."""
        for name, count in other.new.items():
            self.new[name] = self.new.get(name, 0) + count
        self.again += other.again
        self.conflicts += other.conflicts
        self.letters += other.letters
        self.overflowed += other.overflowed
        self.ignored_wills += other.ignored_wills


def write(connection: Connection, intake: Intake) -> Outcome:
    """Store an intake within the caller's transaction.

    Raises:
        RetryLater: through the caller's `Store.begin`.
    """
    outcome = Outcome()
    letters = list(intake.letters)
    logs: set[LogKey] = {letter.log for letter in letters}
    for name in LOG_TABLES:
        rows = intake.rows.get(name)
        if not rows:
            continue
        logs.update(LogKey(*row[:4]) for row in _first_of_each_log(rows))
        new, clashes = _insert(connection, name, rows)
        outcome.new[name] = new
        outcome.again += len(rows) - new - len(clashes)
        for row in clashes:
            log = LogKey(*row[:4])
            outcome.conflicts.append(Conflict(name, log, row[4]))
            reason = f"{name} holds this key with other content"
            letters.append(Letter(log, name, row[4], CONFLICT, reason, content(name, row), row[-1]))
    _see_devices(connection, {(log.fleet, log.device) for log in logs}, intake.received_ns)
    outcome.letters, outcome.overflowed = keep_letters(connection, letters)
    if intake.presence:
        devices = {(p.fleet, p.device) for p in intake.presence}
        _see_devices(connection, devices, intake.received_ns)
        outcome.ignored_wills = write_presence(connection, intake.presence)
    return outcome


def store_intake(store: Store, intake: Intake) -> Outcome:
    """Store an intake, whatever single rows of it the database cannot hold.

    The door checks every row, so nothing should be left for the database to refuse; but one row
    that slipped through must not keep all its neighbours out for ever. So a refused intake is
    halved until the culprit stands alone, and that goes to the dead letters.

    Raises:
        RetryLater: the database is away; a part may be stored, and doing it again is harmless.
    """
    try:
        with store.begin() as connection:
            return write(connection, intake)
    except (SQLAlchemyError, OverflowError, UnicodeError) as error:
        items = _items(intake)
        if len(items) == 1:
            letter = _unstorable(items[0], f"{type(error).__name__}: {error}")
            if letter is None:
                raise
            with store.begin() as connection:
                return write(connection, Intake(letters=[letter], received_ns=intake.received_ns))
    total = Outcome()
    middle = len(items) // 2
    for half in (items[:middle], items[middle:]):
        total.add(store_intake(store, _intake(half, intake.received_ns)))
    return total


_Item = tuple[str, Row] | Letter | Presence


def _items(intake: Intake) -> list[_Item]:
    rows: list[_Item] = [(name, row) for name, rows in intake.rows.items() for row in rows]
    return [*rows, *intake.letters, *intake.presence]


def _intake(items: list[_Item], received_ns: int) -> Intake:
    intake = Intake(received_ns=received_ns)
    for item in items:
        if isinstance(item, Letter):
            intake.letters.append(item)
        elif isinstance(item, Presence):
            intake.presence.append(item)
        else:
            intake.rows[item[0]].append(item[1])
    return intake


def _unstorable(item: _Item, reason: str) -> Letter | None:
    """The dead letter of something the database refused; None where that is itself a letter."""
    if isinstance(item, Letter):
        return None
    if isinstance(item, Presence):
        log = LogKey(*item.who, epoch="")
        channel = "status" if isinstance(item.message, Status) else "reported"
        return Letter(log, channel, 0, UNSTORABLE, reason, item.message.encode(), item.received_ns)
    name, row = item
    return Letter(LogKey(*row[:4]), name, row[4], UNSTORABLE, reason, content(name, row), row[-1])


def _first_of_each_log(rows: Sequence[Row]) -> Iterator[Row]:
    """One row of each run of rows of one log; batches come as runs, so this is short."""
    for _log, group in itertools.groupby(rows, key=lambda row: row[:4]):
        yield next(group)


def _insert(connection: Connection, name: str, rows: list[Row]) -> tuple[int, list[Row]]:
    """Insert what is not there; returns how many were new, and the rows that clash."""
    if connection.dialect.name == "postgresql":
        return _insert_copy(connection, name, rows)
    return _insert_many(connection, name, rows)


def _insert_many(connection: Connection, name: str, rows: list[Row]) -> tuple[int, list[Row]]:
    columns = COLUMNS[name]
    marks = ",".join("?" * len(columns))
    statement = f"INSERT OR IGNORE INTO {name} ({','.join(columns)}) VALUES ({marks})"
    new = connection.exec_driver_sql(statement, rows).rowcount
    if new == len(rows):
        return new, []
    at = DIGEST_AT[name]
    clashes = []
    by_log: dict[Row, list[Row]] = defaultdict(list)
    for row in rows:
        by_log[row[:4]].append(row)
    for log, own in by_log.items():
        stored = _digests(connection, name, LogKey(*log), [row[4] for row in own])
        clashes += [row for row in own if stored.get(row[4]) != row[at]]
    return new, _distinct(clashes, at)


def _digests(connection: Connection, name: str, log: LogKey, seqs: list[int]) -> dict[int, bytes]:
    t = LOG_TABLES[name].c
    found: dict[int, bytes] = {}
    for at in range(0, len(seqs), _KEYS_IN_QUERY):
        query = select(t.seq, t.digest).where(
            t.fleet == log.fleet,
            t.device == log.device,
            t.service == log.service,
            t.epoch == log.epoch,
            t.seq.in_(seqs[at : at + _KEYS_IN_QUERY]),
        )
        found.update((seq, bytes(kept)) for seq, kept in connection.execute(query))
    return found


def _insert_copy(connection: Connection, name: str, rows: list[Row]) -> tuple[int, list[Row]]:
    """COPY into a staging table of this connection, then insert from it in the order of the key.

    The order keeps replicas that hold the same rows from waiting for each other in a circle.
    """
    columns, at = COLUMNS[name], DIGEST_AT[name]
    types = [_PG_TYPES[type(c.type)] for c in LOG_TABLES[name].columns]
    stage = f"fieldloop_stage_{name}"
    shape = ", ".join(f"{c} {t}" for c, t in zip(columns, types, strict=True))
    connection.exec_driver_sql(
        f"CREATE TEMPORARY TABLE IF NOT EXISTS {stage} ({shape}) ON COMMIT DELETE ROWS"
    )
    connection.exec_driver_sql(f"TRUNCATE {stage}")
    _copy(connection, f"COPY {stage} FROM STDIN (FORMAT BINARY)", types, rows)
    listed = ", ".join(columns)
    cast = ", ".join(f"{c}::json" if c == "document" else c for c in columns)
    new = connection.exec_driver_sql(
        f"INSERT INTO {name} ({listed}) SELECT {cast} FROM {stage}"
        " ORDER BY fleet, device, service, epoch, seq ON CONFLICT DO NOTHING"
    ).rowcount
    if new == len(rows):
        return new, []
    clashes = connection.exec_driver_sql(
        f"SELECT {', '.join('s.' + c for c in columns)} FROM {stage} s"
        f" JOIN {name} t USING (fleet, device, service, epoch, seq) WHERE t.digest <> s.digest"
    ).all()
    return new, _distinct([tuple(row) for row in clashes], at)


def _copy(connection: Connection, statement: str, types: list[str], rows: list[Row]) -> None:
    """COPY rows through the driver, which SQLAlchemy has no words for; nor for its errors."""
    driver: Any = connection.connection.driver_connection
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            copy.set_types(types)
            for row in rows:
                copy.write_row(row)
    except psycopg.OperationalError as error:
        raise RetryLater(f"store: {error!s:.200}", code="store.away") from error
    except psycopg.Error as error:
        raise SQLAlchemyError(f"COPY: {error!s:.200}") from error


def _distinct(rows: Iterable[Row], digest_at: int) -> list[Row]:
    """One row for each key and content."""
    return list({(*row[:5], bytes(row[digest_at])): row for row in rows}.values())


def _see_devices(connection: Connection, devices: set[tuple[str, str]], now_ns: int) -> None:
    if devices:
        connection.execute(
            insert_into(connection, schema.devices).on_conflict_do_nothing(),
            [
                {"fleet": fleet, "device": device, "first_seen_ns": now_ns}
                for fleet, device in sorted(devices)
            ],
        )
