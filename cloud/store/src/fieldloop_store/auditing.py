"""Who changed what in the registry, and when: written with the change, read by anyone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select

from fieldloop_contract.errors import RejectedInput
from fieldloop_store.engine import Store
from fieldloop_store.schema import device_audit

ROWS_MAX = 10_000
TEXT_MAX = 200


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One change of the registry."""

    device: str
    action: str
    actor: str
    detail: dict[str, Any]
    at_ns: int


def audit_trail(store: Store, fleet: str, *, device: str | None = None) -> list[AuditRow]:
    """Changes, newest first, at most `ROWS_MAX`."""
    a = device_audit.c
    query = select(a.device, a.action, a.actor, a.detail, a.at_ns).where(a.fleet == fleet)
    if device is not None:
        query = query.where(a.device == device)
    with store.read() as connection:
        rows = connection.execute(query.order_by(a.id.desc()).limit(ROWS_MAX)).all()
    return [AuditRow(*row) for row in rows]


def write_audit(
    connection: Connection,
    fleet: str,
    device: str,
    action: str,
    actor: str,
    detail: dict[str, Any],
    at_ns: int,
) -> None:
    """Write one entry within the caller's transaction."""
    connection.execute(
        insert(device_audit).values(
            fleet=fleet,
            device=device,
            action=action,
            actor=checked_text(actor, "actor"),
            detail=detail,
            at_ns=at_ns,
        )
    )


def checked_text(value: str, what: str) -> str:
    """A text that fits; RejectedInput otherwise."""
    if len(value) > TEXT_MAX or "\0" in value:
        raise RejectedInput(f"{what}: at most {TEXT_MAX} characters", code="registry.text")
    return value
