"""The values of a rollout: where it stands, what happens to it, and what has to be done.

`rollout` is the state machine on them, and gives all of these names on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from fieldloop_delivery.evidence import Evidence, Target
from fieldloop_delivery.judging import Finding


class Phase(StrEnum):
    """Where a rollout is."""

    QUEUED = "queued"
    RUNNING = "running"
    AWAITING = "awaiting"
    PAUSED = "paused"
    COMPLETED = "completed"
    HALTED = "halted"
    ABORTED = "aborted"


OPEN: Final = (Phase.RUNNING, Phase.AWAITING, Phase.PAUSED)
ENDED: Final = (Phase.COMPLETED, Phase.HALTED, Phase.ABORTED)
WITHDRAWN: Final = (Phase.HALTED, Phase.ABORTED)


@dataclass(frozen=True, slots=True)
class Member:
    """A device that was touched.

    Attributes:
        wave: the wave that touched it, from 0.
        at_s: when.
        previous: what it had before, and goes back to; None for nothing.
        cohort: of its tags, by the plan.
        back_s: when it was seen without the target again, after the rollout was taken back.
    """

    wave: int
    at_s: float
    previous: Target | None
    cohort: str = ""
    back_s: float | None = None


@dataclass(frozen=True, slots=True)
class Rollout:
    """The state, all of it.

    Attributes:
        lane: the slot or application; one open rollout each.
        wave: the wave under way, from 0.
        wave_since_s: when its first device was touched; moved on by time spent in pause.
        evident_since_s: since when enough has been shown; the soak runs from here.
        held_since_s: since when it has been PAUSED or AWAITING.
        approved: waves that somebody approved, counted from the first.
        begun_s: when the lane was its own.
        ended_s: when it was completed, halted or aborted.
        lift: whether orders lift the target from a device's blacklist (a retry).
        retry_of: the rollout that this one tries again.
        members: device to what was done to it.
        controls: devices that stay as they are, and their cohort.
        verdict: one line for people: what it waits for, or which gate ended it and on what.
        findings: the gates' last findings; not stored with the state, made anew in each look.
    """

    id: str
    lane: str
    target: Target
    phase: Phase = Phase.QUEUED
    wave: int = 0
    wave_since_s: float | None = None
    evident_since_s: float | None = None
    held_since_s: float | None = None
    approved: int = 0
    begun_s: float | None = None
    ended_s: float | None = None
    passed_s: tuple[float, ...] = ()
    lift: bool = False
    retry_of: str = ""
    verdict: str = "queued"
    members: Mapping[str, Member] = field(default_factory=dict)
    controls: Mapping[str, str] = field(default_factory=dict)
    findings: tuple[Finding, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known at one moment: the lane's devices, with what each has shown."""

    devices: Mapping[str, Evidence]
    withdrawn: str = ""
    """Why the target may not run any more (recalled, deleted); "" while it may."""


@dataclass(frozen=True, slots=True)
class Begin:
    """The lane is free."""


@dataclass(frozen=True, slots=True)
class Look:
    """A look at the devices."""

    seen: Observation


@dataclass(frozen=True, slots=True)
class Pause:
    """Touch nobody new until told to go on."""

    by: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Resume:
    """Go on after a pause."""

    by: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Abort:
    """Take it back from everybody."""

    by: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Approve:
    """Let the next wave begin."""

    by: str = ""
    why: str = ""


Event = Begin | Look | Pause | Resume | Abort | Approve
EVENTS: Final = (Begin, Look, Pause, Resume, Abort, Approve)


@dataclass(frozen=True, slots=True)
class Give:
    """Tell `device` to run the target."""

    device: str
    target: Target
    lift: bool = False


@dataclass(frozen=True, slots=True)
class Return:
    """Tell `device` to run what it had before (None: nothing)."""

    device: str
    previous: Target | None


@dataclass(frozen=True, slots=True)
class Tell:
    """For the audit trail and for notifications: `rollout.paused`, `rollout.halted`, ..."""

    type: str
    by: str = ""
    why: str = ""


Effect = Give | Return | Tell
Outcome = tuple[Rollout, list[Effect]]
