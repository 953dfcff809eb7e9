"""Telling webhooks what happened: events of devices, trainings that ended, rollouts that moved.

One thread calls `queue_news` and `send_due` in turn. What was read and what is to be sent are one
commit, so that an event is queued once for each hook that wants it, whatever is killed; it is sent
until the other side takes it, with growing pauses, at most `ATTEMPTS_MAX` times. A receiver knows a
repeat by `webhook-id`. What happened before a fleet had its first hook is not told.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from fieldloop_contract.errors import FieldloopError, RetryLater
from fieldloop_runtime import webhook
from fieldloop_store import webhooks
from fieldloop_store.engine import Store
from fieldloop_store.queries import EventCursor, events_since
from fieldloop_store.rollouts import list_rollouts
from fieldloop_store.runs import list_runs
from fieldloop_store.webhooks import DeliveryRow, DeliveryState, HookRow

ATTEMPTS_MAX = 12
EVENTS_AT_ONCE = 500
KNOWN_MAX = 200
FIRST_PAUSE_S, PAUSE_MAX_S = 5, 6 * 3_600
_SETTLE_NS = 2 * 10**9
"""With several telemetry replicas a row may become visible after one that arrived later."""
News = tuple[str, dict[str, Any]]
Post = Callable[..., None]


def wants(hook: HookRow, kind: str) -> bool:
    """Whether a hook is told of events of this type. Pure.

    >>> hook = HookRow("1", "f", "out", "n", "u", ["run.*", "alarm.raised"], "s", "active", "a", 1)
    >>> [wants(hook, kind) for kind in ("run.approved", "alarm.raised", "alarm.cleared")]
    [True, True, False]
    """
    for wanted in hook.events or ["*"]:
        if wanted in ("*", kind):
            return True
        if wanted.endswith(".*") and kind.startswith(wanted[:-1]):
            return True
    return False


def pause_s(attempts: int) -> int:
    """How long to wait after so many attempts that failed. Pure.

    >>> [pause_s(n) for n in (1, 2, 3, 12)]
    [5, 20, 80, 21600]
    """
    return int(min(FIRST_PAUSE_S * 4 ** (attempts - 1), PAUSE_MAX_S))


def queue_news(store: Store, now_ns: int) -> int:
    """Queue what is new of every fleet that has a hook; returns how many deliveries that made."""
    hooks = webhooks.list_hooks(store, direction="out")
    queued = 0
    for fleet in sorted({hook.fleet for hook in hooks}):
        own = [hook for hook in hooks if hook.fleet == fleet]
        queued += _queue_fleet(store, fleet, own, now_ns)
    return queued


def _queue_fleet(store: Store, fleet: str, hooks: list[HookRow], now_ns: int) -> int:
    name = f"webhooks {fleet}"
    before = webhooks.cursor(store, name)
    position, news = _news(store, fleet, before, now_ns)
    if before == position:
        return 0
    queued = [
        (hook.id, kind, {"type": kind, "fleet": fleet, "data": data})
        for kind, data in (news if before is not None else ())
        for hook in hooks
        if wants(hook, kind)
    ]
    webhooks.queue_deliveries(store, name, position, queued, now_ns=now_ns)
    return len(queued)


def _news(
    store: Store, fleet: str, before: dict[str, Any] | None, now_ns: int
) -> tuple[dict[str, Any], list[News]]:
    known = before or {}
    news: list[News] = []
    place = known.get("events")
    at = EventCursor(*place) if place else EventCursor(now_ns, "", "", "", 0)
    rows = events_since(store, fleet, at, before_ns=now_ns - _SETTLE_NS, limit=EVENTS_AT_ONCE)
    for row in rows:
        at = row.cursor
        data = {"device": row.log.device, "service": row.log.service, "event": row.document}
        news.append((row.type, data))
    runs = {run.id: run.state for run in list_runs(store, fleet, limit=KNOWN_MAX)}
    rollouts = {row.id: row.state for row in list_rollouts(store, fleet)[:KNOWN_MAX]}
    news += _moved("run", known.get("runs", {}), runs)
    news += _moved("rollout", known.get("rollouts", {}), rollouts)
    position = {
        "events": [at.received_ns, at.device, at.service, at.epoch, at.seq],
        "runs": runs,
        "rollouts": rollouts,
    }
    return position, news


def _moved(kind: str, before: dict[str, str], now: dict[str, str]) -> Iterable[News]:
    """What has another state than before."""
    for found, state in now.items():
        if before.get(found) != state:
            yield f"{kind}.{state}", {kind: found, "state": state, "before": before.get(found)}


def send_due(store: Store, now_ns: int, post: Post = webhook.post) -> int:
    """Send what is due; returns how many were taken."""
    taken = 0
    for delivery in webhooks.due_deliveries(store, now_ns=now_ns):
        taken += _send(store, delivery, now_ns, post)
    return taken


def _send(store: Store, delivery: DeliveryRow, now_ns: int, post: Post) -> bool:
    hook = webhooks.find_hook(store, delivery.webhook)
    attempts = delivery.attempts + 1
    state: DeliveryState = "delivered"
    answer = "taken"
    if hook is None:
        return False
    try:
        post(
            hook.url,
            json.dumps(delivery.document, separators=(",", ":"), sort_keys=True).encode(),
            secret=hook.secret,
            message_id=f"fieldloop-{delivery.id}",
            at_s=now_ns // 10**9,
        )
    except RetryLater as error:
        state, answer = ("waiting" if attempts < ATTEMPTS_MAX else "given-up"), str(error)
    except FieldloopError as error:
        state, answer = "given-up", str(error)
    webhooks.settle_delivery(
        store, delivery.id, state=state, attempts=attempts, answer=answer,
        next_ns=now_ns + pause_s(attempts) * 10**9, now_ns=now_ns,
    )  # fmt: skip
    return state == "delivered"
