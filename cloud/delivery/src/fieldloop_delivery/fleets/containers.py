"""Container releases, rolled out: inventory and store in, pins and tags out. One look at a time.

The only place where container rollouts are decided and carried out; decisions are the engine's
(`rollout`) and `pinning`'s. Order of a look: read the inventory; obey what people asked; step the
rollout under way; store all of it in one transaction; only then send pins, and tags of what has
ended. Killed at any point, the next look finds the stored state, compares it with the inventory,
and sends what is missing and nothing else.

A stale inventory is no evidence and no ground to act on: such a look does nothing and says so.
Owner thread of a process of its own: a call to balena may take as long as its time-out, which must
not delay the orders of models.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from fieldloop_contract.errors import FieldloopError, Isolate, RejectedInput, RetryLater
from fieldloop_delivery import figures, records
from fieldloop_delivery.evidence import Evidence, Target
from fieldloop_delivery.fleets.backend import FleetBackend, Inventory, Release, named
from fieldloop_delivery.fleets.inventory import NS, CachedInventory
from fieldloop_delivery.fleets.pinning import (
    LANE,
    Heard,
    Names,
    Pins,
    evidence_of,
    pins,
    result_tag,
)
from fieldloop_delivery.policy import Plan
from fieldloop_delivery.requests import obey
from fieldloop_delivery.rollout import (
    ENDED,
    OPEN,
    Begin,
    Effect,
    Give,
    Look,
    Observation,
    Phase,
    Rollout,
    Tell,
    step,
)
from fieldloop_runtime.journal import Journal, Throttle
from fieldloop_store.engine import Store
from fieldloop_store.queries import device_services
from fieldloop_store.rollouts import (
    MemberRow,
    RolloutRow,
    list_rollout_devices,
    list_rollouts,
    save_look,
)
from fieldloop_store.steering import AuditRow, Request, waiting_requests

TAGS_PER_LOOK: Final = 20
RELEASES_FRESH_NS: Final = 60 * NS
DEVICES_NAMED_MAX: Final = 50
TAG: Final = "fieldloop.release"


@dataclass(frozen=True, slots=True)
class _Kept:
    """A rollout as it was stored, and what its document says of pins beside it."""

    row: RolloutRow | None
    before: Rollout | None
    fleet_pinned: bool = False
    settled: bool = False


class ContainerRollouts:
    """The container rollouts of one fleet. Owner thread only.

    Args:
        slug: what people call the fleet where it is managed.
        grace_s: how long a service may stay away on a device that is there before it has failed.
        due: by which ways people are told of it (`fieldloop_store.steering`).
    """

    def __init__(
        self,
        store: Store,
        fleet: str,
        slug: str,
        backend: FleetBackend,
        inventory: CachedInventory,
        plan: Plan,
        *,
        journal: Journal,
        grace_s: float = 120.0,
        due: int = 0,
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._slug = slug
        self._backend = backend
        self._inventory = inventory
        self._plan = plan
        self._journal = journal
        self._grace_s = grace_s
        self._due = due
        self._releases: dict[str, Release] = {}
        self._releases_ns = -RELEASES_FRESH_NS
        self._noise = Throttle(60)

    def look(self, now_ns: int) -> list[Rollout]:
        """One look; returns the rollouts that are not settled.

        Raises:
            RetryLater: the store or the backend is away, or what is known of the fleet is stale.
        """
        inventory = self._inventory.get(now_ns)
        if inventory.stale:
            raise RetryLater(f"the fleet is not fresh: {inventory.stale}", code="fleet.stale")
        names = self._names(now_ns)
        kept, states = self._read()
        answers: list[Request] = []
        audit: list[AuditRow] = []
        self._obey(states, inventory, names, answers, audit, now_ns)
        self._begin(states, audit, now_ns)
        seen: dict[str, dict[str, Evidence]] = {}
        for state in list(states.values()):
            if not kept.get(state.id, _Kept(None, None)).settled:
                devices = self._evidence(state, inventory, names, now_ns)
                seen[state.id] = devices
                look = Look(Observation(devices, self._withdrawn(state, names)))
                after, effects = step(state, self._plan, look, now_ns / 1e9)
                self._tell(after, effects, audit, now_ns, devices)
                states[state.id] = after
        decided = self._decide(states, kept, inventory)
        left = self._save(states, kept, decided, seen, answers, audit, inventory, now_ns)
        for state in states.values():
            if state.id in decided:
                self._carry_out(state, decided[state.id], inventory)
        return left

    # Reading.

    def _names(self, now_ns: int) -> Names:
        if now_ns - self._releases_ns >= RELEASES_FRESH_NS:
            self._releases = {r.commit: r for r in self._backend.releases()}
            self._releases_ns = now_ns
        return Names(self._slug, {c: r.version for c, r in self._releases.items()})

    def _read(self) -> tuple[dict[str, _Kept], dict[str, Rollout]]:
        kept: dict[str, _Kept] = {}
        states: dict[str, Rollout] = {}
        for row in reversed(list_rollouts(self._store, self._fleet, slot=LANE)):  # oldest first
            document = row.document
            settled = bool(document.get("settled"))
            members: list[MemberRow] = []
            if not settled:
                members = list_rollout_devices(self._store, self._fleet, row.id)
            state = records.from_json(document["rollout"], members)
            kept[row.id] = _Kept(row, state, bool(document.get("fleet_pinned")), settled)
            states[row.id] = state
        return kept, states

    def _evidence(
        self, state: Rollout, inventory: Inventory, names: Names, now_ns: int
    ) -> dict[str, Evidence]:
        heard: dict[str, dict[str, Heard]] = {}
        for row in device_services(self._store, self._fleet):
            last_ns = max(row.status_ns, row.reported_ns or 0)
            service = Heard(row.state == "online", row.status_ns / 1e9, last_ns / 1e9)
            heard.setdefault(row.device, {})[row.service] = service
        return {
            name: evidence_of(
                device, heard.get(name, {}), state, names, now_ns / 1e9, self._grace_s
            )
            for name, device in inventory.devices.items()
        }

    def _withdrawn(self, state: Rollout, names: Names) -> str:
        if state.phase in ENDED:
            return ""
        return self._may(state.target) if names.versions else ""

    def _may(self, target: Target) -> str:
        release = self._releases.get(target.key)
        if release is None:
            return "the release is not there any more"
        return "" if release.usable else "the release was not built to the end, or was invalidated"

    # Requests of people.

    def _obey(
        self,
        states: dict[str, Rollout],
        inventory: Inventory,
        names: Names,
        answers: list[Request],
        audit: list[AuditRow],
        now_ns: int,
    ) -> None:
        for request in waiting_requests(self._store, self._fleet):
            if request.lane != LANE and request.rollout not in states:
                continue
            found = obey(
                request,
                list(states.values()),
                self._plan,
                find=lambda r: self._find(r, inventory, names),
                may=self._may,
                new_id=secrets.token_hex(16),
                lane=self._slug,
                now_s=now_ns / 1e9,
            )
            answers.append(found.request)
            if found.after is not None:
                after = replace(found.after, lane=LANE)
                states[after.id] = after
                self._tell(after, found.effects, audit, now_ns)

    def _find(self, request: Request, inventory: Inventory, names: Names) -> Target | str:
        """The release that a start names, or why it may not begin."""
        found = named(self._releases.values(), request.version or "")
        if isinstance(found, str):
            return found
        target = names.target(found.commit)
        assert target is not None  # it has a commit
        if inventory.tracking:
            return (
                f"{self._slug} takes each new release by itself, so there is nothing to roll out;"
                " pin it to what it runs first: `fleet pin --all RELEASE`"
            )
        if inventory.release == target.key:
            return f"{target} is what {self._slug} runs already"
        if not inventory.devices:
            return f"{self._slug} has no devices: there is nobody to give it to"
        return target

    def _begin(self, states: dict[str, Rollout], audit: list[AuditRow], now_ns: int) -> None:
        if any(s.phase in OPEN for s in states.values()):
            return
        waiting = [s for s in states.values() if s.phase is Phase.QUEUED]
        if waiting:
            begun, effects = step(waiting[0], self._plan, Begin(), now_ns / 1e9)
            states[begun.id] = begun
            self._tell(begun, effects, audit, now_ns)

    # Deciding, storing, sending.

    def _decide(
        self, states: Mapping[str, Rollout], kept: Mapping[str, _Kept], inventory: Inventory
    ) -> dict[str, Pins]:
        decided: dict[str, Pins] = {}
        for state in states.values():
            known = kept.get(state.id, _Kept(None, None))
            if not known.settled and state.phase is not Phase.QUEUED:
                pinned = known.fleet_pinned or inventory.release == state.target.key
                decided[state.id] = pins(
                    state, inventory, fleet_pinned=state.phase is Phase.COMPLETED and pinned
                )
        return decided

    def _save(
        self,
        states: Mapping[str, Rollout],
        kept: Mapping[str, _Kept],
        decided: Mapping[str, Pins],
        seen: Mapping[str, Mapping[str, Evidence]],
        answers: list[Request],
        audit: list[AuditRow],
        inventory: Inventory,
        now_ns: int,
    ) -> list[Rollout]:
        """Store what a look came to; returns the rollouts that something is left to do for."""
        left: list[Rollout] = []
        changed: list[RolloutRow] = []
        members: list[MemberRow] = []
        for state in states.values():
            known = kept.get(state.id, _Kept(None, None))
            if known.settled:
                continue
            document = self._document(state, known, decided, seen.get(state.id, {}), inventory)
            if not document["settled"]:
                left.append(state)
            members += records.member_rows(known.before, state)
            row = known.row
            if row is None or row.document != document or row.state != state.phase.value:
                # Those of one look keep their order.
                created_ns = row.created_ns if row is not None else now_ns + len(changed)
                changed.append(
                    RolloutRow(
                        state.id,
                        self._fleet,
                        LANE,
                        state.target.name[:63],
                        0,
                        state.phase.value,
                        document,
                        created_ns,
                        now_ns,
                    )
                )
        if changed or members or answers or audit:
            save_look(
                self._store,
                self._fleet,
                changed=changed,
                assigned=(),
                signed=(),
                now_ns=now_ns,
                members=members,
                answers=answers,
                audit=audit,
                due=self._due,
            )
        return left

    def _document(
        self,
        state: Rollout,
        known: _Kept,
        decided: Mapping[str, Pins],
        devices: Mapping[str, Evidence],
        inventory: Inventory,
    ) -> dict[str, Any]:
        done = state.phase is Phase.COMPLETED
        document = figures.document(state, self._plan, devices)
        if known.before is not None and known.before.phase in ENDED and known.row is not None:
            # What it was ended on stays as it was.
            document = {**known.row.document, "rollout": document["rollout"]}
        settled = (
            state.id in decided and decided[state.id].settled and self._tagged(state, inventory)
        )
        return {
            **document,
            "fleet_pinned": done and (known.fleet_pinned or inventory.release == state.target.key),
            "settled": state.phase in ENDED and settled,
        }

    def _carry_out(self, state: Rollout, todo: Pins, inventory: Inventory) -> None:
        """Send what was decided; what fails is found missing at the next look."""
        try:
            for commit, devices in todo.devices.items():
                self._backend.pin(devices, commit)
                self._journal.info(
                    "fleet.pinned", rollout=state.id, release=commit, devices=len(devices)
                )
            if todo.fleet:
                self._backend.pin_fleet(todo.fleet)
                self._journal.info("fleet.release", rollout=state.id, release=todo.fleet)
            if state.phase in ENDED:
                self._write_tags(state, inventory)
        except (Isolate, RejectedInput) as error:
            # A device left, or a release was taken away, since the inventory was read.
            self._say("fleet.refused", error)
        finally:
            self._inventory.forget()

    def _write_tags(self, state: Rollout, inventory: Inventory) -> None:
        left = TAGS_PER_LOOK
        for name in state.members:
            device = inventory.devices.get(name)
            if device is None or device.tags.get(TAG) == result_tag(state, device):
                continue
            if left == 0:
                return
            left -= 1
            self._backend.tag(name, {TAG: result_tag(state, device)})

    def _tagged(self, state: Rollout, inventory: Inventory) -> bool:
        return all(
            device.tags.get(TAG) == result_tag(state, device)
            for name in state.members
            if (device := inventory.devices.get(name)) is not None
        )

    # Telling.

    def _tell(
        self,
        state: Rollout,
        effects: list[Effect],
        audit: list[AuditRow],
        now_ns: int,
        devices: Mapping[str, Evidence] | None = None,
    ) -> None:
        """Enter effects into the audit trail, with what they were decided on."""
        base: dict[str, Any] = {
            "target": state.target.to_json(),
            "lane": LANE,
            "wave": state.wave + 1,
            "verdict": state.verdict,
        }
        given = [e.device for e in effects if isinstance(e, Give)]
        if given:
            detail = {**base, "count": len(given), "devices": given[:DEVICES_NAMED_MAX]}
            audit.append(AuditRow(0, state.id, "rollout.given", "delivery", "", detail, now_ns))
        for tell in effects:
            if isinstance(tell, Tell):
                detail = {**base, "findings": [f.to_json() for f in state.findings]}
                if devices is not None:
                    detail["figures"] = figures.figures(state, devices)
                row = AuditRow(
                    0, state.id, tell.type, tell.by or "delivery", tell.why, detail, now_ns
                )
                audit.append(row)
                self._journal.info(tell.type, rollout=state.id, verdict=state.verdict)

    def _say(self, event: str, error: FieldloopError) -> None:
        if self._noise.allow():
            self._journal.warning(event, code=error.code, error=str(error))


def _all_back(state: Rollout, inventory: Inventory) -> bool:
    """Whether everybody is seen to be back who still belongs to the fleet."""
    if state.phase is Phase.COMPLETED:
        return True
    return all(m.back_s is not None for d, m in state.members.items() if d in inventory.devices)
