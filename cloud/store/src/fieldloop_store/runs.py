"""Training runs as they are read: rows, curves, runs side by side. Writing is `runqueue`'s.

Reads the tables `runs` and `run_epochs`. Keeps no state; any thread may call it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sqlalchemy import insert, select

from fieldloop_contract.errors import LimitExceeded, RejectedInput
from fieldloop_store.engine import Store
from fieldloop_store.schema import run_epochs, runs

RunState = Literal[
    "queued", "running", "approved", "rejected", "refused", "skipped", "failed", "cancelled"
]
"""`approved` and `rejected` made a model; `refused` found its data or settings wrong, `skipped`
found its dataset trained on already, `failed` was killed or crashed too often, `cancelled` was
stopped by a person."""
OPEN_STATES: tuple[RunState, ...] = ("queued", "running")
ENDED_STATES: tuple[RunState, ...] = tuple(s for s in get_args(RunState) if s not in OPEN_STATES)
TRIGGERS = ("labels", "data", "schedule", "hand", "drift")
"""What may start a run: `trigger["kind"]`."""
ROWS_MAX = 1_000


@dataclass(frozen=True, slots=True)
class RunRow:
    """One training run: why it started, how far it is, who has it, how it ended.

    Attributes:
        trigger: why: `kind` of `TRIGGERS`, `reason` in words, `by` where it was a person.
        settings: the recipe's settings.
        options: what the run needs beside them (`fieldloop_training.options.RunOptions`).
        progress: `stage`, `seconds` by stage, newest figures.
        verdict: `words`, gates and metrics, once it has ended.
        attempt: how often it was claimed.
        lease_ns: until when `owner` holds it.
        cancel_by: who asked for its end, where somebody did.
    """

    id: str
    fleet: str
    recipe: str
    model: str
    state: str
    trigger: dict[str, Any]
    settings: dict[str, Any]
    dataset: str | None
    progress: dict[str, Any]
    verdict: dict[str, Any] | None
    created_ns: int
    updated_ns: int
    options: dict[str, Any] | None = None
    priority: int = 0
    attempt: int = 0
    owner: str | None = None
    lease_ns: int | None = None
    started_ns: int | None = None
    ended_ns: int | None = None
    cancel_by: str | None = None


@dataclass(frozen=True, slots=True)
class Epoch:
    """Figures of one epoch: `loss`, and what else the recipe reports."""

    epoch: int
    figures: dict[str, float]
    at_ns: int


@dataclass(frozen=True, slots=True)
class Compared:
    """Runs side by side.

    Attributes:
        runs: in the order asked for.
        differing: settings, options and recipe that are not the same in all, by name, one value
            for each run; None where a run does not have it.
        metrics: by candidate and figure (`int8.accuracy`), one value for each run.
        curves: of each run.
    """

    runs: list[RunRow]
    differing: dict[str, list[Any]]
    metrics: dict[str, list[float | None]]
    curves: list[list[Epoch]]


COLUMNS = tuple(runs.c[name] for name in RunRow.__dataclass_fields__)


def record_run(store: Store, row: RunRow) -> None:
    """Record a run as it is, such as one that was carried out elsewhere."""
    with store.begin() as connection:
        values = {c.name: getattr(row, c.name) for c in COLUMNS}
        connection.execute(insert(runs).values(**values))


def find_run(store: Store, run: str) -> RunRow | None:
    """One run, or None."""
    with store.read() as connection:
        found = connection.execute(select(*COLUMNS).where(runs.c.id == run)).one_or_none()
    return None if found is None else RunRow(*found)


def list_runs(
    store: Store,
    fleet: str,
    *,
    model: str | None = None,
    states: Sequence[RunState] | None = None,
    dataset: str | None = None,
    limit: int = 50,
) -> list[RunRow]:
    """Runs, the newest first.

    Raises:
        LimitExceeded: more than `ROWS_MAX` are asked for.
    """
    if limit > ROWS_MAX:
        raise LimitExceeded(f"{limit} runs asked for", hint=f"at most {ROWS_MAX}")
    query = select(*COLUMNS).where(runs.c.fleet == fleet)
    if model is not None:
        query = query.where(runs.c.model == model)
    if states is not None:
        query = query.where(runs.c.state.in_(states))
    if dataset is not None:
        query = query.where(runs.c.dataset == dataset)
    newest = query.order_by(runs.c.created_ns.desc(), runs.c.id).limit(limit)
    with store.read() as connection:
        return [RunRow(*row) for row in connection.execute(newest)]


def epochs_of(store: Store, run: str, *, after: int = -1, limit: int = ROWS_MAX) -> list[Epoch]:
    """The curve of a run, ascending, from the epoch after `after`: poll with the last one seen."""
    e = run_epochs.c
    query = select(e.epoch, e.figures, e.at_ns).where(e.run == run, e.epoch > after)
    with store.read() as connection:
        rows = connection.execute(query.order_by(e.epoch).limit(min(limit, ROWS_MAX))).all()
    return [Epoch(*row) for row in rows]


def compare(store: Store, ids: Sequence[str]) -> Compared:
    """Runs side by side: what was set differently, and what came of it.

    Raises:
        RejectedInput: one of them is not there.
        LimitExceeded: more than 20.
    """
    if len(ids) > 20:
        raise LimitExceeded(f"{len(ids)} runs to compare", hint="at most 20")
    found = [find_run(store, run) for run in ids]
    missing = [run for run, row in zip(ids, found, strict=True) if row is None]
    if missing:
        raise RejectedInput(f"no run {missing[0]:.40}", code="runs.unknown")
    rows = [row for row in found if row is not None]
    set_ = [
        {"recipe": r.recipe, "dataset": r.dataset, **(r.options or {}), **r.settings} for r in rows
    ]
    names = sorted({name for values in set_ for name in values})
    columns = {name: [values.get(name) for values in set_] for name in names}
    measured = [_flat((r.verdict or {}).get("metrics")) for r in rows]
    figures = sorted({name for values in measured for name in values})
    return Compared(
        runs=rows,
        differing={n: v for n, v in columns.items() if any(x != v[0] for x in v)},
        metrics={name: [values.get(name) for values in measured] for name in figures},
        curves=[epochs_of(store, row.id) for row in rows],
    )


def _flat(metrics: Any) -> dict[str, float]:
    if not isinstance(metrics, dict):
        return {}
    return {
        f"{candidate}.{name}": value
        for candidate, figures in metrics.items()
        if isinstance(figures, dict)
        for name, value in figures.items()
        if isinstance(value, int | float)
    }
