"""Who did what, when and from where: written by the console, and by training for a look at a sealed
set; read by administrators.

Any thread. All raise RetryLater where the database is away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select

from fieldloop_store.engine import Store
from fieldloop_store.schema import console_audit

PAGE_MAX = 1_000
DETAIL_TEXT_MAX = 500


@dataclass(frozen=True, slots=True)
class TrailRow:
    """One action.

    Attributes:
        via: session, token, hook, command or system.
        outcome: done, refused or failed.
    """

    id: int
    at_ns: int
    actor: str
    via: str
    address: str
    fleet: str | None
    action: str
    target: str
    outcome: str
    detail: dict[str, Any]


def note_action(
    store: Store,
    *,
    at_ns: int,
    actor: str,
    via: str,
    address: str,
    action: str,
    target: str = "",
    fleet: str | None = None,
    outcome: str = "done",
    detail: dict[str, Any] | None = None,
) -> None:
    """Write one entry. What is too long is cut: no text keeps an action from being noted."""
    with store.begin() as connection:
        note_within(
            connection, at_ns=at_ns, actor=actor, via=via, address=address, action=action,
            target=target, fleet=fleet, outcome=outcome, detail=detail,
        )  # fmt: skip


def note_within(
    connection: Connection,
    *,
    at_ns: int,
    actor: str,
    via: str,
    address: str,
    action: str,
    target: str = "",
    fleet: str | None = None,
    outcome: str = "done",
    detail: dict[str, Any] | None = None,
) -> None:
    """The same within the caller's transaction, with what it tells of."""
    connection.execute(
        insert(console_audit).values(
            at_ns=at_ns, actor=_cut(actor), via=via, address=address[:64],
            fleet=fleet and fleet[:63], action=action, target=_cut(target), outcome=outcome,
            detail={k: _cut(v, DETAIL_TEXT_MAX) for k, v in (detail or {}).items()},
        )
    )  # fmt: skip


def trail(
    store: Store,
    *,
    before: int | None = None,
    actor: str | None = None,
    action: str | None = None,
    limit: int = 50,
) -> list[TrailRow]:
    """Entries, newest first; `before` is the id of the last one seen."""
    a = console_audit.c
    query = select(*(a[name] for name in TrailRow.__dataclass_fields__))
    if before is not None:
        query = query.where(a.id < before)
    if actor is not None:
        query = query.where(a.actor == actor)
    if action is not None:
        query = query.where(a.action == action)
    with store.read() as connection:
        rows = connection.execute(query.order_by(a.id.desc()).limit(min(limit, PAGE_MAX)))
        return [TrailRow(*row) for row in rows]


def _cut(value: Any, most: int = 200) -> Any:
    """A text that every back end stores: no NUL, no half of a surrogate pair, not too long."""
    if not isinstance(value, str):
        return value
    return value.replace("\0", "").encode("utf-8", "replace").decode()[:most]
