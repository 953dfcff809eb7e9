"""Rollouts as rows: how the state machine's state is stored, and read back. Pure.

The state without its members is JSON in `rollouts.document["rollout"]`; members and controls are
rows of `rollout_devices`, of which only those that changed are written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fieldloop_contract.messages import ModelRef, from_object
from fieldloop_delivery.evidence import Target, model_target
from fieldloop_delivery.rollout import Member, Phase, Rollout, changes
from fieldloop_store.rollouts import MemberRow

_PLAIN = (
    "id", "lane", "wave", "wave_since_s", "evident_since_s", "held_since_s", "approved", "begun_s",
    "ended_s",
    "lift", "retry_of", "verdict",
)  # fmt: skip
CONTROL_WAVE = -1


def to_json(state: Rollout) -> dict[str, Any]:
    """The state without members and findings."""
    return {
        **{name: getattr(state, name) for name in _PLAIN},
        "target": state.target.to_json(),
        "phase": state.phase.value,
        "passed_s": list(state.passed_s),
    }


def from_json(document: Mapping[str, Any], members: Iterable[MemberRow] = ()) -> Rollout:
    """The state of a stored document and of its rows; also of the first release's documents."""
    rows = list(members)
    target = document["target"]
    touched: dict[str, Member] = {}
    for device, wave, at_s, previous in document.get("touched", ()):
        before = model_target(from_object(ModelRef, previous)) if previous else None
        touched[device] = Member(wave, at_s, before)
    for row in rows:
        if row.role == "treated":
            back = Target.from_json(row.previous) if row.previous else None
            touched[row.device] = Member(row.wave, row.at_s, back, row.cohort, row.back_s)
    plain = {name: document[name] for name in _PLAIN if name in document}
    plain.setdefault("lane", document.get("slot", ""))
    return Rollout(
        **plain,
        target=Target.from_json(target)
        if "kind" in target
        else model_target(from_object(ModelRef, target)),
        phase=Phase(document["phase"]),
        passed_s=tuple(document["passed_s"]),
        members=touched,
        controls={r.device: r.cohort for r in rows if r.role == "control"},
    )


def member_rows(before: Rollout | None, after: Rollout) -> list[MemberRow]:
    """Rows to write: members that changed, and controls that are new."""
    rows = [
        MemberRow(
            after.id,
            device,
            "treated",
            m.wave,
            m.cohort,
            m.at_s,
            m.previous.to_json() if m.previous is not None else None,
            m.back_s,
        )
        for device, m in changes(before, after).items()
    ]
    known = before.controls if before is not None else {}
    if known is not after.controls:
        since_s = after.wave_since_s or 0.0
        rows += [
            MemberRow(after.id, device, "control", CONTROL_WAVE, cohort, since_s)
            for device, cohort in after.controls.items()
            if device not in known
        ]
    return rows
