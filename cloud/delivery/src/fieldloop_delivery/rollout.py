"""The rollout: one pure state machine for models and for container releases, in virtual time.

The theory. A rollout takes one `Target` (a model version, a container release) to the devices of
one *lane* (a model slot, a balena application), wave by wave. A lane has at most one rollout that
is not QUEUED and not at its end; later ones queue. A wave *touches* devices until its size is
reached, and passes only on what devices have shown; silence never passes. When a gate fails the
rollout is HALTED, and every touched device is given back what it had before. While it is PAUSED or
waits for approval (AWAITING) nobody new is touched, and gates still watch those who were.

`step(state, plan, event, now_s) -> (state, effects)` reads no clock and does no I/O. Every pair of
phase and event has a row in `TRANSITIONS` or is illegal; an illegal event leaves the state as it is
and has no effects, and `refusal` says in words why. The same look twice changes nothing.

How a service carries it out:
1. gather an `Observation`: for each device of the lane its `Evidence`; `holds` is the key of what
   it was last told to run (the stored assignment, the pin in balena), never a guess;
2. `state, effects = step(state, plan, Look(observation), now_s)`, and the same for requests of
   people (`Pause`, `Resume`, `Abort`, `Approve`) and for `Begin` once the lane is free;
3. store the state (`changes(before, after)` names the members to be written) in one transaction
   with whatever carries the effects out, or before it;
4. carry out. `Give` and `Return` are edges for logs and for fast action; the level is
   `wanted(state)`: what each touched device shall have now. A service killed between 3 and 4
   compares `wanted` with what devices hold and carries out the differences only, so that nothing
   is sent twice and nothing is left out.

A device outside `wanted` is not this rollout's: it keeps what it has, or gets the lane's champion.
Any thread may call these functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from fieldloop_delivery.evidence import Evidence, Target
from fieldloop_delivery.judging import judge
from fieldloop_delivery.policy import Plan
from fieldloop_delivery.rolloutvalues import (
    ENDED,
    EVENTS,
    OPEN,
    WITHDRAWN,
    Abort,
    Approve,
    Begin,
    Effect,
    Event,
    Give,
    Look,
    Member,
    Observation,
    Pause,
    Phase,
    Resume,
    Return,
    Rollout,
    Tell,
)
from fieldloop_delivery.waves import choose, shown_by, wave_size

__all__ = [
    "ENDED",
    "EVENTS",
    "OPEN",
    "TRANSITIONS",
    "WITHDRAWN",
    "Abort",
    "Approve",
    "Begin",
    "Effect",
    "Event",
    "Give",
    "Look",
    "Member",
    "Observation",
    "Pause",
    "Phase",
    "Resume",
    "Return",
    "Rollout",
    "Tell",
    "changes",
    "refusal",
    "step",
    "wanted",
]

Outcome = tuple[Rollout, list[Effect]]


def step(state: Rollout, plan: Plan, event: Event, now_s: float) -> Outcome:
    """The next state, and what has to be done once it is stored."""
    handler = TRANSITIONS.get((state.phase, type(event)))
    return (state, []) if handler is None else handler(state, plan, event, now_s)


def wanted(state: Rollout) -> dict[str, Target | None]:
    """What each touched device shall run now, by this rollout."""
    if state.phase in WITHDRAWN:
        return {device: member.previous for device, member in state.members.items()}
    return dict.fromkeys(state.members, state.target)


def changes(before: Rollout | None, after: Rollout) -> dict[str, Member]:
    """Members that are new or other than before: what has to be written."""
    known = before.members if before is not None else {}
    if known is after.members:
        return {}
    return {d: m for d, m in after.members.items() if known.get(d) is not m}


def refusal(state: Rollout, event: Event) -> str:
    """Why an event of a person does nothing now, and what would; "" where it is legal."""
    if (state.phase, type(event)) in TRANSITIONS:
        return ""
    what = type(event).__name__.lower()
    now = f"rollout {state.id} of {state.target} is {state.phase.value}"
    if state.phase in ENDED:
        hint = "; `retry` begins it again" if state.phase in WITHDRAWN else ""
        return f"{now} ({state.verdict}): there is nothing to {what}{hint}"
    hints = {
        Pause: "it touches nobody until resumed",
        Resume: "only a paused rollout is resumed",
        Approve: "it does not wait for an approval",
    }
    return f"{now}: {hints.get(type(event), 'nothing was done')}"


# Looking.


def _look(state: Rollout, plan: Plan, event: Any, now_s: float) -> Outcome:
    """Judge, touch, and pass or wait."""
    seen: Observation = event.seen
    size = wave_size(state.members, plan, state.wave, seen.devices)
    state, fault = _judge(state, plan, seen, size)
    if fault:
        return _halt(state, fault, now_s)
    if plan.waves[state.wave].approval and state.approved <= state.wave:
        name = f"wave {state.wave + 1} of {len(plan.waves)}"
        held = replace(
            state, phase=Phase.AWAITING, held_since_s=now_s, verdict=f"{name} waits for approval"
        )
        return held, [Tell("rollout.awaiting")]
    state, effects = _touch(state, plan, seen, size, now_s)
    if state.wave_since_s is None:
        return replace(state, verdict=_nobody(state, plan, seen, now_s)), effects
    shown = shown_by(state.members, plan.gates, seen.devices)
    missing = [f for f in state.findings if f.gate in plan.gates.required and not f.judged]
    enough = shown.devices >= shown.needed(size, plan.gates)
    waiting = shown.text(size, plan.gates)
    # What was touched in this very look has shown nothing of this order yet.
    if enough and not missing and not effects:
        return _pass(state, plan, waiting, now_s)
    if enough and missing:
        waiting = f"{missing[0].gate}, {missing[0].text}"
    if now_s - state.wave_since_s > plan.gates.wait_s_max:
        limit_s = plan.gates.wait_s_max
        return _halt(state, f"insufficient evidence: {waiting} in {limit_s:.0f} s", now_s)
    closed = "" if plan.open(now_s) else "; outside maintenance, nobody new is given it"
    verdict = f"wave {state.wave + 1} of {len(plan.waves)}, waiting: {waiting}{closed}"
    return replace(state, evident_since_s=None, verdict=verdict), effects


def _judge(state: Rollout, plan: Plan, seen: Observation, size: int) -> tuple[Rollout, str]:
    if seen.withdrawn:
        return state, seen.withdrawn
    cohorts = {d: m.cohort for d, m in state.members.items()}
    findings = judge(cohorts, state.controls, plan.gates, seen.devices, size)
    state = replace(state, findings=tuple(findings))
    return state, next((f"{f.gate}: {f.text}" for f in findings if f.failed), "")


def _touch(state: Rollout, plan: Plan, seen: Observation, size: int, now_s: float) -> Outcome:
    """Give the target to more devices, up to the wave's size and the plan's limits."""
    if not plan.open(now_s):
        return state, []
    chosen = choose(state.id, state.members, state.controls, plan, state.wave, seen.devices, size)
    if state.wave_since_s is None and (chosen.devices or chosen.full):
        state = replace(state, wave_since_s=now_s)
    if not chosen.devices and not chosen.controls:
        return state, []
    fresh = {
        device: Member(state.wave, now_s, seen.devices[device].holds, cohort)
        for device, cohort in chosen.devices.items()
    }
    controls = {**state.controls, **chosen.controls}
    controls = {d: c for d, c in controls.items() if d not in fresh}
    state = replace(state, members={**state.members, **fresh}, controls=controls)
    gives: list[Effect] = [Give(device, state.target, state.lift) for device in fresh]
    return state, gives


def _nobody(state: Rollout, plan: Plan, seen: Observation, now_s: float) -> str:
    name = f"wave {state.wave + 1} of {len(plan.waves)}, waiting"
    if not plan.open(now_s):
        return f"{name}: outside maintenance"
    fit = sum(not e.unfit for e in seen.devices.values())
    return f"{name} for devices: {len(seen.devices)} match, {fit} can run it, none is there"


def _pass(state: Rollout, plan: Plan, figure: str, now_s: float) -> Outcome:
    """Enough was shown: soak, then the next wave or the end."""
    since_s = now_s if state.evident_since_s is None else state.evident_since_s
    name = f"wave {state.wave + 1} of {len(plan.waves)}"
    if now_s - since_s < plan.gates.soak_s:
        return replace(state, evident_since_s=since_s, verdict=f"{name}: soaking"), []
    state = replace(state, passed_s=(*state.passed_s, now_s))
    if state.wave + 1 >= len(plan.waves):
        done = replace(state, phase=Phase.COMPLETED, ended_s=now_s, verdict=f"completed: {figure}")
        return done, [Tell("rollout.completed")]
    after = replace(
        state,
        wave=state.wave + 1,
        wave_since_s=None,
        evident_since_s=None,
        verdict=f"{name} passed: {figure}",
    )
    return after, [Tell("rollout.wave-passed", why=figure)]


def _halt(state: Rollout, fault: str, now_s: float) -> Outcome:
    halted = replace(state, phase=Phase.HALTED, ended_s=now_s, verdict=f"halted: {fault}")
    return halted, [Tell("rollout.halted", why=fault), *_returns(state)]


def _returns(state: Rollout) -> list[Effect]:
    return [Return(device, member.previous) for device, member in state.members.items()]


def _watch(state: Rollout, plan: Plan, event: Any, now_s: float) -> Outcome:
    """Nobody is touched, nothing passes; a gate may still fail."""
    size = wave_size(state.members, plan, state.wave, event.seen.devices)
    state, fault = _judge(state, plan, event.seen, size)
    return _halt(state, fault, now_s) if fault else (state, [])


def _look_queued(state: Rollout, _plan: Plan, event: Any, now_s: float) -> Outcome:
    return _halt(state, event.seen.withdrawn, now_s) if event.seen.withdrawn else (state, [])


def _look_back(state: Rollout, _plan: Plan, event: Any, now_s: float) -> Outcome:
    """After the end: who has been seen without the target again."""
    devices: Mapping[str, Evidence] = event.seen.devices
    back = {
        device: replace(member, back_s=now_s)
        for device, member in state.members.items()
        if member.back_s is None
        and (seen := devices.get(device)) is not None
        and _is_back(seen, state.target, member)
    }
    if not back:
        return state, []
    after = replace(state, members={**state.members, **back})
    if all(m.back_s is not None for m in after.members.values()):
        took_s = now_s - (state.ended_s or now_s)
        why = f"all {len(after.members)} devices are back after {took_s:.1f} s"
        return after, [Tell("rollout.returned", why=why)]
    return after, []


def _is_back(seen: Evidence, target: Target, member: Member) -> bool:
    """Whether it runs what it had before, or anything but the target where it had nothing."""
    if target.key in (seen.at_work, seen.runs):
        return False
    return member.previous is None or seen.runs == member.previous.key


# Requests of people.


def _begin(state: Rollout, _plan: Plan, _event: Any, now_s: float) -> Outcome:
    running = replace(state, phase=Phase.RUNNING, begun_s=now_s, verdict="waiting for devices")
    return running, [Tell("rollout.begun")]


def _pause(state: Rollout, _plan: Plan, event: Any, now_s: float) -> Outcome:
    since_s = now_s if state.held_since_s is None else state.held_since_s
    who = f" by {event.by}" if event.by else ""
    why = f": {event.why}" if event.why else ""
    paused = replace(state, phase=Phase.PAUSED, held_since_s=since_s, verdict=f"paused{who}{why}")
    return paused, [Tell("rollout.paused", event.by, event.why)]


def _go_on(state: Rollout, now_s: float) -> Rollout:
    """RUNNING again; the time it was held does not count."""
    held_s = now_s - state.held_since_s if state.held_since_s is not None else 0.0
    since_s = None if state.wave_since_s is None else state.wave_since_s + held_s
    return replace(
        state, phase=Phase.RUNNING, held_since_s=None, wave_since_s=since_s, verdict="going on"
    )


def _resume(state: Rollout, _plan: Plan, event: Any, now_s: float) -> Outcome:
    return _go_on(state, now_s), [Tell("rollout.resumed", event.by, event.why)]


def _approve(state: Rollout, _plan: Plan, event: Any, now_s: float) -> Outcome:
    approved = replace(_go_on(state, now_s), approved=state.wave + 1)
    return approved, [Tell("rollout.approved", event.by, event.why)]


def _abort(state: Rollout, _plan: Plan, event: Any, now_s: float) -> Outcome:
    who = f" by {event.by}" if event.by else ""
    why = f": {event.why}" if event.why else ""
    aborted = replace(state, phase=Phase.ABORTED, ended_s=now_s, verdict=f"aborted{who}{why}")
    return aborted, [Tell("rollout.aborted", event.by, event.why), *_returns(state)]


Handler = Callable[[Rollout, Plan, Any, float], Outcome]
TRANSITIONS: Final[dict[tuple[Phase, type], Handler]] = {
    (Phase.QUEUED, Begin): _begin,
    (Phase.QUEUED, Look): _look_queued,
    (Phase.QUEUED, Abort): _abort,
    (Phase.RUNNING, Look): _look,
    (Phase.RUNNING, Pause): _pause,
    (Phase.RUNNING, Abort): _abort,
    (Phase.AWAITING, Look): _watch,
    (Phase.AWAITING, Approve): _approve,
    (Phase.AWAITING, Pause): _pause,
    (Phase.AWAITING, Abort): _abort,
    (Phase.PAUSED, Look): _watch,
    (Phase.PAUSED, Resume): _resume,
    (Phase.PAUSED, Abort): _abort,
    (Phase.HALTED, Look): _look_back,
    (Phase.ABORTED, Look): _look_back,
}
