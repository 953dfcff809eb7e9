"""What goes on beside the rows, on a thread of its own: audits, recovery, retention, figures.

Promises to take little: audits use at most a twentieth of the time, a step of retention is one
short transaction, and each task has an interval. Of several replicas one does it at a time
(`Leadership`). It never touches rows that are on their way in; the owner loop does not wait for it
longer than for one of its transactions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.exc import DBAPIError

from fieldloop_contract.errors import RetryLater
from fieldloop_contract.messages import Want
from fieldloop_contract.topics import Topic
from fieldloop_runtime.health import Health
from fieldloop_runtime.journal import Journal, Throttle
from fieldloop_runtime.life import Life
from fieldloop_store.engine import Store
from fieldloop_store.fleet import fleet_figures
from fieldloop_store.ledger import Books, audit_log, logs_of, missing_ranges
from fieldloop_store.retention import Policy, Step, retire
from fieldloop_store.rows import LogKey
from fieldloop_store.schema import services
from fieldloop_telemetry.fleetmetrics import FleetMetrics
from fieldloop_telemetry.recovery import Recovery
from fieldloop_telemetry.settings import CareSettings

_TURN_S = 0.25
_TICK_LIMIT_S = 300.0
_AUDIT_SHARE = 0.05
_RETENTION_PAUSE_S = 0.05
_LEADER_LOCK = 0x6C656164  # "lead"


class Leadership:
    """Whether this process keeps house: on PostgreSQL whoever holds one advisory lock.

    The lock lives as long as its connection; when that breaks, another replica gets it. On SQLite
    there is one telemetry service. One thread.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._connection: Connection | None = None

    def held(self) -> bool:
        """Try to have it. Raises RetryLater where the database is away."""
        if self._store.engine.dialect.name != "postgresql":
            return True
        try:
            if self._connection is not None:
                self._connection.exec_driver_sql("SELECT 1")
                return True
            connection = self._store.engine.connect().execution_options(
                isolation_level="AUTOCOMMIT"
            )
            lock = f"SELECT pg_try_advisory_lock({_LEADER_LOCK})"
            if connection.exec_driver_sql(lock).scalar_one():
                self._connection = connection
                return True
            connection.close()
        except DBAPIError as error:
            self.close()
            raise RetryLater(f"store: {error.orig!s:.200}", code="store.away") from error
        return False

    def close(self) -> None:
        """Let it go."""
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
            self._connection = None


class Housekeeping:
    """One thread calls `run`, or `turn` again and again.

    Args:
        publish: topic and payload to the broker; raises RetryLater where it cannot.
        home: a further task, called in every turn of the leader with monotonic seconds.
    """

    def __init__(
        self,
        settings: CareSettings,
        *,
        store: Store,
        publish: Callable[[str, bytes], object],
        health: Health,
        journal: Journal,
        policy: Policy | None = None,
        home: Callable[[float], None] | None = None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._publish = publish
        self._health = health
        self._journal = journal
        self._policy = policy
        self._home = home
        self._metrics = FleetMetrics(health.registry)
        self._recovery = Recovery(settings.recover_rows_max, settings.recover_interval_s)
        self._leadership = Leadership(store)
        self._noise = Throttle(60)
        self._round: Iterator[LogKey] | None = None
        self._found: dict[LogKey, Books] = {}
        self._audit_at_s = self._round_at_s = float("-inf")
        self._figures_at_s = self._retire_at_s = float("-inf")
        self._steps: Iterator[Step] | None = None
        self._retired = 0

    def run(self, life: Life) -> None:
        """Work until stopped."""
        while not life.stop.wait(_TURN_S if self._steps is None else _RETENTION_PAUSE_S):
            self.turn(time.monotonic())
        self._leadership.close()

    def turn(self, now_s: float) -> None:
        """Do a little of what is due."""
        self._health.tick("housekeeping", _TICK_LIMIT_S)
        try:
            if not self._leadership.held():
                return
            self._audit(now_s)
            if now_s >= self._figures_at_s:
                self._figures_at_s = now_s + self._settings.figures_interval_s
                self._metrics.show(fleet_figures(self._store))
            self._retain(now_s)
            if self._home is not None:
                self._home(now_s)
        except RetryLater as error:
            self._round = self._steps = None
            if self._noise.allow(now_s):
                self._journal.warning("housekeeping.put_off", error=str(error))

    # ---- the books -------------------------------------------------------------------------------

    def _audit(self, now_s: float) -> None:
        if now_s < self._audit_at_s or (self._round is None and now_s < self._round_at_s):
            return
        if self._round is None:
            self._round_at_s = now_s + self._settings.audit_interval_s
            with self._store.read() as connection:
                self._round = iter(logs_of(connection))
            self._found = {}
        begun_s = time.monotonic()
        while time.monotonic() - begun_s < _TURN_S * _AUDIT_SHARE:
            log = next(self._round, None)
            if log is None:
                self._round = None
                self._metrics.show_books(self._found, time.time())
                break
            entry = audit_log(self._store, log)
            self._found[log] = entry
            self._recover(entry, now_s)
        # A log of millions of rows takes its time; then there is a pause in proportion.
        self._audit_at_s = now_s + (time.monotonic() - begun_s) / _AUDIT_SHARE

    def _recover(self, entry: Books, now_s: float) -> None:
        log = entry.log
        if entry.report is None:
            return
        if entry.lacking and not self._online(log):
            return
        first = self._recovery.look(log, entry.lacking, now_s)
        if first is None:
            return
        produced = entry.report.produced
        missing = []
        if first <= produced:
            missing = missing_ranges(self._store, log, seq_first=first, seq_last=produced)
        ranges = self._recovery.ask(log, missing, now_s)
        if not ranges:
            return
        topic = Topic(log.fleet, log.device, log.service, "want")
        self._publish(str(topic), Want(epoch=log.epoch, ranges=ranges).encode())
        rows = sum(last - first + 1 for first, last in ranges)
        self._metrics.wanted.inc(rows)
        self._journal.warning(
            "rows.wanted",
            fleet=log.fleet,
            device=log.device,
            by=log.service,
            epoch=log.epoch,
            lacking=entry.lacking,
            asked=rows,
        )

    def _online(self, log: LogKey) -> bool:
        """Whether there is somebody who hears."""
        s = services.c
        query = select(s.state).where(
            s.fleet == log.fleet, s.device == log.device, s.service == log.service
        )
        with self._store.read() as connection:
            return bool(connection.execute(query).scalar() == "online")

    # ---- retention -------------------------------------------------------------------------------

    def _retain(self, now_s: float) -> None:
        if self._policy is None:
            return
        if self._steps is None:
            if now_s < self._retire_at_s:
                return
            self._retire_at_s = now_s + self._settings.retention_interval_s
            self._steps = retire(self._store, self._policy, time.time_ns())
            self._retired = 0
        step: Any = next(self._steps, None)
        if step is None:
            self._steps = None
            if self._retired:
                self._journal.info("retention.done", rows=self._retired)
            return
        self._retired += step.deleted
        self._metrics.retired.labels(step.table).inc(step.deleted)
