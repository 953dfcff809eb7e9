"""A container release on its way: what devices have shown, and which pins follow. Pure.

How the one rollout engine speaks of containers. A lane is the whole application; a device's
assignment is the release that it shall run (its pin, or else the fleet's), as the inventory has it.

    open        touched devices are pinned to the target; all others follow the fleet
    completed   the fleet is pinned to the target, and then its devices follow it again
    taken back  touched devices follow the fleet again; where the fleet was moved meanwhile,
                they are pinned to the release that they ran before

A pin that somebody else made is nobody's to change: such a device is passed over, and one whose pin
was moved during the rollout keeps the new one. Pins are compared with what the inventory says and
only differences are sent, so that a controller that was killed sends nothing twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fieldloop_delivery.evidence import Evidence, Target
from fieldloop_delivery.fleets.backend import FleetDevice, Inventory
from fieldloop_delivery.rollout import OPEN, WITHDRAWN, Member, Phase, Rollout, wanted

LANE = "_containers"
"""Begins as no slot's id can, so that the two are never mixed up."""
KIND = "release"


@dataclass(frozen=True, slots=True)
class Heard:
    """What telemetry last heard of one service on a device.

    Attributes:
        online: by its status or its last will.
        status_s, last_s: when the status came, and when anything came; s since 1970.
    """

    online: bool
    status_s: float
    last_s: float


@dataclass(frozen=True, slots=True)
class Names:
    """The fleet's name, and versions of its releases by commit."""

    fleet: str
    versions: Mapping[str, str]

    def target(self, commit: str) -> Target | None:
        """A release as the engine knows it."""
        if not commit:
            return None
        return Target(KIND, self.fleet, self.versions.get(commit) or commit[:7], commit)


@dataclass(frozen=True, slots=True)
class Pins:
    """What to send, in this order: devices by commit ("" to follow the fleet), and the fleet.

    Attributes:
        settled: nothing is left to send, now or later, for a rollout that has ended.
    """

    devices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fleet: str = ""
    settled: bool = False


def evidence_of(
    device: FleetDevice,
    services: Mapping[str, Heard],
    state: Rollout,
    names: Names,
    now_s: float,
    grace_s: float,
) -> Evidence:
    """What one device has shown.

    It has proved a release when it runs it, balena finds no fault, and every fieldloop service that
    was ever heard of it is there and was heard since the release was given; one that stays away
    for longer than `grace_s` while the device itself is there has failed.
    """
    target, member = state.target.key, state.members.get(device.device)
    running = device.running == target
    unfit = ""
    if member is None and device.pinned:
        unfit = f"pinned to {device.pinned[:7]} by somebody"
    failed = ""
    silent = [n for n, h in services.items() if not h.online and now_s - h.status_s > grace_s]
    if member is not None and running and device.online:
        if device.fault:
            failed = device.fault
        elif silent and _broke(member, silent, services):
            failed = f"{', '.join(sorted(silent))} did not come back"
    since_s = member.at_s if member is not None else 0.0
    heard = all(h.online and h.last_s > since_s for h in services.values())
    return Evidence(
        online=device.online,
        away_s=0.0 if device.online else _away(services, now_s),
        unfit=unfit,
        tags=dict(device.tags),
        holds=names.target(device.target),
        runs=device.running,
        at_work=target if device.target == target and not running else "",
        installed=running and device.online and not device.fault and heard,
        failed=failed,
    )


def _broke(member: Member, silent: list[str], services: Mapping[str, Heard]) -> bool:
    """Whether a service went away after the release was given; before, it is not to blame."""
    return any(services[name].status_s > member.at_s for name in silent)


def _away(services: Mapping[str, Heard], now_s: float) -> float:
    last_s = max((h.last_s for h in services.values()), default=None)
    return 0.0 if last_s is None else max(0.0, now_s - last_s)


def pins(state: Rollout, inventory: Inventory, *, fleet_pinned: bool) -> Pins:
    """What has to be sent so that the inventory becomes what the rollout wants.

    Args:
        fleet_pinned: the fleet was seen on the target after completion; from then on the fleet's
            release is its owner's again.
    """
    target = state.target.key
    ours = [d for d in state.members if _pinned(inventory, d) == target]
    if state.phase in OPEN:
        missing = [
            device
            for device in wanted(state)
            if device in inventory.devices and inventory.devices[device].target != target
            and inventory.devices[device].pinned in ("", target)
        ]  # fmt: skip
        return Pins({target: tuple(missing)} if missing else {})
    if state.phase is Phase.COMPLETED:
        if not fleet_pinned and inventory.release != target:
            return Pins(fleet=target)
        follow = ours if inventory.release == target else []
        return Pins({"": tuple(follow)} if follow else {}, settled=not follow)
    if state.phase in WITHDRAWN:
        back: dict[str, list[str]] = {}
        for device in ours:
            before = state.members[device].previous
            held = before.key if before is not None else ""
            back.setdefault("" if held in ("", inventory.release) else held, []).append(device)
        return Pins({commit: tuple(some) for commit, some in back.items()}, settled=not back)
    return Pins()


def _pinned(inventory: Inventory, device: str) -> str:
    found = inventory.devices.get(device)
    return found.pinned if found is not None else ""


def result_tag(state: Rollout, device: FleetDevice) -> str:
    """What a device's tag says of a rollout that has ended."""
    word = state.phase.value
    if state.phase is Phase.COMPLETED and device.running != state.target.key:
        word = "waiting"
    return f"{state.target.version} {word}"
