"""One look at the fleet: store in, store out. The only place where rollouts, assignments and orders
are decided and written; what goes to the broker afterwards is exactly what the store holds.

Order of a look: read everything, decide (pure), sign into the repository on disk what new orders
will name, then store rollouts, assignments and signed orders in one transaction. Killed at any
point, the next look finds the same inputs and comes to the same decision; an order's version grows
only when its content changes or its signature ages.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from fieldloop_contract.batch import load_json
from fieldloop_contract.desired import FIELD, Desired, SlotOrder
from fieldloop_contract.errors import FieldloopError
from fieldloop_contract.manifest import sha256
from fieldloop_contract.messages import ModelRef, from_object
from fieldloop_contract.topics import Topic, blob_topic, meta_topic
from fieldloop_delivery import controller, rollout
from fieldloop_delivery.bundles import ChunkSource
from fieldloop_delivery.controller import Version
from fieldloop_delivery.evidence import gather
from fieldloop_delivery.policy import Policy, SlotPolicy
from fieldloop_delivery.publisher import Item
from fieldloop_delivery.repository import Repository
from fieldloop_delivery.rollout import Observation, Rollout
from fieldloop_runtime.journal import Journal
from fieldloop_store.engine import Store
from fieldloop_store.queries import ServiceRow, device_services
from fieldloop_store.registry import list_models
from fieldloop_store.rollouts import (
    AssignmentRow,
    DocumentRow,
    RolloutRow,
    list_assignments,
    list_documents,
    list_rollouts,
    save_look,
)

RECALLED_MAX = 1_000
ORDER_BYTES_MAX = 1 << 20
_Slots = dict[tuple[str, str], AssignmentRow]


@dataclass(slots=True)
class _Look:
    """What one look has gathered and decided."""

    now_ns: int
    versions: list[Version]
    refs: dict[tuple[str, int], ModelRef]
    services: dict[str, ServiceRow]
    assigned: _Slots
    documents: dict[str, DocumentRow]
    changed: list[RolloutRow] = field(default_factory=list)
    assignments: list[AssignmentRow] = field(default_factory=list)
    running: list[Rollout] = field(default_factory=list)

    def ref(self, row: AssignmentRow | None) -> ModelRef | None:
        if row is None or row.model is None or row.version is None:
            return None
        return self.refs.get((row.model, row.version))


class Fleet:
    """Looks at one fleet. One thread, one process for each fleet."""

    def __init__(
        self,
        store: Store,
        repository: Repository,
        policy: Policy,
        *,
        service: str,
        journal: Journal,
    ) -> None:
        self._store = store
        self._repository = repository
        self._policy = policy
        self._service = service
        self._journal = journal
        self.fleet = repository.fleet
        self.chunks = ChunkSource(store)
        self._known: dict[str, tuple[int, Desired | None, datetime]] = {}

    def look(self, now_ns: int) -> dict[str, Item]:
        """One look; returns all retained messages that the broker shall hold.

        Raises:
            RetryLater: the store is away; nothing changed.
        """
        seen = self._read(now_ns)
        for policy in self._policy.slots:
            self._look_at_slot(policy, seen)
        for row in seen.assignments:
            seen.assigned[row.device, row.slot] = row
        live = self._live(seen)
        self.chunks.use(ref.digest for ref in live)
        models: dict[str, dict[int, bytes]] = {}
        for ref in live:
            models.setdefault(ref.name, {})[ref.version] = self.chunks.manifest(ref.digest)
        now = datetime.fromtimestamp(now_ns / 1e9, UTC)
        self._repository.set_models(models, now)
        self._repository.renew(now)
        signed = self._sign(seen, now)
        if seen.changed or seen.assignments or signed:
            save_look(
                self._store,
                self.fleet,
                changed=seen.changed,
                assigned=seen.assignments,
                signed=signed,
                now_ns=now_ns,
            )
        for document in signed:
            seen.documents[document.device] = document
        return self._items(seen)

    def _read(self, now_ns: int) -> _Look:
        models = list_models(self._store, self.fleet)
        refs = {
            (m.name, m.version): ModelRef(name=m.name, version=m.version, digest=m.digest)
            for m in models
        }
        services = device_services(self._store, self.fleet, service=self._service)
        assigned = list_assignments(self._store, self.fleet)
        return _Look(
            now_ns=now_ns,
            versions=[Version(refs[m.name, m.version], m.state) for m in models],
            refs=refs,
            services={row.device: row for row in services},
            assigned={(a.device, a.slot): a for a in assigned},
            documents={d.device: d for d in list_documents(self._store, self.fleet)},
        )

    def _look_at_slot(self, policy: SlotPolicy, seen: _Look) -> None:
        rows = list_rollouts(self._store, self.fleet, slot=policy.slot)
        rollouts = [Rollout.from_json(row.document["rollout"]) for row in rows]
        begun = {row.id: row.created_ns for row in rows}
        services = {d: row for d, row in seen.services.items() if policy.matches(d)}
        assigned = {
            device: seen.ref(row)
            for (device, slot), row in seen.assigned.items()
            if slot == policy.slot
        }
        active = controller.running(rollouts)
        if active is None and services:
            active = controller.begin(policy, rollouts, seen.versions, secrets.token_hex(16))
            if active is not None:
                begun[active.id] = seen.now_ns
                self._journal.info(
                    "rollout.begun",
                    slot=policy.slot,
                    model=active.target.name,
                    version=active.target.version,
                )
        if active is None:
            devices = {device: rollout.Evidence() for device in services}
        else:
            devices = gather(self._store, self.fleet, active, services, begun[active.id])
        after, changes = controller.look(
            policy, active, rollouts, seen.versions, devices, assigned, seen.now_ns / 1e9
        )
        if after is not None:
            row = self._rollout_row(policy, after, devices, begun[after.id], seen.now_ns)
            before = next((r for r in rows if r.id == after.id), None)
            if before is None or before.document != row.document:
                seen.changed.append(row)
            if before is None or before.state != row.state:
                self._journal.info(f"rollout.{row.state}", rollout=row.id, verdict=after.verdict)
            seen.running.append(after)
        for change in changes:
            seen.assignments.append(
                AssignmentRow(
                    change.device,
                    policy.slot,
                    change.model.name if change.model else None,
                    change.model.version if change.model else None,
                    after.id if after is not None else None,
                )
            )

    def _rollout_row(
        self,
        policy: SlotPolicy,
        state: Rollout,
        devices: Mapping[str, rollout.Evidence],
        created_ns: int,
        now_ns: int,
    ) -> RolloutRow:
        document = {
            "rollout": state.to_json(),
            "verdict": state.verdict,
            "waves": _progress(policy, state, devices),
            "figures": rollout.figures(state, Observation(devices)).to_json(),
            "gates": policy.gates.model_dump(mode="json"),
        }
        return RolloutRow(
            state.id,
            self.fleet,
            state.slot,
            state.target.name,
            state.target.version,
            state.phase.value,
            document,
            created_ns,
            now_ns,
        )

    def _live(self, seen: _Look) -> set[ModelRef]:
        """Versions that some slot runs, is to run, or would go back to."""
        approved = {v.ref.digest for v in seen.versions if v.state == "approved"}
        live = {seen.ref(row) for row in seen.assigned.values()}
        for state in seen.running:
            live.add(state.target)
            live.update(touch.previous for touch in state.touched)
        return {ref for ref in live if ref is not None and ref.digest in approved}

    def _sign(self, seen: _Look, now: datetime) -> list[DocumentRow]:
        """Orders whose content changed, or whose signature is past half of its life."""
        newest = sorted(seen.versions, key=lambda v: -v.ref.version)
        recalled = sorted(v.ref.digest for v in newest[:RECALLED_MAX] if v.state == "recalled")
        by_device: dict[str, dict[str, SlotOrder]] = {}
        for policy in self._policy.slots:
            for (device, slot), row in seen.assigned.items():
                if slot == policy.slot and policy.matches(device):
                    model = seen.ref(row)
                    order = SlotOrder(model=model, streams=policy.streams)
                    by_device.setdefault(device, {})[slot] = order
        signed: list[DocumentRow] = []
        for device in sorted({*by_device, *seen.documents}):
            desired = Desired(
                fleet=self.fleet,
                device=device,
                slots=by_device.get(device, {}),
                recalled=recalled,
            )
            before = seen.documents.get(device)
            if before is not None and self._still_good(before, desired, now):
                continue
            version = 1 if before is None else before.version + 1
            manifests = {
                order.model.digest: self.chunks.manifest(order.model.digest)
                for order in desired.slots.values()
                if order.model is not None
            }
            payload = self._repository.sign_order(desired, version, manifests, now)
            signed.append(DocumentRow(device, version, payload))
        return signed

    def _still_good(self, before: DocumentRow, desired: Desired, now: datetime) -> bool:
        known = self._known.get(before.device)
        if known is None or known[0] != before.version:
            renew_at = self._repository.renew_order_at(before.payload)
            known = (before.version, _content(before.payload), renew_at)
            self._known[before.device] = known
        return known[1] == desired and now < known[2]

    def _items(self, seen: _Look) -> dict[str, Item]:
        items: dict[str, Item] = {}
        for name, payload in self._repository.files().items():
            items[meta_topic(self.fleet, name)] = Item(sha256(payload), payload)
        for device, document in seen.documents.items():
            topic = str(Topic(self.fleet, device, self._service, "desired"))
            items[topic] = Item(sha256(document.payload), document.payload)
        for chunk in self.chunks.chunks():
            items[blob_topic(self.fleet, chunk)] = Item(chunk)
        return items


def _content(payload: bytes) -> Desired | None:
    """What a signed order says; None where it cannot be read, so that it is signed anew."""
    try:
        return from_object(Desired, load_json(payload, ORDER_BYTES_MAX)["signed"][FIELD])
    except (FieldloopError, KeyError, TypeError):
        return None


def _progress(
    policy: SlotPolicy, state: Rollout, devices: Mapping[str, rollout.Evidence]
) -> list[dict[str, object]]:
    """Each wave in a form that people and the console read."""
    waves: list[dict[str, object]] = []
    for number, wave in enumerate(policy.waves):
        touched = [t.device for t in state.touched if t.wave == number]
        shown = {d: devices.get(d, rollout.Evidence()) for d in touched}
        waves.append(
            {
                "size": wave.size(len(devices)),
                "devices": touched,
                "installed": sum(e.installed for e in shown.values()),
                "windows": sum(e.new.windows for e in shown.values()),
                "passed": number < len(state.passed_s),
                "passed_s": state.passed_s[number] if number < len(state.passed_s) else None,
            }
        )
    return waves
