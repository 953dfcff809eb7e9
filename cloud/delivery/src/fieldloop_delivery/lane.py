"""One look at one model slot: store in, changes out. Writes nothing itself.

Order: requests of people, then the rollout under way (or the next one begun), then one that was
taken back and whose devices are not all back yet, then what every device is assigned.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fieldloop_contract.messages import ModelRef
from fieldloop_delivery import controller, figures, records
from fieldloop_delivery.controller import Assign, Version
from fieldloop_delivery.evidence import Evidence, Target, model_ref, model_target
from fieldloop_delivery.gathering import Known, gather, reported_evidence
from fieldloop_delivery.policy import Policy, SlotPolicy
from fieldloop_delivery.requests import obey
from fieldloop_delivery.rollout import (
    ENDED,
    OPEN,
    Begin,
    Effect,
    Give,
    Look,
    Observation,
    Rollout,
    Tell,
    step,
)
from fieldloop_store.engine import Store
from fieldloop_store.queries import ServiceRow
from fieldloop_store.rollouts import MemberRow, RolloutRow, list_rollout_devices, list_rollouts
from fieldloop_store.steering import AuditRow, Request

TOLD_DEVICES_MAX = 50
CACHED_MAX = 16
Fault = Callable[[str, ModelRef], str]
_Devices = Mapping[str, Evidence]


@dataclass(slots=True)
class Turn:
    """What a look at a slot came to. `blamed`: the rollout on whose account assignments change."""

    changed: list[RolloutRow] = field(default_factory=list)
    members: list[MemberRow] = field(default_factory=list)
    answers: list[Request] = field(default_factory=list)
    audit: list[AuditRow] = field(default_factory=list)
    running: list[Rollout] = field(default_factory=list)
    assign: list[Assign] = field(default_factory=list)
    lifting: set[str] = field(default_factory=set)
    blamed: str | None = None


class Lane:
    """A look at one slot. One thread; made anew for each look."""

    def __init__(
        self,
        store: Store,
        fleet: str,
        policy: SlotPolicy,
        whole: Policy,
        versions: Sequence[Version],
        cache: dict[str, tuple[int, Rollout]],
    ) -> None:
        self._cache = cache
        self._store = store
        self._fleet = fleet
        self._policy = policy
        self._tags = whole.tags_of
        self._versions = versions
        self._models = {s.model for s in whole.slots if s.slot == policy.slot}
        self._before: dict[str, Rollout] = {}
        self._rows: dict[str, RolloutRow] = {}
        self._now: dict[str, Rollout] = {}
        self._turn = Turn()

    def look(
        self,
        services: Mapping[str, ServiceRow],
        assigned: Mapping[str, ModelRef | None],
        requests: Sequence[Request],
        fault: Fault,
        known: Callable[[Rollout], Known],
        now_ns: int,
    ) -> Turn:
        """One look; see the module."""
        now_s = now_ns / 1e9
        self._read()
        for request in requests:
            self._obey(request, len(services), now_ns)
        active = self._begin(bool(services), now_ns)
        devices: _Devices = {d: Evidence() for d in services}
        if active is not None:
            devices = self._evidence(active, services, assigned, fault, known, now_ns)
            self._step(active, devices, now_ns)
        gone = controller.taken_back(self._all(), self._versions)
        if gone is not None and active is None:
            devices = reported_evidence(gone.lane, gone.target.key, services, now_ns)
            self._step(self._with_members(gone), devices, now_ns)
        elif active is None:
            devices = reported_evidence(self._policy.slot, "", services, now_ns)
        rollouts = self._all()
        gone = controller.taken_back(rollouts, self._versions)
        if gone is not None:
            self._now[gone.id] = self._with_members(gone)
            rollouts = self._all()
        self._turn.assign = controller.assign(
            self._policy, rollouts, self._versions, devices, assigned, now_s,
            lambda device, ref: not fault(device, ref),
        )  # fmt: skip
        blamed = controller.opened(rollouts) or gone
        self._turn.blamed = blamed.id if blamed is not None else None
        self._turn.lifting = {r.id for r in rollouts if r.lift}
        self._save(devices, now_ns)
        return self._turn

    def _read(self) -> None:
        for row in list_rollouts(self._store, self._fleet, slot=self._policy.slot):
            state = records.from_json(row.document["rollout"])
            if state.phase in OPEN:
                state = self._load(row)
            self._rows[row.id] = row
            self._before[row.id] = self._now[row.id] = state

    def _load(self, row: RolloutRow) -> Rollout:
        """The state with its members, which are read again only when the row has changed."""
        kept = self._cache.get(row.id)
        if kept is None or kept[0] != row.updated_ns:
            while len(self._cache) >= CACHED_MAX:
                del self._cache[next(iter(self._cache))]
            members = list_rollout_devices(self._store, self._fleet, row.id)
            kept = (row.updated_ns, records.from_json(row.document["rollout"], members))
            self._cache[row.id] = kept
        return kept[1]

    def _with_members(self, state: Rollout) -> Rollout:
        row = self._rows.get(state.id)
        if state.members or row is None or state.id not in self._before:
            return state
        loaded = self._load(row)
        self._before[state.id] = replace(self._before[state.id], members=loaded.members,
                                         controls=loaded.controls)  # fmt: skip
        return replace(state, members=loaded.members, controls=loaded.controls)

    def _all(self) -> list[Rollout]:
        return list(self._now.values())

    def _obey(self, request: Request, devices: int, now_ns: int) -> None:
        mine = request.rollout in self._now or (
            request.kind == "start" and request.model in self._models
            and request.lane in (None, self._policy.slot)
        )  # fmt: skip
        if not mine:
            return
        found = obey(
            request, self._all(), self._policy,
            find=lambda r: self._find(r, devices), may=self._may,
            new_id=secrets.token_hex(16), lane=self._policy.slot, now_s=now_ns / 1e9,
        )  # fmt: skip
        self._turn.answers.append(found.request)
        if found.after is not None:
            self._tell(found.after, found.effects, now_ns)
            self._now[found.after.id] = found.after

    def _find(self, request: Request, devices: int) -> Target | str:
        named = [v for v in self._versions if v.ref.name == request.model]
        match = [v for v in named if str(v.ref.version) == request.version]
        if not match:
            known = ", ".join(str(v.ref.version) for v in named) or "none"
            return f"{request.model} has no version {request.version}; there are: {known}"
        if match[0].state != "approved":
            return f"{request.model} {request.version} is {match[0].state}, not approved"
        if not devices:
            patterns = ", ".join(self._policy.devices)
            return f"no device of this fleet matches {patterns}: there is nobody to give it to"
        return model_target(match[0].ref)

    def _may(self, target: Target) -> str:
        states = {v.ref.digest: v.state for v in self._versions}
        state = states.get(target.key, "gone from the registry")
        return "" if state == "approved" else f"the version is {state}"

    def _begin(self, any_devices: bool, now_ns: int) -> Rollout | None:
        """The open rollout; or the oldest in the queue, begun; or a new one of a new version."""
        active = controller.opened(self._all())
        if active is not None or not any_devices:
            return active
        waiting = controller.queued(self._all())
        fresh = (
            waiting[-1]
            if waiting
            else controller.propose(
                self._policy, self._all(), self._versions, secrets.token_hex(16)
            )
        )
        if fresh is None:
            return None
        begun, effects = step(fresh, self._policy, Begin(), now_ns / 1e9)
        self._tell(begun, effects, now_ns)
        self._now[begun.id] = begun
        return begun

    def _evidence(
        self,
        active: Rollout,
        services: Mapping[str, ServiceRow],
        assigned: Mapping[str, ModelRef | None],
        fault: Fault,
        known: Callable[[Rollout], Known],
        now_ns: int,
    ) -> _Devices:
        begun_ns = now_ns if active.begun_s is None else int(active.begun_s * 1e9)
        if active.begun_s is None and active.id in self._rows:
            begun_ns = self._rows[active.id].created_ns
        found = gather(self._store, self._fleet, active, services, begun_ns, now_ns, known(active))
        target = model_ref(active.target)
        devices = {}
        for device, e in found.items():
            held = assigned.get(device)
            devices[device] = replace(
                e,
                unfit=fault(device, target),
                tags=self._tags(device),
                holds=model_target(held) if held is not None else None,
            )
        return devices

    def _step(self, state: Rollout, devices: _Devices, now_ns: int) -> None:
        seen = Observation(devices, self._may(state.target))
        after, effects = step(state, self._policy, Look(seen), now_ns / 1e9)
        self._now[state.id] = after
        self._tell(after, effects, now_ns, devices)

    def _tell(
        self,
        state: Rollout,
        effects: Sequence[Effect],
        now_ns: int,
        devices: _Devices | None = None,
    ) -> None:
        """Enter effects into the audit trail, with what they were decided on."""
        given = [e.device for e in effects if isinstance(e, Give)]
        base: dict[str, Any] = {
            "target": state.target.to_json(), "lane": state.lane, "wave": state.wave + 1,
            "verdict": state.verdict, "retry_of": state.retry_of,
        }  # fmt: skip
        if given:
            detail = {**base, "count": len(given), "devices": given[:TOLD_DEVICES_MAX]}
            self._note(state, "rollout.given", "", "", detail, now_ns)
        for tell in effects:
            if isinstance(tell, Tell):
                detail = {**base, "findings": [f.to_json() for f in state.findings]}
                if devices is not None:
                    detail["figures"] = figures.figures(state, devices)
                self._note(state, tell.type, tell.by, tell.why, detail, now_ns)

    def _note(
        self, state: Rollout, type_: str, by: str, why: str, detail: dict[str, Any], now_ns: int
    ) -> None:
        self._turn.audit.append(AuditRow(0, state.id, type_, by or "delivery", why, detail, now_ns))

    def _save(self, devices: _Devices, now_ns: int) -> None:
        for state in self._now.values():
            before = self._before.get(state.id)
            row = self._rows.get(state.id)
            if state.phase in OPEN:
                self._turn.running.append(state)
            elif before is state:
                continue
            document = figures.document(state, self._policy, devices)
            if before is not None and before.phase in ENDED and row is not None:
                # What it was ended on stays as it was; only who is back changes.
                document = {**row.document, "rollout": document["rollout"],
                            "back": document["back"]}  # fmt: skip
            rows = records.member_rows(before, state)
            self._turn.members += rows
            same = row is not None and not rows
            if (
                same
                and row is not None
                and row.document == document
                and row.state == state.phase.value
            ):
                continue
            self._turn.changed.append(
                RolloutRow(
                    state.id,
                    self._fleet,
                    state.lane,
                    state.target.name,
                    int(state.target.version),
                    state.phase.value,
                    document,
                    row.created_ns if row is not None else now_ns,
                    now_ns,
                )
            )
