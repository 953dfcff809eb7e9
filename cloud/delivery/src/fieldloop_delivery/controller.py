"""One slot's plan: which rollout runs, and what every device of the policy is assigned. Pure.

The champion of a slot is the version whose rollout completed last and that was not withdrawn.
Devices that an open rollout has touched get its target; those of one that was taken back since get
what they had before it; all others get the champion: new devices at once, devices that hold another
version when they are there, under the plan's maintenance windows and limit of devices at work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fieldloop_contract.messages import ModelRef
from fieldloop_delivery.evidence import Evidence, model_ref, model_target
from fieldloop_delivery.policy import SlotPolicy
from fieldloop_delivery.rollout import OPEN, WITHDRAWN, Phase, Rollout, wanted


@dataclass(frozen=True, slots=True)
class Version:
    """A registered version and what the registry says of it: approved, rejected, recalled."""

    ref: ModelRef
    state: str


@dataclass(frozen=True, slots=True)
class Assign:
    """Order `device` to run `model` (None: nothing) in the slot."""

    device: str
    model: ModelRef | None


def approved(versions: Sequence[Version]) -> dict[str, ModelRef]:
    """Versions that may run, by digest."""
    return {v.ref.digest: v.ref for v in versions if v.state == "approved"}


def crowned(rollouts: Sequence[Rollout], versions: Sequence[Version]) -> Rollout | None:
    """The rollout that made the champion."""
    may = approved(versions)
    done = [r for r in rollouts if r.phase is Phase.COMPLETED and r.target.key in may]
    return max(done, key=lambda r: (r.ended_s or 0.0, int(r.target.version)), default=None)


def champion(rollouts: Sequence[Rollout], versions: Sequence[Version]) -> ModelRef | None:
    """The version that a slot's devices run when no rollout says otherwise."""
    made = crowned(rollouts, versions)
    return approved(versions)[made.target.key] if made is not None else None


def opened(rollouts: Sequence[Rollout]) -> Rollout | None:
    """The slot's rollout under way; one slot has at most one."""
    return next((r for r in rollouts if r.phase in OPEN), None)


def queued(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """Those that wait for their turn, newest first as `rollouts` are."""
    return [r for r in rollouts if r.phase is Phase.QUEUED]


def taken_back(rollouts: Sequence[Rollout], versions: Sequence[Version]) -> Rollout | None:
    """The last rollout that was halted or aborted since the champion was made."""
    made = crowned(rollouts, versions)
    since_s = (made.ended_s or 0.0) if made is not None else float("-inf")
    gone = [r for r in rollouts if r.phase in WITHDRAWN and (r.ended_s or 0.0) >= since_s]
    return max(gone, key=lambda r: r.ended_s or 0.0, default=None)


def propose(
    policy: SlotPolicy, rollouts: Sequence[Rollout], versions: Sequence[Version], new_id: str
) -> Rollout | None:
    """A rollout of the newest approved version that was never tried and is above the champion."""
    if policy.start != "automatic":
        return None
    best = champion(rollouts, versions)
    tried = {r.target.key for r in rollouts}
    candidates = [
        ref
        for digest, ref in approved(versions).items()
        if ref.name == policy.model
        and digest not in tried
        and (best is None or ref.name != best.name or ref.version > best.version)
    ]
    if not candidates:
        return None
    newest = max(candidates, key=lambda ref: ref.version)
    return Rollout(id=new_id, lane=policy.slot, target=model_target(newest))


def assign(
    policy: SlotPolicy,
    rollouts: Sequence[Rollout],
    versions: Sequence[Version],
    devices: Mapping[str, Evidence],
    assigned: Mapping[str, ModelRef | None],
    now_s: float,
    fits: Callable[[str, ModelRef], bool] = lambda _device, _ref: True,
) -> list[Assign]:
    """The assignments that change.

    Args:
        rollouts: of the slot; the open one and the last one taken back with their members.
        assigned: what the slot of each device was assigned so far; absent: never anything.
        fits: whether a device can run a version, by what it says of itself.
    """
    may, best = approved(versions), champion(rollouts, versions)
    active, gone = opened(rollouts), taken_back(rollouts, versions)
    now = wanted(active) if active is not None else {}
    before = wanted(gone) if gone is not None else {}
    room = _room(policy, best, devices, assigned)
    wide = policy.open(now_s)
    found: list[Assign] = []
    there = {*devices, *(d for d in (*now, *before) if d in assigned)}
    for device in sorted(there):
        held = assigned.get(device)
        if device in now:
            target = now[device]
            if target is not None and model_ref(target) != held:
                found.append(Assign(device, model_ref(target)))
            continue
        back = before.get(device)
        if back is not None and back.key in may:
            ref: ModelRef | None = may[back.key]
        elif best is not None and fits(device, best):
            # A device without a version gets it at once; one that holds another catches up in turn.
            ref = best
            catching = held is not None and held.digest in may and held != best
            if catching and device not in before:
                seen = devices.get(device)
                if not wide or room <= 0 or seen is None or not seen.online:
                    continue
                room -= 1
        else:  # stays with what it has, unless that was withdrawn
            stays = held is not None and held.digest in may and device not in before
            ref = held if stays and best is not None else None
        if ref != held:
            found.append(Assign(device, ref))
    return found


def _room(
    policy: SlotPolicy,
    best: ModelRef | None,
    devices: Mapping[str, Evidence],
    assigned: Mapping[str, ModelRef | None],
) -> int:
    """How many more devices may catch up at once."""
    if policy.in_flight_max is None or best is None:
        return len(devices)
    at_work = sum(
        1
        for d, e in devices.items()
        if e.online and assigned.get(d) == best and e.runs not in ("", best.digest) and not e.failed
    )
    return policy.in_flight_max - at_work
