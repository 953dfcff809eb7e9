"""A rollout in figures, for people and the console: what its document in the store holds. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fieldloop_delivery.evidence import Evidence
from fieldloop_delivery.policy import Plan
from fieldloop_delivery.records import to_json
from fieldloop_delivery.rollout import WITHDRAWN, Rollout
from fieldloop_delivery.waves import wave_size

NAMED_MAX = 200


def document(state: Rollout, plan: Plan, devices: Mapping[str, Evidence]) -> dict[str, Any]:
    """The whole document of a rollout: state, verdict, waves, figures, gates and findings."""
    passed_over = {
        d: e.unfit for d, e in sorted(devices.items()) if e.unfit and d not in state.members
    }
    return {
        "rollout": to_json(state),
        "verdict": state.verdict,
        "waves": waves(state, plan, devices),
        "figures": figures(state, devices),
        "gates": plan.gates.model_dump(mode="json"),
        "findings": [f.to_json() for f in state.findings],
        "controls": len(state.controls),
        "back": sum(m.back_s is not None for m in state.members.values())
        if state.phase in WITHDRAWN
        else None,
        "skipped": dict(list(passed_over.items())[:NAMED_MAX]),
    }


def waves(state: Rollout, plan: Plan, devices: Mapping[str, Evidence]) -> list[dict[str, Any]]:
    """Each wave: its size, its first devices by name, and what they have shown."""
    by_wave: list[list[str]] = [[] for _ in plan.waves]
    for device, member in state.members.items():
        if member.wave < len(by_wave):
            by_wave[member.wave].append(device)
    rows: list[dict[str, Any]] = []
    for number, touched in enumerate(by_wave):
        shown = [e for d in touched if (e := devices.get(d)) is not None]
        passed = number < len(state.passed_s)
        rows.append(
            {
                "size": wave_size(state.members, plan, number, devices),
                "devices": touched[:NAMED_MAX],
                "count": len(touched),
                "installed": sum(e.installed for e in shown),
                "windows": sum(e.new.windows for e in shown),
                "passed": passed,
                "passed_s": state.passed_s[number] if passed else None,
            }
        )
    return rows


def figures(state: Rollout, devices: Mapping[str, Evidence]) -> dict[str, Any]:
    """The evidence of all touched devices, summed up; shares where they can be had."""
    rows = [(d, e) for d in state.members if (e := devices.get(d)) is not None]
    failed = {d: e.failed for d, e in rows if e.failed}
    some = [e for _, e in rows]
    paired = [e for e in some if e.new.windows and e.old.windows]
    labelled, labelled_old = sum(e.new.labelled for e in some), sum(e.old.labelled for e in some)
    shadowed = sum(e.beside.windows for e in some)
    return {
        "touched": len(state.members),
        "installed": sum(e.installed for e in some),
        "failed": dict(sorted(failed.items())[:NAMED_MAX]),
        "windows": sum(e.new.windows for e in some),
        "idle": sum(e.idle for e in some),
        "invalid": sum(e.new.invalid for e in some),
        "latency_us": _mean([e.new.latency_us for e in paired]),
        "latency_old_us": _mean([e.old.latency_us for e in paired]),
        "shadowed": shadowed,
        "agreement": _share(sum(e.beside.agreed for e in some), shadowed),
        "alarms": sum(e.new.alarms for e in some),
        "alarms_old": sum(e.old.alarms for e in some),
        "labelled": labelled,
        "labelled_old": labelled_old,
        "accuracy": _share(sum(e.new.correct for e in some), labelled),
        "accuracy_old": _share(sum(e.old.correct for e in some), labelled_old),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
