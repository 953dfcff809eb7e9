"""The rollout of one version into one slot: a pure state machine in virtual time.

    RUNNING  --every wave passed-->                            COMPLETED
    RUNNING  --a gate failed, or no evidence in time-->        HALTED   (all touched return)

`step(state, observation, now) -> (state, effects)` reads no clock and does no I/O. A wave touches
devices until its size is reached, and passes only on what devices have shown: silence never passes.
Gates are looked at again and again, so accuracy is judged at three standard errors, and windows,
which overlap, count as fewer (`independent_share`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from fieldloop_contract.messages import ModelRef, from_object
from fieldloop_delivery.policy import Gates, Wave

STANDARD_ERRORS = 3.0


class Phase(StrEnum):
    """Where a rollout is."""

    RUNNING = "running"
    COMPLETED = "completed"
    HALTED = "halted"


@dataclass(frozen=True, slots=True)
class Tally:
    """What a device's windows say of one version: counts, and means over them."""

    windows: int = 0
    invalid: int = 0
    latency_us: float = 0.0
    labelled: int = 0
    correct: int = 0


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one device has shown of the version under way."""

    online: bool = False
    installed: bool = False
    failed: str = ""
    unfit: str = ""
    """Why the device cannot run the version, by what it says of itself: it is passed over."""
    new: Tally = Tally()
    old: Tally = Tally()
    shadowed: int = 0
    agreed: int = 0


@dataclass(frozen=True, slots=True)
class Touch:
    """A device that was given the version: in which wave, when, and what it had before."""

    device: str
    wave: int
    at_s: float
    previous: ModelRef | None


@dataclass(frozen=True, slots=True)
class Rollout:
    """The state, all of it; `to_json` and `from_json` carry it through the store."""

    id: str
    slot: str
    target: ModelRef
    phase: Phase = Phase.RUNNING
    wave: int = 0
    wave_since_s: float | None = None
    evident_since_s: float | None = None
    touched: tuple[Touch, ...] = ()
    passed_s: tuple[float, ...] = ()
    verdict: str = "waiting for devices"

    def to_json(self) -> dict[str, Any]:
        """The state as JSON."""
        return {
            "id": self.id,
            "slot": self.slot,
            "target": self.target.model_dump(mode="json"),
            "phase": self.phase.value,
            "wave": self.wave,
            "wave_since_s": self.wave_since_s,
            "evident_since_s": self.evident_since_s,
            "touched": [
                [t.device, t.wave, t.at_s, t.previous and t.previous.model_dump(mode="json")]
                for t in self.touched
            ],
            "passed_s": list(self.passed_s),
            "verdict": self.verdict,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Rollout:
        """The state from JSON."""
        return cls(
            id=document["id"],
            slot=document["slot"],
            target=from_object(ModelRef, document["target"]),
            phase=Phase(document["phase"]),
            wave=document["wave"],
            wave_since_s=document["wave_since_s"],
            evident_since_s=document["evident_since_s"],
            touched=tuple(
                Touch(device, wave, at_s, previous and from_object(ModelRef, previous))
                for device, wave, at_s, previous in document["touched"]
            ),
            passed_s=tuple(document["passed_s"]),
            verdict=document["verdict"],
        )


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known at one moment. `devices` are those the policy names, with their evidence."""

    devices: Mapping[str, Evidence]
    assigned: Mapping[str, ModelRef | None] = field(default_factory=dict)
    withdrawn: str = ""
    """Why the version may not run any more (recalled, rejected); "" while it may."""


@dataclass(frozen=True, slots=True)
class Assign:
    """Order `device` to run `model` (None: nothing) in the slot."""

    device: str
    model: ModelRef | None


def step(
    state: Rollout, waves: Sequence[Wave], gates: Gates, seen: Observation, now_s: float
) -> tuple[Rollout, list[Assign]]:
    """One look. The same look twice changes nothing the second time."""
    if state.phase is not Phase.RUNNING:
        return state, []
    fault = seen.withdrawn or failed_gate(state, gates, seen)
    if fault:
        return _halt(state, fault)
    state, effects = _touch(state, waves, seen, now_s)
    if state.wave_since_s is None:
        return state, effects
    # A device touched in this very look has shown nothing of this order yet.
    fresh = {e.device for e in effects}
    shown = [
        t.device
        for t in state.touched
        if t.device not in fresh and _evident(seen.devices.get(t.device, Evidence()), gates)
    ]
    needed = max(1, math.ceil(gates.quorum * len(state.touched)))
    figure = f"{len(shown)} of {needed} devices have shown enough"
    if len(shown) >= needed:
        return _pass(state, waves, gates, figure, now_s), effects
    if now_s - state.wave_since_s > gates.wait_s_max:
        return _halt(state, f"insufficient evidence: {figure} in {gates.wait_s_max:.0f} s")
    verdict = f"wave {state.wave + 1} of {len(waves)}: {figure}"
    return replace(state, evident_since_s=None, verdict=verdict), effects


def _pass(
    state: Rollout, waves: Sequence[Wave], gates: Gates, figure: str, now_s: float
) -> Rollout:
    """Enough was shown: soak, then the next wave or the end."""
    since_s = now_s if state.evident_since_s is None else state.evident_since_s
    name = f"wave {state.wave + 1} of {len(waves)}"
    if now_s - since_s < gates.soak_s:
        return replace(state, evident_since_s=since_s, verdict=f"{name}: soaking")
    state = replace(state, passed_s=(*state.passed_s, now_s))
    if state.wave + 1 >= len(waves):
        verdict = f"completed: {figure}"
        return replace(state, phase=Phase.COMPLETED, verdict=verdict)
    return replace(
        state,
        wave=state.wave + 1,
        wave_since_s=None,
        evident_since_s=None,
        verdict=f"{name} passed",
    )


def _halt(state: Rollout, fault: str) -> tuple[Rollout, list[Assign]]:
    back = [Assign(t.device, t.previous) for t in state.touched]
    return replace(state, phase=Phase.HALTED, verdict=f"halted: {fault}"), back


def _touch(
    state: Rollout, waves: Sequence[Wave], seen: Observation, now_s: float
) -> tuple[Rollout, list[Assign]]:
    """Give the version to more devices, up to the wave's size; online ones first, then by hash."""
    touched = {t.device for t in state.touched}
    fit = [d for d, e in seen.devices.items() if not e.unfit]
    size = waves[state.wave].size(len(touched.union(fit)))
    candidates = sorted(
        (d for d in fit if d not in touched),
        key=lambda d: (not seen.devices[d].online, _order(state.id, d)),
    )
    # Only the last wave reaches for devices that are away: they could show nothing in an early one.
    if state.wave + 1 < len(waves):
        candidates = [d for d in candidates if seen.devices[d].online]
    chosen = candidates[: max(0, size - len(touched))]
    if state.wave_since_s is None and (chosen or len(touched) >= size > 0):
        state = replace(state, wave_since_s=now_s)
    fresh = tuple(Touch(d, state.wave, now_s, seen.assigned.get(d)) for d in chosen)
    state = replace(state, touched=(*state.touched, *fresh))
    return state, [Assign(t.device, state.target) for t in fresh]


def skipped(state: Rollout, seen: Observation) -> dict[str, str]:
    """Devices that are passed over, with the reason; neither a success nor a failure."""
    touched = {t.device for t in state.touched}
    rows = sorted(seen.devices.items())
    return {d: e.unfit for d, e in rows if e.unfit and d not in touched}


def _order(rollout: str, device: str) -> str:
    return hashlib.sha256(f"{rollout}/{device}".encode()).hexdigest()


def _evident(evidence: Evidence, gates: Gates) -> bool:
    return evidence.installed and not evidence.failed and evidence.new.windows >= gates.windows_min


@dataclass(frozen=True, slots=True)
class Figures:
    """The gates' figures over all touched devices."""

    touched: int
    installed: int
    failed: dict[str, str]
    windows: int
    invalid: int
    latency_us: float
    latency_old_us: float
    shadowed: int
    agreed: int
    labelled: int
    correct: int
    labelled_old: int
    correct_old: int

    def to_json(self) -> dict[str, Any]:
        """The figures, with shares where they can be had."""
        share = {
            "accuracy": self.correct / self.labelled if self.labelled else None,
            "accuracy_old": self.correct_old / self.labelled_old if self.labelled_old else None,
            "agreement": self.agreed / self.shadowed if self.shadowed else None,
        }
        return {
            "touched": self.touched,
            "installed": self.installed,
            "failed": self.failed,
            "windows": self.windows,
            "invalid": self.invalid,
            "latency_us": self.latency_us,
            "latency_old_us": self.latency_old_us,
            "shadowed": self.shadowed,
            "labelled": self.labelled,
            "labelled_old": self.labelled_old,
            **share,
        }


def figures(state: Rollout, seen: Observation) -> Figures:
    """Sum the evidence of all touched devices."""
    rows = {t.device: seen.devices.get(t.device, Evidence()) for t in state.touched}
    paired = [e for e in rows.values() if e.new.windows and e.old.windows]
    return Figures(
        touched=len(rows),
        installed=sum(e.installed for e in rows.values()),
        failed={d: e.failed for d, e in rows.items() if e.failed},
        windows=sum(e.new.windows for e in rows.values()),
        invalid=sum(e.new.invalid for e in rows.values()),
        latency_us=_mean([e.new.latency_us for e in paired]),
        latency_old_us=_mean([e.old.latency_us for e in paired]),
        shadowed=sum(e.shadowed for e in rows.values()),
        agreed=sum(e.agreed for e in rows.values()),
        labelled=sum(e.new.labelled for e in rows.values()),
        correct=sum(e.new.correct for e in rows.values()),
        labelled_old=sum(e.old.labelled for e in rows.values()),
        correct_old=sum(e.old.correct for e in rows.values()),
    )


def failed_gate(state: Rollout, gates: Gates, seen: Observation) -> str:
    """The first gate that fails, with its figures and devices; "" where none does."""
    f = figures(state, seen)
    if f.touched and len(f.failed) > gates.failed_share_max * f.touched:
        named = "; ".join(f"{d}: {reason}" for d, reason in sorted(f.failed.items())[:5])
        return f"{len(f.failed)} of {f.touched} devices refused it or took it back ({named})"
    if f.windows < gates.windows_min:
        return ""
    if f.invalid > gates.invalid_share_max * f.windows:
        return f"{f.invalid} of {f.windows} windows were invalid"
    slow = f.latency_old_us > 0 and f.latency_us > gates.latency_ratio_max * f.latency_old_us
    if slow and f.latency_us > gates.latency_floor_us:
        return f"mean latency {f.latency_us:.0f} us, before {f.latency_old_us:.0f} us"
    if gates.agreement_min is not None and f.shadowed >= gates.windows_min:
        agreement = f.agreed / f.shadowed
        if agreement < gates.agreement_min:
            return f"agreement in shadow {agreement:.3f} over {f.shadowed} windows"
    return _worse(f, gates)


def _worse(f: Figures, gates: Gates) -> str:
    """Whether accuracy fell, beyond what so few independent windows can say by chance.

    Difference of two proportions, Wald interval; with counts of at least `labels_min`.
    """
    if min(f.labelled, f.labelled_old) < gates.labels_min:
        return ""
    new, old = f.correct / f.labelled, f.correct_old / f.labelled_old
    n, n_old = f.labelled * gates.independent_share, f.labelled_old * gates.independent_share
    error = math.sqrt(new * (1 - new) / n + old * (1 - old) / n_old)
    if new - old + STANDARD_ERRORS * error < -gates.accuracy_drop_max:
        return (
            f"accuracy {new:.3f} over {f.labelled} windows, before {old:.3f} over {f.labelled_old}"
        )
    return ""


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
