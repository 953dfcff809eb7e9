"""The condition of machines between alarms: another load, a lost sensor. Owner thread.

A model that has learnt other loads may well not alarm at a new one, and a sensor that reads nothing
makes a machine look as if it stood still. So each armed machine's signal is compared with that of
its commissioning from time to time (`naming`), whatever the model says. What is found twice in a
row makes the record stale, in words: a person is asked, and nothing is armed or learnt by it.
"""

from __future__ import annotations

from dataclasses import dataclass

from fieldloop_machines.looks import machine_looks_like
from fieldloop_machines.naming import Named
from fieldloop_runtime.journal import Journal
from fieldloop_store import commissionings
from fieldloop_store.alarms import put_state, read_state
from fieldloop_store.commissionings import CalibrationRow
from fieldloop_store.engine import Store
from fieldloop_store.machines import list_machines

ACTOR = "fieldloop-machines"
TIMES = 2
"""Looks in a row that have to find the same."""
KINDS = ("load", "sensor")


@dataclass(frozen=True, slots=True)
class Changed:
    """A machine whose record went stale, and why."""

    machine: str
    named: Named


def watch(
    store: Store, fleet: str, journal: Journal, *, now_ns: int, span_ns: int
) -> list[Changed]:
    """Look at each machine whose record is in force; what changed.

    Args:
        span_ns: of signal up to now that is looked at, and time from one look to the next.

    Raises:
        RetryLater: the store is away.
    """
    plates = {name: plate for name, _, plate in list_machines(store, fleet)}
    found = []
    for row in commissionings.in_force(store, fleet):
        key = f"watch:{row.device}:{row.slot}"
        seen = read_state(store, fleet, key) or {}
        if row.digest == seen.get("digest") and now_ns - seen["at_ns"] < span_ns:
            continue
        hz = plates.get(row.machine, {}).get("shaft_hz")
        named = machine_looks_like(
            store, fleet, row.record, now_ns - span_ns, now_ns,
            shaft_hz=float(hz) if isinstance(hz, float | int) and hz > 0 else None,
        )  # fmt: skip
        kind = named.kind if named is not None else ""
        times = int(seen.get("times", 0)) + 1 if kind == seen.get("kind") else 1
        state = {"digest": row.digest, "at_ns": now_ns, "kind": kind, "times": times}
        with store.begin() as connection:
            put_state(connection, fleet, key, state)
        if named is not None and kind in KINDS and times >= TIMES:
            _stale(store, fleet, journal, row, named, now_ns)
            found.append(Changed(row.machine, named))
    return found


def _stale(
    store: Store, fleet: str, journal: Journal, row: CalibrationRow, named: Named, now_ns: int
) -> None:
    commissionings.go_stale(
        store, fleet, row.device, row.slot, because=named.words[:200], actor=ACTOR, now_ns=now_ns
    )
    journal.info("machine.changed", machine=row.machine, kind=named.kind, words=named.words)
