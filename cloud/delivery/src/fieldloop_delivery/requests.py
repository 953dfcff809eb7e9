"""What people ask of the rollouts of one lane, obeyed or refused in words. Pure.

The same for models and for container releases; only `find`, which says what a start names, and
`may`, which says whether a target may run, differ. Nothing here is obeyed twice: a request that has
an answer is not given to it again, and one that asks for what is already so is refused and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from fieldloop_delivery.evidence import Target
from fieldloop_delivery.policy import Plan
from fieldloop_delivery.rollout import (
    OPEN,
    WITHDRAWN,
    Abort,
    Approve,
    Effect,
    Event,
    Pause,
    Phase,
    Resume,
    Rollout,
    Tell,
    refusal,
    step,
)
from fieldloop_store.steering import Request

Find = Callable[[Request], Target | str]
"""The target that a start names, or why there is none that may run."""
May = Callable[[Target], str]
"""Why a target may not run; "" where it may."""
_EVENTS: dict[str, type[Pause | Resume | Abort | Approve]] = {
    "pause": Pause,
    "resume": Resume,
    "abort": Abort,
    "approve": Approve,
}


@dataclass(frozen=True, slots=True)
class Obeyed:
    """What came of a request: its answer, the rollout's new state if there is one, the effects."""

    request: Request
    after: Rollout | None = None
    effects: list[Effect] = field(default_factory=list)


def obey(
    request: Request,
    rollouts: Sequence[Rollout],
    plan: Plan,
    *,
    find: Find,
    may: May,
    new_id: str,
    lane: str,
    now_s: float,
) -> Obeyed:
    """Carry out one request on the rollouts of its lane."""
    if request.kind == "start":
        return _start(request, rollouts, find, new_id, lane, now_s)
    state = next((r for r in rollouts if r.id == request.rollout), None)
    if state is None:
        return _refuse(request, f"no rollout {request.rollout} in {lane}", now_s)
    if request.kind == "retry":
        return _retry(request, state, rollouts, may, new_id, now_s)
    kind = _EVENTS.get(request.kind)
    if kind is None:
        return _refuse(request, f"nothing is called {request.kind}", now_s)
    event: Event = kind(request.actor, request.reason)
    why = refusal(state, event)
    if why:
        return _refuse(request, why, now_s)
    after, effects = step(state, plan, event, now_s)
    return Obeyed(_answered(request, "done", after.verdict, now_s), after, effects)


def _start(
    request: Request,
    rollouts: Sequence[Rollout],
    find: Find,
    new_id: str,
    lane: str,
    now_s: float,
) -> Obeyed:
    target = find(request)
    if isinstance(target, str):
        return _refuse(request, target, now_s)
    same = next(
        (r for r in rollouts if r.target.key == target.key and r.phase in (*OPEN, Phase.QUEUED)),
        None,
    )
    if same is not None:
        return _refuse(
            request,
            f"{target} is on its way already: rollout {same.id} is {same.phase.value}"
            f" ({same.verdict})",
            now_s,
        )
    done = [r for r in rollouts if r.phase is Phase.COMPLETED]
    newest = max(done, key=lambda r: r.ended_s or 0.0, default=None)
    if newest is not None and newest.target.key == target.key:
        return _refuse(
            request, f"{target} is what {lane} runs since rollout {newest.id} completed", now_s
        )
    return _queue(request, Rollout(id=new_id, lane=lane, target=target), rollouts, now_s)


def _retry(
    request: Request,
    state: Rollout,
    rollouts: Sequence[Rollout],
    may: May,
    new_id: str,
    now_s: float,
) -> Obeyed:
    if state.phase not in WITHDRAWN:
        return _refuse(
            request,
            f"rollout {state.id} is {state.phase.value}; only a halted or aborted one is retried",
            now_s,
        )
    why = may(state.target)
    if why:
        return _refuse(request, f"{state.target} cannot be rolled out again: {why}", now_s)
    again = next(
        (r for r in rollouts if r.target == state.target and r.phase in (*OPEN, Phase.QUEUED)),
        None,
    )
    if again is not None:
        return _refuse(
            request, f"it is being tried again: rollout {again.id} is {again.phase.value}", now_s
        )
    fresh = Rollout(id=new_id, lane=state.lane, target=state.target, lift=True, retry_of=state.id)
    return _queue(request, fresh, rollouts, now_s)


def _queue(request: Request, fresh: Rollout, rollouts: Sequence[Rollout], now_s: float) -> Obeyed:
    busy = next((r for r in rollouts if r.phase in OPEN), None)
    waits = f", behind rollout {busy.id} of {busy.target}" if busy is not None else ""
    text = f"rollout {fresh.id} of {fresh.target} is queued{waits}"
    told = Tell("rollout.queued", request.actor, request.reason)
    return Obeyed(replace(_answered(request, "done", text, now_s), rollout=fresh.id), fresh, [told])


def refused(request: Request, why: str, now_s: float) -> Request:
    """The request with a refusal as its answer."""
    return _answered(request, "refused", why, now_s)


def _refuse(request: Request, why: str, now_s: float) -> Obeyed:
    return Obeyed(refused(request, why, now_s))


def _answered(request: Request, state: str, answer: str, now_s: float) -> Request:
    return replace(request, state=state, answer=answer, answered_ns=int(now_s * 1e9))
