"""The frozen evaluation sets of each model, by recording, and how often each was looked at.

A set that decides about many models in turn is slowly learnt by the choice itself, so every run
that compares on it is counted. A set that was looked at often enough is replaced by the next
number. Looks of people at the sealed recordings are counted beside them, as number 0. Owns the
tables `frozen_sets` and `frozen_looks`. Keeps no state; any thread may call it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from fieldloop_store.engine import Store, insert_into
from fieldloop_store.schema import frozen_looks, frozen_sets

SEALED = 0
"""Number under which looks at the sealed recordings are counted; sets begin at 1."""


@dataclass(frozen=True, slots=True)
class FrozenSet:
    """One set: its number, its recordings, and the runs that have looked at it."""

    number: int
    recordings: frozenset[str]
    looks: int
    created_ns: int


def current_set(store: Store, fleet: str, model: str) -> FrozenSet | None:
    """The set that is in use, or None before the first."""
    s, k = frozen_sets.c, frozen_looks.c
    newest = select(s.number, s.recordings, s.created_ns).where(s.fleet == fleet, s.model == model)
    with store.read() as connection:
        found = connection.execute(newest.order_by(s.number.desc()).limit(1)).one_or_none()
        if found is None:
            return None
        looks = connection.execute(
            select(func.count()).where(k.fleet == fleet, k.model == model, k.number == found.number)
        ).scalar_one()
    return FrozenSet(found.number, frozenset(found.recordings), looks, found.created_ns)


def add_set(
    store: Store, fleet: str, model: str, number: int, recordings: Iterable[str], now_ns: int
) -> None:
    """Record a set; one that has this number already stays as it is."""
    row = {
        "fleet": fleet, "model": model, "number": number, "recordings": sorted(recordings),
        "created_ns": now_ns,
    }  # fmt: skip
    with store.begin() as connection:
        connection.execute(insert_into(connection, frozen_sets).on_conflict_do_nothing(), row)


def count_look(
    connection: Connection, fleet: str, model: str, number: int, run: str, now_ns: int
) -> None:
    """Count a run's look within the caller's transaction; the same run counts once."""
    row = {"fleet": fleet, "model": model, "number": number, "run": run, "at_ns": now_ns}
    connection.execute(insert_into(connection, frozen_looks).on_conflict_do_nothing(), row)


def sealed_looks(store: Store, fleet: str, model: str) -> list[str]:
    """What the looks at the sealed recordings were at, the first one first."""
    k = frozen_looks.c
    query = select(k.run).where(k.fleet == fleet, k.model == model, k.number == SEALED)
    with store.read() as connection:
        return list(connection.execute(query.order_by(k.at_ns)).scalars())


def count_sealed_look(
    connection: Connection, fleet: str, model: str, what: str, now_ns: int
) -> None:
    """Count a look at the sealed recordings within the caller's transaction."""
    count_look(connection, fleet, model, SEALED, what, now_ns)
