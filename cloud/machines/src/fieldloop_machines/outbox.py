"""Notices on their way: written with the alarms that they tell of, sent, tried again, given up.

Promises that a notice is decided once, in the transaction that wrote its alarms, and is sent at
least once by each channel that was set up then, or given up after `TRIES_MAX` tries with the reason
kept. A receiver knows a repeat by the notice's id. Owner thread only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, insert, select, update

from fieldloop_contract.errors import FieldloopError, RetryLater
from fieldloop_machines.channels import Channel
from fieldloop_machines.notices import Desk, Notice, Ringing
from fieldloop_runtime.journal import Journal
from fieldloop_store.alarms import put_state
from fieldloop_store.engine import Store
from fieldloop_store.schema.machines_service import machines_state, notices

TRIES_MAX = 12
RETRY_BASE_S = 5.0
RETRY_CAP_S = 900.0
AT_ONCE = 10
DESK = "desk"


def read_desk(connection: Connection, fleet: str) -> Desk:
    """The desk as it was left."""
    c = machines_state.c
    query = select(c.value).where(c.fleet == fleet, c.key == DESK)
    held = connection.execute(query).scalar()
    if held is None:
        return Desk()
    waiting = tuple(Ringing(**one) for one in held.pop("waiting"))
    return Desk(waiting=waiting, recent_ns=tuple(held.pop("recent_ns")), **held)


def write(
    connection: Connection, fleet: str, desk: Desk, sent: Sequence[Notice], channels: Sequence[str]
) -> None:
    """Keep the desk and what it decided, within the caller's transaction."""
    document = asdict(desk)
    document["waiting"] = [{**asdict(r), "traits": dict(r.traits)} for r in desk.waiting]
    put_state(connection, fleet, DESK, document)
    for notice in sent:
        due = {name: {"tries": 0, "next_ns": notice.at_ns} for name in channels}
        connection.execute(
            insert(notices).values(
                fleet=fleet,
                at_ns=notice.at_ns,
                document={**notice.to_json(), "body": notice.body},
                due=due,
                sent={},
                told=not due,
            )
        )


def send_due(
    store: Store, fleet: str, channels: Mapping[str, Channel], journal: Journal, now_ns: int
) -> int:
    """Send what is due, `AT_ONCE` notices at most; how many sendings were tried.

    Raises:
        RetryLater: the store is away.
    """
    n = notices.c
    query = select(n.id, n.document, n.due, n.sent).where(n.fleet == fleet, n.told.is_(False))
    with store.read() as connection:
        rows = connection.execute(query.order_by(n.id).limit(AT_ONCE)).all()
    tried = 0
    for row in rows:
        due, sent = dict(row.due), dict(row.sent)
        for name, state in list(due.items()):
            if state["next_ns"] > now_ns:
                continue
            tried += 1
            fault = _send(channels.get(name), f"{fleet}-{row.id}", row.document, now_ns)
            if fault is None:
                sent[name] = {"at_ns": now_ns}
                del due[name]
            elif fault.final or state["tries"] + 1 >= TRIES_MAX:
                sent[name] = {"at_ns": now_ns, "given_up": fault.words}
                del due[name]
                journal.error("notice.given_up", notice=row.id, channel=name, reason=fault.words)
            else:
                wait_s = min(RETRY_CAP_S, RETRY_BASE_S * 2 ** state["tries"])
                due[name] = {"tries": state["tries"] + 1, "next_ns": now_ns + int(wait_s * 1e9)}
                journal.warning("notice.delayed", notice=row.id, channel=name, reason=fault.words)
        if due != row.due:
            with store.begin() as connection:
                connection.execute(
                    update(notices).where(n.id == row.id).values(due=due, sent=sent, told=not due)
                )
    return tried


class _Fault:
    def __init__(self, words: str, *, final: bool) -> None:
        self.words, self.final = words, final


def _send(
    channel: Channel | None, notice: str, document: dict[str, Any], now_ns: int
) -> _Fault | None:
    if channel is None:
        return _Fault("the channel is no longer set up", final=True)
    try:
        channel(notice, document, now_ns)
    except RetryLater as error:
        return _Fault(str(error), final=False)
    except FieldloopError as error:
        return _Fault(str(error), final=True)
    return None
