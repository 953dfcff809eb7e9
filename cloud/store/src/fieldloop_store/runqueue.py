"""Training runs: a queue in the store, leased to whoever carries a run out, with its curves.

A run is `queued`, then `running` under a lease (owner, expiry, extended by `heartbeat`), then ends
once: `approved`, `rejected`, `refused`, `skipped`, `failed` or `cancelled`. A lease that ran out
gives the run to the next who claims, who goes on from what the former owner left; the former owner
is refused everything from then on. So two workers never carry out one run, and a killed worker
costs a lease, not a run. The queue is ordered by priority (higher first), then by age.

The console enqueues and cancels, and reads through `runs`; the training service claims. Owns the
writing of `runs` and `run_epochs`. Keeps no state; any thread may call it. Time is an argument.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from sqlalchemy import Connection, and_, func, or_, select, update

from fieldloop_contract.errors import LimitExceeded, RejectedInput
from fieldloop_contract.ids import check_id
from fieldloop_store.engine import Store, insert_into
from fieldloop_store.runs import COLUMNS, OPEN_STATES, TRIGGERS, Epoch, RunRow, RunState
from fieldloop_store.schema import run_epochs, runs

Beat = Literal["mine", "cancel", "lost"]
QUEUED_MAX = 1_000
ATTEMPTS_MAX = 3
EPOCHS_MAX = 10_000
PRIORITY_MAX = 100


def enqueue(
    store: Store,
    *,
    fleet: str,
    model: str,
    recipe: str,
    settings: Mapping[str, Any],
    trigger: Mapping[str, Any],
    options: Mapping[str, Any] | None = None,
    priority: int = 0,
    now_ns: int,
    run: str | None = None,
) -> str:
    """Put a run in the queue.

    Args:
        settings: of the recipe; checked by the recipe when the run begins.
        trigger: `kind` is one of `TRIGGERS`; `reason` and `by` are for people.
        options: see `fieldloop_training.options.RunOptions`; what is not given is as the training
            service is set.
        priority: -100 to 100, higher first.
        run: 32 hex digits; the same again changes nothing.

    Returns:
        Id of the run.

    Raises:
        RejectedInput: an id, trigger or priority that cannot be.
        LimitExceeded: too many runs wait.
        RetryLater: the store is away.
    """
    check_id(fleet, "fleet")
    check_id(model, "model")
    if trigger.get("kind") not in TRIGGERS:
        raise RejectedInput(
            f"trigger {trigger.get('kind')!r:.40}", code="runs.trigger",
            hint=f"kind is one of {', '.join(TRIGGERS)}",
        )  # fmt: skip
    if not -PRIORITY_MAX <= priority <= PRIORITY_MAX:
        raise RejectedInput(f"priority {priority}", code="runs.priority", hint="-100 to 100")
    row = RunRow(
        id=run or uuid.uuid4().hex, fleet=fleet, recipe=recipe, model=model, state="queued",
        trigger=dict(trigger), settings=dict(settings), dataset=None,
        progress={"stage": "queued"}, verdict=None, created_ns=now_ns, updated_ns=now_ns,
        options=dict(options or {}), priority=priority,
    )  # fmt: skip
    with store.begin() as connection:
        waiting = connection.execute(
            select(func.count()).where(runs.c.fleet == fleet, runs.c.state == "queued")
        ).scalar_one()
        if waiting >= QUEUED_MAX:
            raise LimitExceeded(
                f"{waiting} runs wait already", code="runs.queue", hint="cancel some, or wait"
            )
        values = {c.name: getattr(row, c.name) for c in COLUMNS}
        connection.execute(insert_into(connection, runs).on_conflict_do_nothing(), values)
    return row.id


def claim(
    store: Store,
    owner: str,
    *,
    fleet: str,
    lease_ns: int,
    now_ns: int,
    run: str | None = None,
    model: str | None = None,
) -> RunRow | None:
    """Take the next run: one that waits, or one whose owner has not been heard of for its lease.

    A run that was claimed `ATTEMPTS_MAX` times before is ended as failed instead, one whose end
    was asked for as cancelled.

    Args:
        owner: unique to the caller, such as host, process and a random part.
        lease_ns: how long it is held without a heartbeat.
        run, model: only this run, or only runs of this model.

    Returns:
        The run as it is now held; None where nothing waits.
    """
    while True:
        with store.begin() as connection:
            query = select(*COLUMNS).where(runs.c.fleet == fleet, _free(now_ns))
            if run is not None:
                query = query.where(runs.c.id == run)
            if model is not None:
                query = query.where(runs.c.model == model)
            query = query.order_by(runs.c.priority.desc(), runs.c.created_ns, runs.c.id).limit(1)
            found = connection.execute(query.with_for_update(skip_locked=True)).one_or_none()
            if found is None:
                return None
            row = RunRow(*found)
            if row.cancel_by is not None:
                end_run(connection, row.id, "cancelled", _cancelled(row.cancel_by), now_ns)
                continue
            if row.attempt >= ATTEMPTS_MAX:
                words = f"failed: {row.attempt} attempts ended without a result"
                last = (row.progress or {}).get("error")
                verdict = {"words": f"{words}: {last}" if last else words}
                end_run(connection, row.id, "failed", verdict, now_ns)
                continue
            values = {
                "state": "running", "owner": owner, "lease_ns": now_ns + lease_ns,
                "attempt": row.attempt + 1, "started_ns": row.started_ns or now_ns,
                "updated_ns": now_ns,
            }  # fmt: skip
            connection.execute(update(runs).where(runs.c.id == row.id).values(**values))
            taken = select(*COLUMNS).where(runs.c.id == row.id)
            return RunRow(*connection.execute(taken).one())


def _free(now_ns: int) -> Any:
    """Waiting, or held by nobody any more; runs of the first release had no lease."""
    lost = or_(runs.c.lease_ns.is_(None), runs.c.lease_ns < now_ns)
    return or_(runs.c.state == "queued", and_(runs.c.state == "running", lost))


def heartbeat(store: Store, run: str, owner: str, *, lease_ns: int, now_ns: int) -> Beat:
    """Extend the lease.

    Returns:
        `mine`; `cancel` where somebody asks for its end; `lost` where it is not the caller's any
        more, who has to stop and write nothing.
    """
    with store.begin() as connection:
        changed = connection.execute(
            update(runs).where(*_held(run, owner)).values(lease_ns=now_ns + lease_ns)
        )
        if changed.rowcount != 1:
            return "lost"
        asked = connection.execute(select(runs.c.cancel_by).where(runs.c.id == run)).scalar()
    return "mine" if asked is None else "cancel"


def update_run(
    store: Store,
    run: str,
    owner: str,
    *,
    now_ns: int,
    dataset: str | None = None,
    progress: Mapping[str, Any] | None = None,
    epochs: Sequence[Epoch] = (),
) -> bool:
    """Record how far a run is; False, and nothing is written, where it is not the caller's.

    An epoch that is there already, from an attempt before, is replaced.
    """
    values: dict[str, Any] = {"updated_ns": now_ns}
    if dataset is not None:
        values["dataset"] = dataset
    if progress is not None:
        values["progress"] = dict(progress)
    with store.begin() as connection:
        changed = connection.execute(update(runs).where(*_held(run, owner)).values(**values))
        if changed.rowcount != 1:
            return False
        if epochs:
            statement = insert_into(connection, run_epochs)
            statement = statement.on_conflict_do_update(
                index_elements=["run", "epoch"],
                set_={"figures": statement.excluded.figures, "at_ns": statement.excluded.at_ns},
            )
            rows = [
                {"run": run, "epoch": e.epoch, "figures": e.figures, "at_ns": e.at_ns}
                for e in epochs
                if 0 <= e.epoch <= EPOCHS_MAX
            ]
            connection.execute(statement, rows)
    return True


def finish(
    store: Store,
    run: str,
    owner: str,
    state: RunState,
    verdict: Mapping[str, Any],
    *,
    now_ns: int,
    progress: Mapping[str, Any] | None = None,
) -> bool:
    """End a run of the caller's that made no model; False where it is not the caller's."""
    with store.begin() as connection:
        if not hold(connection, run, owner):
            return False
        end_run(connection, run, state, verdict, now_ns, progress)
    return True


def release(store: Store, run: str, owner: str, *, words: str, counts: bool, now_ns: int) -> bool:
    """Give a run back to the queue, to be gone on with.

    Args:
        words: why, for the person who watches.
        counts: whether this was an attempt that failed; a service that stops in order does not
            count it.
    """
    with store.begin() as connection:
        query = select(runs.c.attempt, runs.c.progress).where(*_held(run, owner))
        found = connection.execute(query.with_for_update()).one_or_none()
        if found is None:
            return False
        values = {
            "state": "queued", "owner": None, "lease_ns": None, "updated_ns": now_ns,
            "attempt": found.attempt if counts else max(0, found.attempt - 1),
            "progress": {**(found.progress or {}), "error": words[:500]},
        }  # fmt: skip
        connection.execute(update(runs).where(runs.c.id == run).values(**values))
    return True


def cancel(store: Store, run: str, *, by: str, now_ns: int) -> Literal["cancelled", "asked", "no"]:
    """End a run that waits; ask the owner of a running one to end it.

    Args:
        by: who wants it.

    Returns:
        `cancelled` where it has ended; `asked` where its owner will see it at the next heartbeat,
        within seconds; `no` where it had ended before, or there is none.
    """
    by = by[:200] or "somebody"
    with store.begin() as connection:
        query = select(runs.c.state).where(runs.c.id == run)
        state = connection.execute(query.with_for_update()).scalar()
        if state == "queued":
            end_run(connection, run, "cancelled", _cancelled(by), now_ns)
            return "cancelled"
        if state != "running":
            return "no"
        asked = {"cancel_by": by, "updated_ns": now_ns}
        connection.execute(update(runs).where(runs.c.id == run).values(**asked))
    return "asked"


def _cancelled(by: str) -> dict[str, Any]:
    return {"words": f"cancelled by {by}"}


def hold(connection: Connection, run: str, owner: str) -> bool:
    """whether the run is the caller's, locked to the end of the transaction."""
    query = select(runs.c.cancel_by).where(*_held(run, owner)).with_for_update()
    found = connection.execute(query).one_or_none()
    return found is not None


def end_run(
    connection: Connection,
    run: str,
    state: RunState,
    verdict: Mapping[str, Any],
    now_ns: int,
    progress: Mapping[str, Any] | None = None,
) -> None:
    """End an open run within the caller's transaction."""
    values: dict[str, Any] = {
        "state": state, "verdict": dict(verdict), "owner": None, "lease_ns": None,
        "updated_ns": now_ns, "ended_ns": now_ns,
    }  # fmt: skip
    if progress is not None:
        values["progress"] = dict(progress)
    connection.execute(
        update(runs).where(runs.c.id == run, runs.c.state.in_(OPEN_STATES)).values(**values)
    )


def _held(run: str, owner: str) -> tuple[Any, Any, Any]:
    return runs.c.id == run, runs.c.state == "running", runs.c.owner == owner
