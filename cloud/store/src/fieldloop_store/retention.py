"""Retention by policy: old rows are deleted, raw data may first be reduced to min, mean and max.

A policy is a JSON file:

    {"rules": [
      {"table": "frames", "older_than_days": 30, "reduce_to_s": 60},
      {"table": "frames", "stream": "camera", "older_than_days": 2},
      {"table": "results", "older_than_days": 365}]}

For each row the first rule that fits it decides; a row that no rule fits stays. Age counts from the
row's arrival by the cloud's clock, since a device may believe it is 1970. What is deleted is
recorded in `retired` in the same transaction, so the books keep balancing; what is reduced is
counted once, also if the row came again and is retired twice.

Each step is one transaction of at most `STEP_ROWS` rows. Telemetry's housekeeping thread and its
`retain` command call this, no other service.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from sqlalchemy import ColumnElement, Connection, delete, func, not_, or_, select, true

from fieldloop_contract.errors import FixConfiguration
from fieldloop_contract.frames import samples_array
from fieldloop_contract.messages import describe
from fieldloop_store.engine import Store, insert_into
from fieldloop_store.ledger import logs_of
from fieldloop_store.retirement import (
    add_retired,
    covers,
    lock_retirement,
    of_log,
    ranges_of,
    retired_ranges,
)
from fieldloop_store.rows import LOG_TABLES, LogKey
from fieldloop_store.schema import frame_summaries

STEP_ROWS = 500
RULES_MAX = 100
POLICY_BYTES_MAX = 256 * 1024
_DAY_NS = 86_400 * 10**9
_ANY = "*"


class Rule(BaseModel):
    """What happens to rows of one table after some days."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: Literal["frames", "samples", "results", "events", "annotations"]
    fleet: str = _ANY
    device: str = _ANY
    stream: str = _ANY
    older_than_days: Annotated[float, Field(gt=0, le=36_600)]
    reduce_to_s: Annotated[float, Field(ge=0.001, le=86_400)] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Rule:
        if self.reduce_to_s is not None and self.table not in ("frames", "samples"):
            raise ValueError("only frames and samples can be reduced")
        if self.stream != _ANY and "stream" not in LOG_TABLES[self.table].c:
            raise ValueError(f"{self.table} have no stream")
        return self

    def matches(self) -> ColumnElement[bool]:
        """The rows it speaks of, whatever their age."""
        table = LOG_TABLES[self.table]
        where: ColumnElement[bool] = true()
        for name in ("fleet", "device", "stream"):
            value = getattr(self, name)
            if value != _ANY:
                where = where & (table.c[name] == value)
        return where

    @property
    def general(self) -> bool:
        """Whether it speaks of every row of its table."""
        return self.fleet == self.device == self.stream == _ANY


class Policy(BaseModel):
    """Rules, the first that fits decides."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rules: Annotated[list[Rule], Field(max_length=RULES_MAX)]

    def scope(self, at: int) -> ColumnElement[bool] | None:
        """Rows that rule `at` decides on: its own less those of earlier rules; None for no row."""
        rule = self.rules[at]
        earlier = [r for r in self.rules[:at] if r.table == rule.table]
        if any(r.general for r in earlier):
            return None
        where = rule.matches()
        return where & not_(or_(*(r.matches() for r in earlier))) if earlier else where


@dataclass(frozen=True, slots=True)
class Step:
    """What one transaction did."""

    table: str
    log: LogKey
    deleted: int
    summarised: int


def load_policy(path: str) -> Policy:
    """Read a policy file.

    Raises:
        FixConfiguration: it cannot be read, or says something that is not known.
    """
    try:
        data = Path(path).read_bytes()[: POLICY_BYTES_MAX + 1]
        if len(data) > POLICY_BYTES_MAX:
            raise FixConfiguration(f"retention policy {path}: over {POLICY_BYTES_MAX} bytes")
        return Policy.model_validate_json(data)
    except OSError as error:
        raise FixConfiguration(f"retention policy {path}: {error}") from error
    except ValidationError as error:
        raise FixConfiguration(f"retention policy {path}: {describe(error)}") from error


def retire(store: Store, policy: Policy, now_ns: int) -> Iterator[Step]:
    """Apply a policy once, a bounded transaction for each step taken from the iterator.

    Raises:
        RetryLater: the database is away; beginning again is harmless.
    """
    with store.read() as connection:
        logs = logs_of(connection)
    for at, rule in enumerate(policy.rules):
        scope = policy.scope(at)
        if scope is None:
            continue
        before_ns = now_ns - round(rule.older_than_days * _DAY_NS)
        for log in logs:
            if rule.fleet not in (_ANY, log.fleet) or rule.device not in (_ANY, log.device):
                continue
            while (step := _retire_some(store, rule, log, scope, before_ns)) is not None:
                yield step


def _retire_some(
    store: Store, rule: Rule, log: LogKey, scope: ColumnElement[bool], before_ns: int
) -> Step | None:
    """Retire the first rows of a log that are old; None where none is."""
    table = LOG_TABLES[rule.table]
    raw = rule.table in ("frames", "samples")
    names = ["seq", "received_ns"]
    if raw:
        names += ["stream", "t0_ns", "rate_hz", "channels", "samples"]
    query = (
        select(*(table.c[name] for name in names))
        .where(of_log(table, log), scope)
        .order_by(table.c.seq)
        .limit(STEP_ROWS)
    )
    with store.read() as connection:
        first = connection.execute(
            select(table.c.received_ns)
            .where(of_log(table, log), scope)
            .order_by(table.c.seq)
            .limit(1)
        ).scalar()
    if first is None or first >= before_ns:
        return None
    with store.begin() as connection:
        lock_retirement(connection)
        # Rows arrive in the order of seq but for repetitions, so the old ones stand in front; one
        # that came late waits for its own age, and what stands behind it waits with it.
        rows = [row for row in connection.execute(query) if row.received_ns < before_ns]
        if not rows:
            return None
        seqs = [row.seq for row in rows]
        summarised = 0
        if rule.reduce_to_s is not None:
            known = retired_ranges(connection, log, seqs[0], seqs[-1])
            fresh = [row for row in rows if not covers(known, row.seq)]
            summarised = _summarise(connection, log, fresh, round(rule.reduce_to_s * 1e9))
        connection.execute(delete(table).where(of_log(table, log), table.c.seq.in_(seqs)))
        add_retired(connection, log, ranges_of(seqs))
    return Step(rule.table, log, len(seqs), summarised)


@dataclass(slots=True)
class _Bucket:
    samples: int = 0
    total: float = 0.0
    minimum: float = math.inf
    maximum: float = -math.inf


def _summarise(connection: Connection, log: LogKey, rows: list[Any], interval_ns: int) -> int:
    """Merge rows into `frame_summaries`; returns how many intervals and channels were touched."""
    buckets: dict[tuple[str, int, int], _Bucket] = defaultdict(_Bucket)
    for row in rows:
        for t0_ns, first, last in spans(
            row.t0_ns, row.rate_hz, len(row.samples) // (4 * row.channels), interval_ns
        ):
            values = samples_array(
                bytes(row.samples[first * 4 * row.channels : last * 4 * row.channels])
            )
            for channel in range(row.channels):
                own = values[channel :: row.channels]
                bucket = buckets[row.stream, t0_ns, channel]
                bucket.samples += len(own)
                bucket.total += math.fsum(own)
                bucket.minimum = min(bucket.minimum, *own)
                bucket.maximum = max(bucket.maximum, *own)
    s = frame_summaries.c
    for (stream, t0_ns, channel), bucket in sorted(buckets.items()):
        statement = insert_into(connection, frame_summaries).values(
            fleet=log.fleet,
            device=log.device,
            stream=stream,
            interval_ns=interval_ns,
            t0_ns=t0_ns,
            channel=channel,
            samples=bucket.samples,
            minimum=bucket.minimum,
            mean=bucket.total / bucket.samples,
            maximum=bucket.maximum,
        )
        new = statement.excluded
        together = s.samples + new.samples
        low = func.least if connection.dialect.name == "postgresql" else func.min
        high = func.greatest if connection.dialect.name == "postgresql" else func.max
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=[c.name for c in frame_summaries.primary_key],
                set_={
                    "samples": together,
                    "mean": (s.mean * s.samples + new.mean * new.samples) / together,
                    "minimum": low(s.minimum, new.minimum),
                    "maximum": high(s.maximum, new.maximum),
                },
            )
        )
    return len(buckets)


def spans(t0_ns: int, rate_hz: float, n: int, interval_ns: int) -> Iterator[tuple[int, int, int]]:
    """Cut a frame at the borders of intervals.

    Yields:
        Start of the interval in ns (a multiple of `interval_ns`), first and last-but-one sample.

    >>> list(spans(0, 2.0, 5, 10**9))
    [(0, 0, 2), (1000000000, 2, 4), (2000000000, 4, 5)]
    """
    first = 0
    while first < n:
        at_ns = t0_ns + round(first * 1e9 / rate_hz)
        bucket = at_ns // interval_ns
        until_ns = (bucket + 1) * interval_ns
        last = min(n, max(first + 1, math.ceil((until_ns - t0_ns) * rate_hz / 1e9)))
        yield bucket * interval_ns, first, last
        first = last
