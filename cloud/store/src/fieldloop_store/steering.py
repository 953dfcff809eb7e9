"""Steering rollouts: what people ask, what came of it, and who did what.

The console and the commands write a request with `ask`; delivery obeys it at its next look and
writes the answer, in one transaction with what it did. A request is known by its id: asked twice
with one id, it is one request. `find_request` is how whoever asked learns the answer.

    ask(store, fleet, "pause", by="anna", rollout=id, why="line 3 is down", now_ns=...)

| kind | names | what it does |
|---|---|---|
| start | `model`, `version` (and `lane`); or `lane`, `version` of a release | queues one |
| pause, resume, approve, abort | `rollout` | as the words say |
| retry | `rollout` | begins a halted or aborted one again, as a new rollout |

`list_rollouts` and `find_rollout` (`fieldloop_store.rollouts`) show state, gates and figures,
`list_rollout_devices` who was touched in which wave; `audit_trail` who did what, when, and on which
evidence.
Any thread may call all of it. All raise RetryLater where the database is away.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select, update

from fieldloop_contract.errors import RejectedInput
from fieldloop_store.engine import Store, insert_into
from fieldloop_store.schema import rollout_audit, rollout_requests

KINDS = ("start", "pause", "resume", "abort", "retry", "approve")
WAITING_MAX = 1_000
PAGE_MAX = 1_000
REASON_MAX = 500
MQTT, WEBHOOK = 1, 2
"""Ways to notify."""


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody asked. `state` is waiting, done or refused; `answer` is for people."""

    id: str
    fleet: str
    kind: str
    rollout: str | None
    lane: str | None
    model: str | None
    version: str | None
    actor: str
    reason: str
    asked_ns: int
    state: str = "waiting"
    answer: str = ""
    answered_ns: int | None = None


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One thing that happened to a rollout; `detail` holds the figures it was decided on."""

    id: int
    rollout: str
    type: str
    actor: str
    reason: str
    detail: dict[str, Any]
    at_ns: int


def ask(
    store: Store,
    fleet: str,
    kind: str,
    *,
    by: str,
    now_ns: int,
    why: str = "",
    rollout: str | None = None,
    lane: str | None = None,
    model: str | None = None,
    version: str | int | None = None,
    request_id: str | None = None,
) -> str:
    """Ask delivery for something; returns the request's id.

    Args:
        by: who asks.
        request_id: of the caller's own; the same id again is the same request, and changes nothing.

    Raises:
        RejectedInput: no such kind, or it does not name what it is about.
    """
    if kind == "delete":
        raise RejectedInput(
            "a rollout is not deleted: it is the record of what devices were told",
            code="rollout.request",
            hint="abort it, and every touched device goes back to what it had",
        )
    if kind not in KINDS:
        raise RejectedInput(
            f"nothing is called {kind!r:.40}",
            code="rollout.request",
            hint=f"one of {', '.join(KINDS)}",
        )
    if kind == "start":
        if version is None or (model is None and lane is None):
            raise RejectedInput(
                "a start names a version, and its model or its lane",
                code="rollout.request",
                hint="e.g. model=activity version=3",
            )
    elif not rollout:
        raise RejectedInput(f"{kind} names a rollout", code="rollout.request")
    row = {
        "id": request_id or secrets.token_hex(16), "fleet": fleet, "kind": kind,
        "rollout": rollout, "lane": lane, "model": model,
        "version": None if version is None else str(version), "actor": by[:200],
        "reason": why[:REASON_MAX], "asked_ns": now_ns, "state": "waiting", "answer": "",
    }  # fmt: skip
    with store.begin() as connection:
        statement = insert_into(connection, rollout_requests).values(**row)
        connection.execute(statement.on_conflict_do_nothing(index_elements=["id"]))
    return str(row["id"])


def _columns() -> list[Any]:
    r = rollout_requests.c
    return [
        r.id, r.fleet, r.kind, r.rollout, r.lane, r.model, r.version, r.actor, r.reason,
        r.asked_ns, r.state, r.answer, r.answered_ns,
    ]  # fmt: skip


def find_request(store: Store, request_id: str) -> Request | None:
    """One request, with its answer once there is one."""
    query = select(*_columns()).where(rollout_requests.c.id == request_id)
    with store.read() as connection:
        row = connection.execute(query).first()
    return Request(*row) if row is not None else None


def list_requests(store: Store, fleet: str, *, limit: int = 100) -> list[Request]:
    """The newest requests of a fleet, answered or not."""
    r = rollout_requests.c
    query = select(*_columns()).where(r.fleet == fleet).order_by(r.asked_ns.desc(), r.id)
    with store.read() as connection:
        return [Request(*row) for row in connection.execute(query.limit(min(limit, PAGE_MAX)))]


def waiting_requests(store: Store, fleet: str) -> list[Request]:
    """What has not been answered, oldest first: delivery's work."""
    r = rollout_requests.c
    query = (
        select(*_columns())
        .where(r.fleet == fleet, r.state == "waiting")
        .order_by(r.asked_ns, r.id)
        .limit(WAITING_MAX)
    )
    with store.read() as connection:
        return [Request(*row) for row in connection.execute(query)]


def save_answers(connection: Connection, answers: Sequence[Request]) -> None:
    """Write answers within delivery's own transaction; one that has an answer keeps it."""
    r = rollout_requests.c
    for request in answers:
        connection.execute(
            update(rollout_requests)
            .where(r.id == request.id, r.state == "waiting")
            .values(
                state=request.state,
                answer=request.answer,
                answered_ns=request.answered_ns,
                rollout=request.rollout,
            )
        )


def save_audit(connection: Connection, fleet: str, rows: Sequence[AuditRow], *, due: int) -> None:
    """Add to the trail within delivery's own transaction; `id` is given by the database.

    Args:
        due: sum of the notifications to be sent, of `MQTT` and `WEBHOOK`.
    """
    if rows:
        values = [
            {
                "fleet": fleet, "rollout": a.rollout, "type": a.type, "actor": a.actor[:200],
                "reason": a.reason, "detail": a.detail, "at_ns": a.at_ns, "due": due,
            }
            for a in rows
        ]  # fmt: skip
        connection.execute(insert(rollout_audit), values)


def audit_trail(
    store: Store, fleet: str, *, rollout: str | None = None, after: int = 0, limit: int = PAGE_MAX
) -> list[AuditRow]:
    """What happened, oldest first, beginning after the row `after`."""
    a = rollout_audit.c
    query = select(a.id, a.rollout, a.type, a.actor, a.reason, a.detail, a.at_ns).where(
        a.fleet == fleet, a.id > after
    )
    if rollout is not None:
        query = query.where(a.rollout == rollout)
    with store.read() as connection:
        rows = connection.execute(query.order_by(a.id).limit(min(limit, PAGE_MAX)))
        return [AuditRow(*row) for row in rows]


def due_notices(store: Store, fleet: str, channel: int, *, limit: int = 100) -> list[AuditRow]:
    """Rows whose notification by `channel` is due, oldest first."""
    a = rollout_audit.c
    query = (
        select(a.id, a.rollout, a.type, a.actor, a.reason, a.detail, a.at_ns)
        .where(a.fleet == fleet, a.due > 0, a.due.bitwise_and(channel) == channel)
        .order_by(a.id)
        .limit(limit)
    )
    with store.read() as connection:
        return [AuditRow(*row) for row in connection.execute(query)]


def settle_notices(store: Store, ids: Sequence[int], channel: int) -> None:
    """Their notification by `channel` was sent, or given up; again changes nothing."""
    a = rollout_audit.c
    if ids:
        with store.begin() as connection:
            connection.execute(
                update(rollout_audit)
                .where(a.id.in_(ids), a.due.bitwise_and(channel) == channel)
                .values(due=a.due - channel)
            )


def drop_notices(store: Store, fleet: str, channel: int, *, keep: int) -> int:
    """Give up the oldest that are due by `channel`, beyond the newest `keep`; how many."""
    a = rollout_audit.c
    newest = (
        select(a.id)
        .where(a.fleet == fleet, a.due > 0, a.due.bitwise_and(channel) == channel)
        .order_by(a.id.desc())
        .offset(keep)
        .limit(1)
    )
    with store.begin() as connection:
        last = connection.execute(newest).scalar()
        if last is None:
            return 0
        done = connection.execute(
            update(rollout_audit)
            .where(
                a.fleet == fleet,
                a.id <= last,
                a.due > 0,
                a.due.bitwise_and(channel) == channel,
            )
            .values(due=a.due - channel)
        )
        return int(done.rowcount)
