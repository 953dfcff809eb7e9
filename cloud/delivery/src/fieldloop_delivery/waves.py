"""Which devices a wave touches, and what it has shown. Pure.

Devices are taken in the order of the hash of rollout and device id: nobody chooses, and the same
rollout always chooses the same. A wave takes of each cohort its share (largest remainders), so that
a site or a board of few devices is in the first wave too. Controls are chosen from the same cohorts
among those that are left; they are touched last. Only devices that are there are touched: one that
is away catches up when it is back, under the rules of the wave that runs then.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from fieldloop_delivery.evidence import Evidence
from fieldloop_delivery.gatelimits import Gates
from fieldloop_delivery.policy import Plan


class Placed(Protocol):
    """What is asked of a member here."""

    @property
    def cohort(self) -> str:
        """Its cohort."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Devices to touch and to keep as controls, with their cohorts; whether the wave is full."""

    devices: dict[str, str] = field(default_factory=dict)
    controls: dict[str, str] = field(default_factory=dict)
    full: bool = False


@dataclass(frozen=True, slots=True)
class Shown:
    """What the members have shown: devices with full evidence, and windows towards it."""

    devices: int
    windows: int
    idle: int

    def needed(self, size: int, gates: Gates) -> int:
        """Devices that have to show full evidence."""
        return max(1, math.ceil(gates.quorum * size))

    def text(self, size: int, gates: Gates) -> str:
        """The figures, for a verdict."""
        needed = self.needed(size, gates)
        parts = []
        if gates.windows_min:
            wanted = needed * gates.windows_min
            parts = [f"{min(self.windows, wanted)} of {wanted} running windows"]
        parts += [f"{self.devices} of {needed} devices have shown enough"]
        if self.idle and self.devices < needed:
            parts += [f"{self.idle} windows of stopped machines count for nothing"]
        return ", ".join(parts)


def eligible(
    members: Mapping[str, Placed], plan: Plan, wave: int, devices: Mapping[str, Evidence]
) -> int:
    """Devices that the wave speaks of: touched ones, and those that fit and are not long gone."""
    takes, rule = plan.waves[wave].takes, plan.waves[wave].tags
    return len(members) + sum(
        1
        for d, e in devices.items()
        if not e.unfit and e.away_s <= plan.away_s_max and d not in members
        and (not rule or takes(e.tags))
    )  # fmt: skip


def wave_size(
    members: Mapping[str, Placed], plan: Plan, wave: int, devices: Mapping[str, Evidence]
) -> int:
    """How many devices have the version once the wave is full."""
    return plan.waves[wave].size(eligible(members, plan, wave, devices))


def shown_by(members: Mapping[str, Placed], gates: Gates, devices: Mapping[str, Evidence]) -> Shown:
    """Sum up what the members have shown. Whoever is silent has shown nothing."""
    least, shown, windows, idle = gates.windows_min, 0, 0, 0
    for device in members:
        e = devices.get(device)
        if e is None:
            continue
        counted = e.new.windows
        windows += counted if counted < least else least
        idle += e.idle
        if counted >= least and e.installed and not e.failed:
            shown += 1
    return Shown(shown, windows, idle)


def choose(
    rollout: str,
    members: Mapping[str, Placed],
    controls: Mapping[str, str],
    plan: Plan,
    wave: int,
    devices: Mapping[str, Evidence],
    size: int | None = None,
) -> Chosen:
    """Devices to touch now, and controls to keep. `size` of the wave, where it is known."""
    size = wave_size(members, plan, wave, devices) if size is None else size
    room = size - len(members)
    full = room <= 0 < size
    if plan.in_flight_max is not None and room > 0:
        room = min(room, plan.in_flight_max - in_flight(members, devices))
    last = size >= len(devices)
    wants_controls = not last and plan.controls_per_device > 0
    if room <= 0 and not (wants_controls and wave == 0 and members and not controls):
        return Chosen(full=full)
    takes, rule = plan.waves[wave].takes, plan.waves[wave].tags
    free: dict[str, list[str]] = {}
    for d, e in devices.items():
        if e.online and not e.unfit and d not in members and (not rule or takes(e.tags)):
            free.setdefault(plan.cohort(e.tags), []).append(d)
    taken = _take(rollout, members, controls, room, size, free)
    kept: dict[str, str] = {}
    if wants_controls:
        kept = _controls(rollout, members, controls, plan, taken, devices)
    return Chosen(taken, kept, full)


def in_flight(members: Mapping[str, Placed], devices: Mapping[str, Evidence]) -> int:
    """Members that are there and at work: neither done nor failed."""
    return sum(
        1
        for d in members
        if (e := devices.get(d)) is not None and e.online and not e.installed and not e.failed
    )


def _take(
    rollout: str,
    members: Mapping[str, Placed],
    controls: Mapping[str, str],
    room: int,
    size: int,
    free: dict[str, list[str]],
) -> dict[str, str]:
    if room <= 0:
        return {}
    touched = Counter(m.cohort for m in members.values())
    weights = {c: touched[c] + len(free.get(c, ())) for c in {*touched, *free}}
    quota = shares(weights, size)
    taken: dict[str, str] = {}
    spare: list[tuple[bool, bytes, str, str]] = []
    for cohort in sorted(free):
        due = max(0, quota[cohort] - touched[cohort])
        ordered = [(d in controls, _order(rollout, d), d, cohort) for d in free[cohort]]
        first = heapq.nsmallest(due, ordered) if due < len(ordered) else sorted(ordered)
        spare += first
    for _, _, device, cohort in heapq.nsmallest(room, spare):
        taken[device] = cohort
    if len(taken) < room:  # cohorts with nobody there leave their places to the others
        rest = [
            (d in controls, _order(rollout, d), d, c)
            for c, names in free.items() for d in names if d not in taken
        ]  # fmt: skip
        for _, _, device, cohort in heapq.nsmallest(room - len(taken), rest):
            taken[device] = cohort
    return taken


def shares(weights: Mapping[str, int], size: int) -> dict[str, int]:
    """`size` divided among cohorts by weight, with largest remainders; one each where it can be.

    >>> shares({"north": 90, "south": 9, "east": 1}, 10)
    {'east': 1, 'north': 8, 'south': 1}
    """
    total = sum(weights.values())
    if total == 0:
        return dict.fromkeys(weights, 0)
    size = min(size, total)
    least = 1 if size >= len(weights) else 0
    names = sorted(weights)
    exact = {c: weights[c] * size / total for c in names}
    found = {c: min(weights[c], max(least, int(exact[c]))) for c in names}
    # Hand out, or take back, one at a time by the remainder; at most one round for each cohort.
    while (left := size - sum(found.values())) != 0:
        if left > 0:
            open_ = [c for c in names if found[c] < weights[c]]
            found[max(open_, key=lambda c: (exact[c] - found[c], c))] += 1
        else:
            open_ = [c for c in names if found[c] > least]
            found[min(open_, key=lambda c: (exact[c] - found[c], c))] -= 1
    return found


def _controls(
    rollout: str,
    members: Mapping[str, Placed],
    controls: Mapping[str, str],
    plan: Plan,
    taken: Mapping[str, str],
    devices: Mapping[str, Evidence],
) -> dict[str, str]:
    treated = Counter(m.cohort for m in members.values()) + Counter(taken.values())
    kept = Counter(c for d, c in controls.items() if d not in taken)
    missing = {
        c: n
        for c, many in treated.items()
        if (n := math.ceil(plan.controls_per_device * many) - kept[c]) > 0
    }
    found: dict[str, str] = {}
    pool: dict[str, list[tuple[bytes, str]]] = {c: [] for c in missing}
    if not missing:
        return found
    for d, e in devices.items():
        if e.online and not e.unfit and d not in members and d not in taken and d not in controls:
            cohort = plan.cohort(e.tags)
            if cohort in pool:
                pool[cohort].append((_order(f"control/{rollout}", d), d))
    for cohort, names in pool.items():
        found.update((d, cohort) for _, d in heapq.nsmallest(missing[cohort], names))
    return found


def _order(rollout: str, device: str) -> bytes:
    return hashlib.sha256(f"{rollout}/{device}".encode()).digest()
