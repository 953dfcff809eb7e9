"""Webhooks of the console: who is told what, who may start a training, and what is under way.

Owns `webhooks`, `webhook_deliveries` and `console_cursors`; only the console writes them. Promises
that the events read and the deliveries made of them are one commit with the cursor, so that an
event is queued once for each hook, whatever is killed. Any thread; time comes in.

All raise RetryLater where the database is away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import delete, func, insert, select, update

from fieldloop_contract.errors import LimitExceeded
from fieldloop_store.auditing import checked_text
from fieldloop_store.engine import Store, insert_into
from fieldloop_store.schema import console_cursors, webhook_deliveries, webhooks

HOOKS_MAX = 200
KEPT_PER_HOOK = 1_000
Direction = Literal["in", "out"]
DeliveryState = Literal["waiting", "delivered", "given-up"]


@dataclass(frozen=True, slots=True)
class HookRow:
    """A webhook. Out: `url` gets the events whose types begin with one of `events`."""

    id: str
    fleet: str
    direction: Direction
    name: str
    url: str
    events: list[str]
    secret: str
    state: str
    created_by: str
    created_ns: int


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """One event on its way to one hook; `answer` is what the other side last said."""

    id: int
    webhook: str
    event: str
    document: dict[str, Any]
    state: DeliveryState
    attempts: int
    next_ns: int
    answer: str
    created_ns: int
    updated_ns: int


_HOOK = tuple(webhooks.c[name] for name in HookRow.__dataclass_fields__)
_DELIVERY = tuple(webhook_deliveries.c[name] for name in DeliveryRow.__dataclass_fields__)


def add_hook(store: Store, row: HookRow) -> None:
    """Add a webhook. Raises LimitExceeded: there are `HOOKS_MAX`; RejectedInput: its name."""
    checked_text(row.name, "name")
    with store.begin() as connection:
        if connection.execute(select(func.count()).select_from(webhooks)).scalar_one() >= HOOKS_MAX:
            raise LimitExceeded(f"{HOOKS_MAX} webhooks already", code="webhook.count")
        values = {name: getattr(row, name) for name in HookRow.__dataclass_fields__}
        connection.execute(insert(webhooks).values(**values))


def list_hooks(
    store: Store, *, fleet: str | None = None, direction: Direction | None = None
) -> list[HookRow]:
    """Webhooks, oldest first."""
    query = select(*_HOOK)
    if fleet is not None:
        query = query.where(webhooks.c.fleet == fleet)
    if direction is not None:
        query = query.where(webhooks.c.direction == direction)
    with store.read() as connection:
        rows = connection.execute(query.order_by(webhooks.c.created_ns, webhooks.c.id))
        return [HookRow(*row) for row in rows]


def find_hook(store: Store, hook: str) -> HookRow | None:
    """One webhook, or None."""
    with store.read() as connection:
        row = connection.execute(select(*_HOOK).where(webhooks.c.id == hook)).one_or_none()
    return None if row is None else HookRow(*row)


def delete_hook(store: Store, hook: str) -> bool:
    """Delete a webhook and what was on its way to it; False where there is none."""
    with store.begin() as connection:
        connection.execute(delete(webhook_deliveries).where(webhook_deliveries.c.webhook == hook))
        return connection.execute(delete(webhooks).where(webhooks.c.id == hook)).rowcount == 1


def cursor(store: Store, name: str) -> dict[str, Any] | None:
    """How far a reader has come; None before its first step."""
    query = select(console_cursors.c.position).where(console_cursors.c.name == name)
    with store.read() as connection:
        return connection.execute(query).scalar()


def queue_deliveries(
    store: Store,
    name: str,
    position: dict[str, Any],
    queued: Sequence[tuple[str, str, dict[str, Any]]],
    *,
    now_ns: int,
) -> None:
    """Move a reader's cursor and queue what follows from what it read, in one transaction.

    Args:
        queued: hook, event type and document of each delivery.
    """
    with store.begin() as connection:
        statement = insert_into(connection, console_cursors).values(name=name, position=position)
        connection.execute(
            statement.on_conflict_do_update(index_elements=["name"], set_={"position": position})
        )
        if queued:
            connection.execute(
                insert(webhook_deliveries),
                [
                    {
                        "webhook": hook, "event": event, "document": document,
                        "state": "waiting", "attempts": 0, "next_ns": now_ns, "answer": "",
                        "created_ns": now_ns, "updated_ns": now_ns,
                    }
                    for hook, event, document in queued
                ],
            )  # fmt: skip


def due_deliveries(store: Store, *, now_ns: int, limit: int = 50) -> list[DeliveryRow]:
    """Deliveries whose time has come, the longest due first."""
    d = webhook_deliveries.c
    query = select(*_DELIVERY).where(d.state == "waiting", d.next_ns <= now_ns)
    with store.read() as connection:
        return [DeliveryRow(*r) for r in connection.execute(query.order_by(d.next_ns).limit(limit))]


def settle_delivery(
    store: Store,
    delivery: int,
    *,
    state: DeliveryState,
    attempts: int,
    answer: str,
    next_ns: int,
    now_ns: int,
) -> None:
    """Note how an attempt went; of a hook's settled deliveries the last `KEPT_PER_HOOK` stay."""
    d = webhook_deliveries.c
    with store.begin() as connection:
        hook = connection.execute(
            update(webhook_deliveries)
            .where(d.id == delivery)
            .values(
                state=state, attempts=attempts, answer=answer[:200], next_ns=next_ns,
                updated_ns=now_ns,
            )
            .returning(d.webhook)
        ).scalar()  # fmt: skip
        oldest = connection.execute(
            select(d.id)
            .where(d.webhook == hook)
            .order_by(d.id.desc())
            .offset(KEPT_PER_HOOK)
            .limit(1)
        ).scalar()
        if oldest is not None:
            over = (d.webhook == hook, d.id <= oldest, d.state != "waiting")
            connection.execute(delete(webhook_deliveries).where(*over))


def deliveries_of(store: Store, hook: str, *, limit: int = 50) -> list[DeliveryRow]:
    """What was sent to a hook, newest first."""
    d = webhook_deliveries.c
    query = select(*_DELIVERY).where(d.webhook == hook).order_by(d.id.desc()).limit(limit)
    with store.read() as connection:
        return [DeliveryRow(*row) for row in connection.execute(query)]
