"""Who is there: the last status and the last report of each service, and the ledgers it reports.

The rule of last wills is `judge`, pure: a will speaks for one session, so the will of another
session than the last one that came online is out of date and ignored. Identity comes from the
topic. Writes within the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, and_, func, select

from fieldloop_contract.messages import Reported, Status
from fieldloop_store.engine import insert_into
from fieldloop_store.schema import ledgers, services

SERVICES_PER_DEVICE_MAX = 64
EPOCHS_PER_SERVICE_MAX = 10_000
"""A device may invent services and epochs as it likes; beyond these, new ones are not recorded."""
_KEY = ("fleet", "device", "service")


@dataclass(frozen=True, slots=True)
class Presence:
    """One `status` or `reported` message of a service."""

    fleet: str
    device: str
    service: str
    message: Status | Reported
    received_ns: int

    @property
    def who(self) -> tuple[str, str, str]:
        """Fleet, device, service."""
        return (self.fleet, self.device, self.service)


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of a service: its state and the session that speaks for it."""

    state: str = "unknown"
    session: str = ""


def judge(standing: Standing, status: Status) -> Standing | None:
    """What is known after a status message; None where it is out of date.

    online:  always believed: the last session that came online speaks.
    offline: believed from the session that speaks, or where no session was ever seen.
    """
    if status.state == "online":
        return Standing("online", status.session)
    if standing.session in ("", status.session):
        return Standing("offline", status.session)
    return None


def write_presence(connection: Connection, messages: Sequence[Presence]) -> int:
    """Bring `services` and `ledgers` up to date, in the order given.

    Returns:
        How many were ignored: wills that are out of date, and messages of services beyond
        `SERVICES_PER_DEVICE_MAX` of a device.
    """
    ignored = 0
    # A stable sort: replicas lock services in one order, each service's messages keep theirs.
    ordered = sorted(messages, key=lambda item: item.who)
    for who, group in groupby(ordered, key=lambda item: item.who):
        ignored += _write_service(connection, who, list(group))
    return ignored


def _write_service(
    connection: Connection, who: tuple[str, str, str], messages: list[Presence]
) -> int:
    s = services.c
    query = select(s.state, s.session).where(*(s[k] == v for k, v in zip(_KEY, who, strict=True)))
    row = connection.execute(query.with_for_update()).one_or_none()
    if row is None:
        own = select(func.count()).where(s.fleet == who[0], s.device == who[1])
        if connection.execute(own).scalar_one() >= SERVICES_PER_DEVICE_MAX:
            return len(messages)
    standing = Standing(*row) if row is not None else Standing()
    first_ns = messages[0].received_ns
    insert: dict[str, Any] = dict(zip(_KEY, who, strict=True))
    insert |= {"state": "unknown", "session": "", "status": {}, "status_ns": first_ns}
    changes: dict[str, Any] = {}
    reported: tuple[Reported, int] | None = None
    ignored = 0
    for item in messages:
        if isinstance(item.message, Reported):
            reported = (item.message, item.received_ns)
            continue
        after = judge(standing, item.message)
        if after is None:
            ignored += 1
            continue
        standing = after
        changes |= {
            "state": after.state, "session": after.session, "status_ns": item.received_ns
        }  # fmt: skip
        if after.state == "online":
            # What it can run stays known while it is away, so an offline document replaces nothing.
            changes["status"] = item.message.model_dump(mode="json", exclude_none=True)
    if reported is not None:
        changes["reported"] = reported[0].model_dump(mode="json", exclude_none=True)
        changes["reported_ns"] = reported[1]
        _write_ledgers(connection, who, *reported)
    if changes:
        statement = insert_into(connection, services).values(**(insert | changes))
        connection.execute(statement.on_conflict_do_update(index_elements=list(_KEY), set_=changes))
    return ignored


def _write_ledgers(
    connection: Connection, who: tuple[str, str, str], reported: Reported, received_ns: int
) -> None:
    ledger = ledgers.c
    own = and_(*(ledger[k] == v for k, v in zip(_KEY, who, strict=True)))
    named = [totals.epoch for totals in reported.ledgers]
    known = set(
        connection.execute(select(ledger.epoch).where(own, ledger.epoch.in_(named))).scalars()
    )
    room = 0
    if not known.issuperset(named):
        held = connection.execute(select(func.count()).where(own)).scalar_one()
        room = EPOCHS_PER_SERVICE_MAX - held
    for totals in reported.ledgers:
        if totals.epoch not in known:
            if room <= 0:
                continue
            known.add(totals.epoch)
            room -= 1
        books = {
            "produced": totals.produced,
            "stored": totals.stored,
            "pending": totals.pending,
            "withheld": totals.withheld,
            "dropped": dict(totals.dropped),
            "reported_ns": received_ns,
        }
        statement = insert_into(connection, ledgers).values(
            **dict(zip(_KEY, who, strict=True)), epoch=totals.epoch, **books
        )
        connection.execute(
            statement.on_conflict_do_update(index_elements=[*_KEY, "epoch"], set_=books)
        )
