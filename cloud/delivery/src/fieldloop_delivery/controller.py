"""One slot's plan: which rollout runs, and what every device of the policy is assigned. Pure.

The champion of a slot is the newest version whose rollout completed and that was not withdrawn.
Devices that a running rollout has touched get its target; all others get the champion, whether they
are new, were away, or come back from a rollout that halted. A version is rolled out once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fieldloop_contract.messages import ModelRef
from fieldloop_delivery.policy import SlotPolicy
from fieldloop_delivery.rollout import Assign, Evidence, Observation, Phase, Rollout, step


@dataclass(frozen=True, slots=True)
class Version:
    """A registered version and what the registry says of it: approved, rejected, recalled."""

    ref: ModelRef
    state: str


def champion(rollouts: Sequence[Rollout], versions: Sequence[Version]) -> ModelRef | None:
    """The version that a slot's devices run when no rollout says otherwise."""
    approved = {v.ref.digest for v in versions if v.state == "approved"}
    done = [
        r.target for r in rollouts if r.phase is Phase.COMPLETED and r.target.digest in approved
    ]
    return max(done, key=lambda ref: ref.version, default=None)


def running(rollouts: Sequence[Rollout]) -> Rollout | None:
    """The slot's rollout under way; one slot has at most one."""
    return next((r for r in rollouts if r.phase is Phase.RUNNING), None)


def begin(
    policy: SlotPolicy, rollouts: Sequence[Rollout], versions: Sequence[Version], new_id: str
) -> Rollout | None:
    """A rollout of the newest approved version that was never tried and is above the champion."""
    best = champion(rollouts, versions)
    tried = {r.target.digest for r in rollouts}
    candidates = [
        v.ref
        for v in versions
        if v.state == "approved"
        and v.ref.name == policy.model
        and v.ref.digest not in tried
        and (best is None or v.ref.name != best.name or v.ref.version > best.version)
    ]
    if not candidates:
        return None
    newest = max(candidates, key=lambda ref: ref.version)
    return Rollout(id=new_id, slot=policy.slot, target=newest)


def look(
    policy: SlotPolicy,
    active: Rollout | None,
    rollouts: Sequence[Rollout],
    versions: Sequence[Version],
    devices: Mapping[str, Evidence],
    assigned: Mapping[str, ModelRef | None],
    now_s: float,
    fits: Callable[[str, ModelRef], bool] = lambda _device, _ref: True,
) -> tuple[Rollout | None, list[Assign]]:
    """One look at a slot.

    Args:
        fits: whether a device can run a version, by what it says of itself.
        active: the rollout under way, if any; among `rollouts` or just begun.
        assigned: what the slot of each device was assigned so far; absent: never anything.

    Returns:
        The rollout's new state, and the assignments that change.
    """
    if active is not None:
        states = {v.ref.digest: v.state for v in versions}
        state = states.get(active.target.digest, "gone from the registry")
        withdrawn = "" if state == "approved" else f"the version is {state}"
        seen = Observation(devices, assigned, withdrawn)
        active, _ = step(active, policy.waves, policy.gates, seen, now_s)
    current = [active if active is not None and r.id == active.id else r for r in rollouts]
    if active is not None and all(r.id != active.id for r in current):
        current.append(active)
    best = champion(current, versions)
    approved = {v.ref.digest for v in versions if v.state == "approved"}
    touched: set[str] = set()
    if active is not None and active.phase is Phase.RUNNING:
        touched = {t.device for t in active.touched}
    changes: list[Assign] = []
    for device in sorted({*devices, *touched}):
        wanted = active.target if active is not None and device in touched else best
        if wanted is not None and device not in touched and not fits(device, wanted):
            held = assigned.get(device)  # stays with what it has, unless that was withdrawn
            wanted = held if held is not None and held.digest in approved else None
        if wanted != assigned.get(device):
            changes.append(Assign(device, wanted))
    return active, changes
