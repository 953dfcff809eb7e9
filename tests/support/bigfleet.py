"""A store as ten thousand devices leave it, filled by the database itself: some minutes' rows a
second. SQLite only. What it holds is what the services write, row by row of the same form.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert

from fieldloop_contract.messages import Capability, Reported, SlotState, Status, StreamState
from fieldloop_store.engine import Store
from fieldloop_store.registry import register_model
from fieldloop_store.rollouts import RolloutRow, save_look
from fieldloop_store.runs import RunRow, record_run
from fieldloop_store.schema import (
    annotations,
    devices,
    ledgers,
    machines,
    metadata,
    services,
    stream_assignments,
)
from fieldloop_store.schema.machines_service import alarms
from support.bundles import make_bundle

FLEET = "big"
S = 10**9
STREAM, SLOT = "imu", "main"
LONG_SHARE = 100
"""The first device has one frame of so many: a signal that is long to draw."""
RUN, ROLLOUT, ALARM = "a" * 32, "b" * 32, "c" * 32
_EPOCH, _TOLD = "1" * 32, "2" * 32
_DEVICES_AT_ONCE = 100
_SAMPLES = 32


@dataclass(frozen=True, slots=True)
class BigFleet:
    """What is in the store. `now_ns` is when its last frame ended."""

    devices: int
    frames: int
    results: int
    events: int
    machines: int
    now_ns: int

    def device(self, number: int) -> str:
        """Id of a device."""
        return f"dev-{number:05d}"


def fill(store: Store, count: int, frames: int, *, now_ns: int) -> BigFleet:
    """Fill an empty store with `count` devices, a machine for each, and so many frames in all.

    Of ten frames one has a result, of fifty one an event, twenty at least; a device in twenty has
    had an alarm.
    """
    if store.engine.dialect.name != "sqlite":
        raise ValueError("only SQLite is filled so")
    long = frames // LONG_SHARE
    each = (frames - long) // (count - 1)
    with store.engine.connect() as connection:
        raw = connection.connection.dbapi_connection
        assert raw is not None
        cursor = raw.cursor()
        cursor.execute("PRAGMA synchronous=OFF")
        cursor.execute("CREATE TEMP TABLE waves (at INTEGER PRIMARY KEY, samples BLOB)")
        cursor.executemany("INSERT INTO waves VALUES (?, ?)", enumerate(_waves()))
        cursor.execute("BEGIN")
        _frames(cursor, 0, 1, long, now_ns)
        for first in range(1, count, _DEVICES_AT_ONCE):
            _frames(cursor, first, min(first + _DEVICES_AT_ONCE, count), each, now_ns)
        results = _results(cursor, count, max(1, each // 10), now_ns)
        told = _events(cursor, count, max(20, each // 50), now_ns)
        cursor.execute("COMMIT")
        cursor.execute("DROP TABLE waves")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        cursor.close()
    ref, digest = _learn(store, now_ns)
    with store.begin() as connection:
        for table, rows in _registry(count, each, ref, now_ns):
            for at in range(0, len(rows), 2_000):
                connection.execute(insert(metadata.tables[table]), rows[at : at + 2_000])
        connection.execute(insert(alarms), list(_alarms(count, digest, now_ns)))
    return BigFleet(count, long + each * (count - 1), results, told, count, now_ns)


def _waves() -> Iterator[bytes]:
    for at in range(64):
        yield array("f", (math.sin((at * _SAMPLES + i) * 0.07) for i in range(_SAMPLES))).tobytes()


_NUMBERS = "WITH RECURSIVE d(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM d WHERE n + 1 < {end}), s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {each})"  # noqa: E501


def _frames(cursor: Any, first: int, end: int, each: int, now_ns: int) -> None:
    """A second of one channel at 32 Hz in each frame, the newest at `now_ns`."""
    t0_ns = now_ns - each * S
    cursor.execute(
        _NUMBERS.format(first=first, end=end, each=each)
        + f"""INSERT INTO frames (fleet, device, service, epoch, seq, stream, t0_ns, t1_ns, mono_ns,
          boot, clock, rate_hz, channels, samples, planned_pause, digest, received_ns)
        SELECT '{FLEET}', printf('dev-%05d', d.n), 'ingestion', '{_EPOCH}', s.n, '{STREAM}',
          {t0_ns} + (s.n - 1) * {S}, {t0_ns} + s.n * {S}, s.n * {S}, '{_EPOCH}', 'synchronised',
          {_SAMPLES}.0, 1, w.samples, 0, x'0011223344556677', {t0_ns} + s.n * {S}
        FROM d CROSS JOIN s CROSS JOIN waves w WHERE w.at = s.n % 64"""
    )


def _results(cursor: Any, count: int, each: int, now_ns: int) -> int:
    """A window every nine hours over as many days as it takes, with a slowly rising score."""
    step = 9 * 3_600 * S
    cursor.execute(
        _NUMBERS.format(first=0, end=count, each=each)
        + f"""INSERT INTO results (fleet, device, service, epoch, seq, stream, slot, role, t0_ns,
          t1_ns, model, version, model_digest, label, score, latency_us, valid, document, digest,
          received_ns)
        SELECT '{FLEET}', printf('dev-%05d', d.n), 'inference', '{_TOLD}', s.n, '{STREAM}',
          '{SLOT}', 'active', {now_ns} - ({each} - s.n + 1) * {step},
          {now_ns} - ({each} - s.n) * {step}, 'activity', 1, '{"d" * 64}', NULL,
          0.2 + 0.1 * ((s.n * 7919) % 97) / 97 + 0.2 * s.n / {each}, 100.0, 1,
          '{{"task": "anomaly", "running": true}}', x'0011223344556677',
          {now_ns} - ({each} - s.n) * {step}
        FROM d CROSS JOIN s"""
    )
    return count * each


def _events(cursor: Any, count: int, each: int, now_ns: int) -> int:
    """Drift reports over the last day, and one alarm in a hundred."""
    step = 86_400 * S // each
    cursor.execute(
        _NUMBERS.format(first=0, end=count, each=each)
        + f"""INSERT INTO events (fleet, device, service, epoch, seq, type, time, document, digest,
          received_ns)
        SELECT '{FLEET}', printf('dev-%05d', d.n), 'inference', '{_TOLD}', 1000000 + s.n,
          CASE WHEN (d.n * {each} + s.n) % 100 = 0 THEN 'alarm.raised' ELSE 'drift.report' END,
          '2026-01-01T00:00:00Z', '{{"data": {{"slot": "{SLOT}", "windows": 10}}}}',
          x'0011223344556677', {now_ns} - ({each} - s.n) * {step} - d.n
        FROM d CROSS JOIN s"""
    )
    return count * each


def _learn(store: Store, now_ns: int) -> tuple[dict[str, Any], str]:
    """A version, a hundred runs and twenty rollouts; returns the version's reference."""
    manifest, files = make_bundle("good")
    register_model(
        store, fleet=FLEET, manifest=manifest, files=files, run=RUN, now_ns=now_ns,
        metrics={"int8": {"accuracy": 0.9}, "float": {"accuracy": 0.91}},
    )  # fmt: skip
    for number in range(100):
        record_run(
            store,
            RunRow(
                id=RUN if not number else f"{number:032x}", fleet=FLEET, recipe="activity_cnn",
                model="activity", state="approved", trigger={"reason": "labels"}, settings={},
                dataset=None, progress={"stage": "done"}, verdict={"words": "approved"},
                created_ns=now_ns - number * S, updated_ns=now_ns,
            ),
        )  # fmt: skip
    rows = []
    for number in range(20):
        named = [f"dev-{n:05d}" for n in range(500)]
        waves = [{"devices": named, "count": 500, "installed": 500, "windows": 9, "passed": True}]
        rows.append(
            RolloutRow(
                ROLLOUT if not number else f"{number:032x}", FLEET, SLOT, "activity", 1,
                "completed", {"verdict": "completed", "waves": waves}, now_ns - number * S, now_ns,
            )
        )  # fmt: skip
    save_look(store, FLEET, changed=rows, assigned=[], signed=[], now_ns=now_ns)
    return manifest.ref().model_dump(mode="json"), manifest.digest()


def _registry(
    count: int, each: int, model: dict[str, Any], now_ns: int
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    names = [f"dev-{n:05d}" for n in range(count)]
    yield (
        devices.name,
        [
            {
                "fleet": FLEET,
                "device": d,
                "first_seen_ns": 1,
                "name": f"Pump {d}",
                "state": "active",
            }
            for d in names
        ],
    )
    status = Status(
        state="online", session="s", versions={"fieldloop-ingestion": "0.1.0"},
        capability=Capability(machine="aarch64", runtime="litert"),
    ).model_dump(mode="json", exclude_none=True)  # fmt: skip
    stream = StreamState(stream=STREAM, channels=["x"], units=["g"], rate_hz=float(_SAMPLES))
    slot = SlotState(slot=SLOT, state="ACTIVE", active=model, counts={"windows": 20})
    said = {
        "ingestion": Reported(session="s", ledgers=[], streams=[stream]),
        "inference": Reported(session="s", ledgers=[], slots=[slot]),
    }
    written = {k: v.model_dump(mode="json", exclude_none=True) for k, v in said.items()}
    yield services.name, [
        {"fleet": FLEET, "device": d, "service": name, "state": "online", "session": "s",
         "status": status, "status_ns": now_ns - 3_600 * S, "reported": reported,
         "reported_ns": now_ns - 3_600 * S}
        for d in names
        for name, reported in written.items()
    ]  # fmt: skip
    yield ledgers.name, [
        {"fleet": FLEET, "device": d, "service": "ingestion", "epoch": _EPOCH, "produced": each,
         "stored": each, "pending": 0, "withheld": 0, "dropped": {}, "reported_ns": now_ns}
        for d in names
    ]  # fmt: skip
    yield machines.name, [
        {"fleet": FLEET, "machine": f"pump-{n:05d}", "site": f"site {n % 40}", "nameplate": {},
         "created_ns": 1}
        for n in range(count)
    ]  # fmt: skip
    yield stream_assignments.name, [
        {"fleet": FLEET, "device": d, "stream": STREAM, "from_ns": 1, "to_ns": None,
         "machine": f"pump-{n:05d}", "mounting": ""}
        for n, d in enumerate(names)
    ]  # fmt: skip
    yield annotations.name, [
        {"fleet": FLEET, "device": "desk", "service": "desk", "epoch": _EPOCH, "seq": n + 1,
         "about_device": d, "stream": STREAM, "t0_ns": now_ns - 50 * S, "t1_ns": now_ns - 40 * S,
         "label": "healthy", "annotator": "ada", "confidence": 1.0, "document": None,
         "digest": b"01234567", "received_ns": now_ns}
        for n, d in enumerate(names)
    ]  # fmt: skip


def _alarms(count: int, digest: str, now_ns: int) -> Iterator[dict[str, Any]]:
    for n in range(0, count, 20):
        standing = n % 100 == 0
        yield {
            "id": ALARM if not n else f"{n:032x}", "fleet": FLEET, "device": f"dev-{n:05d}",
            "slot": SLOT, "stream": STREAM, "machine": f"pump-{n:05d}", "site": f"site {n % 40}",
            "phase": "unacknowledged" if standing else "closed", "standing": standing, "raises": 1,
            "raised_ns": now_ns - n * S, "cleared_ns": None if standing else now_ns,
            "shelved_until_ns": None, "acknowledged_by": "", "verdict": None, "verdict_by": "",
            "label_due": False, "updated_ns": now_ns,
            "document": {"model": {"name": "activity", "version": 1, "digest": digest},
                         "score": 0.6, "threshold": 0.5},
        }  # fmt: skip
