"""The model slot: a pure state machine. It decides; the service's owner loop carries out.

The theory. A slot serves windows with its *active* model and keeps the one before it, *previous*,
on disk. A signed order names what it shall run; if that is another model, it becomes the
*candidate* and walks

    EMPTY -> FETCHING -> VERIFIED -> TRIAL -> SHADOW -> PROBATION -> ACTIVE

while the active model goes on serving. FETCHING: its bundle is being downloaded. VERIFIED: it is
on disk, under its signed digest. TRIAL: a child process loads it and checks its golden vectors.
SHADOW: it scores the same windows beside the active model; skipped where there is none, or where
its windows are others. PROBATION: it serves; the swap is the only moment at which `active` changes.
After enough good windows it is ACTIVE, and the slot rests. REJECTED(reason): the candidate failed
before it ever served. ROLLED_BACK(reason): it failed while it served, and previous serves again;
where there is no previous model the slot is left with none. A model that failed by its own fault is
blacklisted by its digest; only a signed order lifts that.

The state is stored in the same transaction as the results of the windows it served, and always
before the effects are carried out. So a kill at any moment is answered by `Restarted`, which begins
the interrupted stage again. `starts` counts how often a candidate was begun within this process or
its trial, without a clean stop in between: a model that takes the process down is given up at the
third time. A process that ended with its machine is most likely a power cut and counts for nothing,
but only so many times: a model may take the machine down too.

Every pair of phase and event has a row in `TRANSITIONS` or is illegal; an illegal event leaves the
state unchanged and has no effects. Any thread may call `step`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from fieldloop_contract.messages import ModelRef
from fieldloop_inference.slotevents import (
    EVENTS,
    Cancel,
    Effect,
    Event,
    Fault,
    Fetch,
    Fetched,
    FetchRefused,
    Order,
    Report,
    Restarted,
    Serve,
    ServedWell,
    Shadow,
    ShadowScored,
    Stopped,
    TrialBegun,
    TrialPassed,
    Try,
    Unfit,
    Unloadable,
)

STARTS_MAX: Final = 3
REBOOTS_MAX: Final = 10
"""Boots of the machine in one stage that are not held against the candidate."""
BLACKLIST_MAX: Final = 100
REASON_CHARACTERS_MAX: Final = 300


class Phase(StrEnum):
    """Where the slot stands."""

    EMPTY = "EMPTY"
    FETCHING = "FETCHING"
    VERIFIED = "VERIFIED"
    TRIAL = "TRIAL"
    SHADOW = "SHADOW"
    PROBATION = "PROBATION"
    ACTIVE = "ACTIVE"
    REJECTED = "REJECTED"
    ROLLED_BACK = "ROLLED_BACK"


RESTING: Final = (Phase.EMPTY, Phase.ACTIVE, Phase.REJECTED, Phase.ROLLED_BACK)
WALKING: Final = (Phase.FETCHING, Phase.VERIFIED, Phase.TRIAL, Phase.SHADOW)


@dataclass(frozen=True, slots=True)
class Slot:
    """The state of one slot.

    Attributes:
        phase: where it stands.
        active: the model that serves, or None.
        previous: the model that served before; kept on disk.
        candidate: the model that walks; in PROBATION it is `active` that is on probation.
        reason: why it is REJECTED or ROLLED_BACK.
        starts: unproven beginnings of the candidate's present stage.
        reboots: those of them that were taken back since the machine had begun anew.
        scored: windows seen in SHADOW, or good ones in PROBATION.
        agreed: of the windows in SHADOW, those on which both models agreed.
        needed: windows that SHADOW or PROBATION asks for.
        probation_windows: what PROBATION will ask for, known since the trial.
        failed: the model that `reason` speaks of.
        since_ns: when the phase was entered.
        blacklist: digest to reason, oldest first.
    """

    phase: Phase = Phase.EMPTY
    active: ModelRef | None = None
    previous: ModelRef | None = None
    candidate: ModelRef | None = None
    reason: str = ""
    starts: int = 0
    reboots: int = 0
    scored: int = 0
    agreed: int = 0
    needed: int = 0
    probation_windows: int = 0
    failed: ModelRef | None = None
    since_ns: int = 0
    blacklist: dict[str, str] = field(default_factory=dict)

    def digests(self) -> set[str]:
        """Models whose bundles have to stay on disk."""
        return {r.digest for r in (self.active, self.previous, self.candidate) if r is not None}


Outcome = tuple[Slot, list[Effect]]


def step(slot: Slot, event: Event, now_ns: int) -> Outcome:
    """The next state, and what has to be done, in this order, once it is stored."""
    handler = TRANSITIONS.get((slot.phase, type(event)))
    if handler is None:
        return slot, []
    after, effects = handler(slot, event)
    if after.phase is not slot.phase or after.candidate != slot.candidate:
        after = replace(after, since_ns=now_ns)
    return after, effects


def _rest(slot: Slot, phase: Phase, reason: str = "", failed: ModelRef | None = None) -> Slot:
    """The slot without a candidate."""
    return replace(
        slot,
        phase=phase,
        candidate=None,
        reason=reason[:REASON_CHARACTERS_MAX],
        failed=failed,
        starts=0,
        reboots=0,
        scored=0,
        agreed=0,
        needed=0,
        probation_windows=0,
    )


def _blame(slot: Slot, ref: ModelRef, reason: str) -> Slot:
    """The slot with a digest blacklisted; the oldest entry goes at the bound."""
    entries = {**slot.blacklist, ref.digest: reason[:REASON_CHARACTERS_MAX]}
    while len(entries) > BLACKLIST_MAX:
        entries.pop(next(iter(entries)))
    return replace(slot, blacklist=entries)


# Orders.


def _order(slot: Slot, event: Order) -> Outcome:
    """An order: lift, then recall, then what to run."""
    lifted = {d: r for d, r in slot.blacklist.items() if d not in event.lift}
    slot = replace(slot, blacklist=lifted)
    slot, effects = _recall(slot, event.recalled)
    if event.model is None:
        return _empty(slot, effects)
    if event.model == slot.active:
        if slot.phase in WALKING and slot.candidate is not None:
            effects += [Cancel(slot.candidate)]
            slot = _rest(slot, Phase.ACTIVE)
        elif slot.phase is not Phase.PROBATION:
            slot = _rest(slot, Phase.ACTIVE)
        return slot, effects
    if event.model == slot.candidate:
        return slot, effects
    return _walk(slot, event, event.model, effects)


def _walk(slot: Slot, event: Order, model: ModelRef, effects: list[Effect]) -> Outcome:
    """Another model than the active one is ordered."""
    if slot.candidate is not None:
        effects += [Cancel(slot.candidate)]
    why = "recalled" if model.digest in event.recalled else slot.blacklist.get(model.digest)
    if slot.phase is Phase.PROBATION:
        if slot.previous is not None and why is None:
            # The proven model serves while the new one walks, so that one phase says it all.
            left = slot.active
            back = replace(slot, active=slot.previous, previous=None)
            effects += [Serve(back.active), Report("model.superseded", left)]
            slot = _rest(back, Phase.ROLLED_BACK, "superseded while on probation", left)
            if model == slot.active:
                # The cloud took it back: what it orders already serves.
                return replace(slot, previous=left), effects
        elif why is not None:
            return slot, effects
    elif model == slot.previous and why is None and slot.active is not None:
        # Proven here before, so it serves at once.
        back = replace(slot, active=model, previous=slot.active)
        effects += [Serve(model), Report("model.rolled-back", slot.active, "ordered")]
        return _rest(back, Phase.ROLLED_BACK, "ordered", slot.active), effects
    if why is not None:
        if slot.failed == model:
            return slot, effects  # already said, and an order may come any number of times
        slot = _rest(slot, Phase.REJECTED, _refusal(why), model)
        return slot, [*effects, Report("model.rejected", model, slot.reason)]
    slot = replace(_rest(slot, Phase.FETCHING), candidate=model)
    return slot, [*effects, Report("model.fetching", model), Fetch(model)]


def _refusal(why: str) -> str:
    return why if why == "recalled" else f"blacklisted: {why}"[:REASON_CHARACTERS_MAX]


def _recall(slot: Slot, recalled: tuple[str, ...]) -> Outcome:
    """Drop recalled models: from the walk, from disk, and from serving."""
    effects: list[Effect] = []
    if slot.previous is not None and slot.previous.digest in recalled:
        slot = replace(slot, previous=None)
    if slot.candidate is not None and slot.candidate.digest in recalled:
        effects += [
            Cancel(slot.candidate),
            Report("model.rejected", slot.candidate, "recalled"),
        ]
        slot = _rest(slot, Phase.REJECTED, "recalled", slot.candidate)
    if slot.active is not None and slot.active.digest in recalled:
        effects += [Report("model.rolled-back", slot.active, "recalled"), Serve(slot.previous)]
        slot, more = _fall_back(slot, "recalled")
        effects += more
    return slot, effects


def _fall_back(slot: Slot, reason: str) -> Outcome:
    """The active model is gone: previous serves. The walk goes on; a shadow needs an active one."""
    gone = replace(slot, active=slot.previous, previous=None)
    if slot.phase not in WALKING:
        return _rest(gone, Phase.ROLLED_BACK, reason, slot.active), []
    if slot.phase is Phase.SHADOW and gone.active is None and slot.candidate is not None:
        again = replace(gone, phase=Phase.VERIFIED, starts=0, reboots=0, scored=0, agreed=0)
        return again, [Cancel(slot.candidate), Try(slot.candidate)]
    return gone, []


def _empty(slot: Slot, effects: list[Effect]) -> Outcome:
    if slot.candidate is not None:
        effects += [Cancel(slot.candidate)]
    if slot.active is not None:
        effects += [Serve(None), Report("model.stopped", slot.active, "ordered")]
        slot = replace(slot, active=None, previous=slot.active)
    return _rest(slot, Phase.EMPTY), effects


# The walk.


def _fetched(slot: Slot, event: Fetched) -> Outcome:
    if event.ref != slot.candidate:
        return slot, []
    after = replace(slot, phase=Phase.VERIFIED)
    return after, [Report("model.verified", event.ref), Try(event.ref)]


def _fetch_refused(slot: Slot, event: FetchRefused) -> Outcome:
    if event.ref != slot.candidate:
        return slot, []
    rejected = Report("model.rejected", event.ref, event.reason)
    return _rest(slot, Phase.REJECTED, event.reason, event.ref), [rejected]


def _trial_begun(slot: Slot, _event: TrialBegun) -> Outcome:
    if slot.starts >= STARTS_MAX:
        return _rejected(slot, Fault(f"its trial did not end {STARTS_MAX} times"))
    return replace(slot, phase=Phase.TRIAL, starts=slot.starts + 1), []


def _trial_passed(slot: Slot, event: TrialPassed) -> Outcome:
    slot = replace(
        slot, starts=1, reboots=0, scored=0, agreed=0, probation_windows=event.probation_windows
    )
    if slot.active is None or event.shadow_windows == 0:
        return _probation(slot)
    ref = slot.candidate
    assert ref is not None
    after = replace(slot, phase=Phase.SHADOW, needed=event.shadow_windows)
    return after, [Report("model.shadow", ref), Shadow(ref)]


def _probation(slot: Slot) -> Outcome:
    """The swap: the candidate serves from the next window on."""
    after = replace(
        slot,
        phase=Phase.PROBATION,
        active=slot.candidate,
        previous=slot.active or slot.previous,
        candidate=None,
        starts=1,
        reboots=0,
        scored=0,
        needed=slot.probation_windows,
    )
    return after, [Serve(after.active), Report("model.probation", after.active)]


def _shadow_scored(slot: Slot, event: ShadowScored) -> Outcome:
    after = replace(slot, scored=slot.scored + 1, agreed=slot.agreed + event.agreed)
    return (after, []) if after.scored < after.needed else _probation(after)


def _rejected(slot: Slot, event: Fault | Unfit) -> Outcome:
    ref = slot.candidate
    assert ref is not None
    if isinstance(event, Fault):
        slot = _blame(slot, ref, event.reason)
    rejected = Report("model.rejected", ref, event.reason)
    return _rest(slot, Phase.REJECTED, event.reason, ref), [Cancel(ref), rejected]


def _served_well(slot: Slot, event: ServedWell) -> Outcome:
    scored = slot.scored + event.windows
    if scored < slot.needed:
        return replace(slot, scored=scored), []
    return _rest(slot, Phase.ACTIVE), [Report("model.activated", slot.active)]


def _rolled_back(slot: Slot, event: Fault | Unfit) -> Outcome:
    ref = slot.active
    assert ref is not None
    if isinstance(event, Fault):
        slot = _blame(slot, ref, event.reason)
    back = replace(slot, active=slot.previous, previous=None)
    effects: list[Effect] = [Serve(back.active), Report("model.rolled-back", ref, event.reason)]
    return _rest(back, Phase.ROLLED_BACK, event.reason, ref), effects


# The end and the beginning of a process.


def _unloadable(slot: Slot, event: Unloadable) -> Outcome:
    """The files of the serving model are damaged: what serves is previous, if it can."""
    if slot.active is None:
        return slot, []
    after, more = _fall_back(slot, event.reason)
    return after, [
        Report("model.unloadable", slot.active, event.reason),
        Serve(after.active),
        *more,
    ]


def _restarted(slot: Slot, _event: Restarted) -> Outcome:
    """Resting: serve what served. The walk continues where it was."""
    return slot, [Serve(slot.active)]


def _restarted_fetching(slot: Slot, _event: Restarted) -> Outcome:
    assert slot.candidate is not None
    return slot, [Serve(slot.active), Fetch(slot.candidate)]


def _begun_again(slot: Slot, event: Restarted) -> Slot:
    """With the start that ended with the machine taken back."""
    if not event.rebooted or slot.reboots >= REBOOTS_MAX:
        return slot
    return replace(slot, starts=max(0, slot.starts - 1), reboots=slot.reboots + 1)


def _restarted_trial(slot: Slot, event: Restarted) -> Outcome:
    slot = _begun_again(slot, event)
    assert slot.candidate is not None
    after = replace(slot, phase=Phase.VERIFIED)
    return after, [Serve(slot.active), Try(slot.candidate)]


def _restarted_shadow(slot: Slot, event: Restarted) -> Outcome:
    slot = _begun_again(slot, event)
    if slot.starts >= STARTS_MAX:
        after, effects = _rejected(slot, Fault(f"the process ended {STARTS_MAX} times in SHADOW"))
        return after, [Serve(slot.active), *effects]
    assert slot.candidate is not None
    after = replace(slot, starts=slot.starts + 1, scored=0, agreed=0)
    return after, [Serve(slot.active), Shadow(slot.candidate)]


def _restarted_probation(slot: Slot, event: Restarted) -> Outcome:
    slot = _begun_again(slot, event)
    if slot.starts >= STARTS_MAX:
        reason = f"the process ended {STARTS_MAX} times in PROBATION"
        return _rolled_back(slot, Fault(reason))
    return replace(slot, starts=slot.starts + 1), [Serve(slot.active)]


def _stopped(slot: Slot, _event: Stopped) -> Outcome:
    return replace(slot, starts=max(0, slot.starts - 1)), []


_Handler = Callable[[Slot, Any], Outcome]


def _table() -> dict[tuple[Phase, type[Any]], _Handler]:
    table: dict[tuple[Phase, type[Any]], _Handler] = {}
    for phase in Phase:
        table[phase, Order] = _order
        table[phase, Unloadable] = _unloadable
    for phase in RESTING:
        table[phase, Restarted] = _restarted
    for phase in (Phase.TRIAL, Phase.SHADOW, Phase.PROBATION):
        table[phase, Stopped] = _stopped
    table[Phase.FETCHING, Fetched] = _fetched
    table[Phase.FETCHING, FetchRefused] = _fetch_refused
    table[Phase.FETCHING, Restarted] = _restarted_fetching
    table[Phase.VERIFIED, TrialBegun] = _trial_begun
    table[Phase.TRIAL, TrialPassed] = _trial_passed
    for phase in (Phase.VERIFIED, Phase.TRIAL, Phase.SHADOW):
        table[phase, Fault] = table[phase, Unfit] = _rejected
    for phase in (Phase.VERIFIED, Phase.TRIAL):
        table[phase, Restarted] = _restarted_trial
    table[Phase.SHADOW, ShadowScored] = _shadow_scored
    table[Phase.SHADOW, Restarted] = _restarted_shadow
    table[Phase.PROBATION, ServedWell] = _served_well
    table[Phase.PROBATION, Fault] = table[Phase.PROBATION, Unfit] = _rolled_back
    table[Phase.PROBATION, Restarted] = _restarted_probation
    return table


TRANSITIONS: Final = _table()
"""What is legal. Everything else leaves the slot as it is."""

__all__ = [
    "BLACKLIST_MAX",
    "EVENTS",
    "RESTING",
    "STARTS_MAX",
    "TRANSITIONS",
    "WALKING",
    "Cancel",
    "Effect",
    "Event",
    "Fault",
    "Fetch",
    "FetchRefused",
    "Fetched",
    "Order",
    "Outcome",
    "Phase",
    "Report",
    "Restarted",
    "Serve",
    "ServedWell",
    "Shadow",
    "ShadowScored",
    "Slot",
    "Stopped",
    "TrialBegun",
    "TrialPassed",
    "Try",
    "Unfit",
    "Unloadable",
    "step",
]
