"""One look at the fleet: store in, store out. The only place where rollouts, assignments and orders
are decided and written; what goes to the broker afterwards is exactly what the store holds.

Order of a look: read what may have changed, decide (pure), sign into the repository on disk what
new orders will name, then store rollouts, assignments and signed orders in one transaction. Killed
at any point, the next look finds the same inputs and comes to the same decision; an order's version
grows only when its content changes or its signature ages.

Assignments and orders are read once and kept, of an order its digest, version and age. They are
read again after any fault, and when somebody else (an export for a site without a network) wrote.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from fieldloop_contract.batch import load_json
from fieldloop_contract.capability import unfit
from fieldloop_contract.desired import DIRECTOR_ROLE, FIELD, Desired, SlotOrder
from fieldloop_contract.errors import FieldloopError
from fieldloop_contract.manifest import Carriage, Manifest, sha256
from fieldloop_contract.messages import Capability, ModelRef, Reported, StreamState, from_object
from fieldloop_contract.topics import Topic, blob_topic, meta_topic
from fieldloop_delivery.bundles import ChunkSource
from fieldloop_delivery.ceremonies import warnings
from fieldloop_delivery.controller import Version
from fieldloop_delivery.evidence import model_ref
from fieldloop_delivery.fleets.pinning import LANE as CONTAINERS
from fieldloop_delivery.gathering import Known
from fieldloop_delivery.lane import Lane
from fieldloop_delivery.policy import Policy, SlotPolicy, challenger_slot
from fieldloop_delivery.publisher import Item
from fieldloop_delivery.repository import Repository
from fieldloop_delivery.requests import refused
from fieldloop_delivery.rollout import Rollout
from fieldloop_runtime.journal import Journal
from fieldloop_store.commissionings import latest_armed
from fieldloop_store.engine import Store
from fieldloop_store.queries import ServiceRow, device_services
from fieldloop_store.registry import list_models, load_bundle
from fieldloop_store.rollouts import (
    AssignmentRow,
    DocumentRow,
    MemberRow,
    RolloutRow,
    documents_state,
    each_document,
    find_document,
    find_rollout,
    list_assignments,
    save_look,
)
from fieldloop_store.steering import AuditRow, Request, waiting_requests

RECALLED_MAX = 1_000
ORDER_BYTES_MAX = 1 << 20
FEEDS_EVERY_NS = 30 * 10**9
MANIFESTS_MAX = 64
STRAY_NS = 60 * 10**9
RECENT_METRICS = "recent"
_Slots = dict[tuple[str, str], AssignmentRow]


@dataclass(frozen=True, slots=True)
class _Known:
    """What is kept of a signed order."""

    version: int
    digest: str
    content: str
    renew_at: datetime
    keys: tuple[str, ...]


@dataclass(slots=True)
class _Look:
    """What one look has gathered and decided."""

    now_ns: int
    versions: list[Version]
    refs: dict[tuple[str, int], ModelRef]
    services: dict[str, ServiceRow]
    assigned: _Slots
    changed: list[RolloutRow] = field(default_factory=list)
    assignments: list[AssignmentRow] = field(default_factory=list)
    running: list[Rollout] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    members: list[MemberRow] = field(default_factory=list)
    answers: list[Request] = field(default_factory=list)
    audit: list[AuditRow] = field(default_factory=list)
    lifting: set[str] = field(default_factory=set)

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
        chunks: ChunkSource | None = None,
        due: int = 0,
    ) -> None:
        self._store = store
        self._repository = repository
        self._policy = policy
        self._service = service
        self._journal = journal
        self.fleet = repository.fleet
        self.chunks = chunks or ChunkSource(store)
        self._due = due
        self._members: dict[str, tuple[int, Rollout]] = {}
        self._assigned: _Slots | None = None
        self._orders: dict[str, _Known] | None = None
        self._device_of: dict[str, str] = {}
        self._manifests: dict[str, Manifest] = {}
        self._feeds: dict[str, dict[str, StreamState]] = {}
        self._feeds_ns = 0
        self._handed: tuple[int, ...] | None = None
        self._written: tuple[int, int] = (0, 0)

    def look(self, now_ns: int) -> dict[str, Item] | None:
        """One look; returns all retained messages that the broker shall hold.

        None stands for "the same as at the last look".

        Raises:
            RetryLater: the store is away; nothing changed.
        """
        try:
            return self._look(now_ns)
        except BaseException:
            self._assigned = self._orders = self._handed = None
            self._members.clear()
            raise

    def warnings(self, now_ns: int) -> list[str]:
        """Signatures that expire before long and that no key here can renew."""
        return warnings(self._repository, datetime.fromtimestamp(now_ns / 1e9, UTC))

    def read(self, digest: str) -> bytes | None:
        """The payload of a chunk or order that a look has named; None where it holds no more."""
        device = self._device_of.get(digest)
        if device is None:
            return self.chunks.read(digest)
        row = find_document(self._store, self.fleet, device)
        return row.payload if row is not None and sha256(row.payload) == digest else None

    def _look(self, now_ns: int) -> dict[str, Item] | None:
        seen = self._read(now_ns)
        for policy in self._policy.slots:
            self._look_at_slot(policy, seen)
        self._answer_strays(seen)
        for row in seen.assignments:
            seen.assigned[row.device, row.slot] = row
        live = self._live(seen)
        other_chunks = self.chunks.use(ref.digest for ref in live)
        carriages: dict[str, Carriage] = {r.digest: self.chunks.carriage(r.digest) for r in live}
        models: dict[str, dict[int, bytes]] = {}
        for ref in live:
            models.setdefault(ref.name, {})[ref.version] = self.chunks.manifest(ref.digest)
        now = datetime.fromtimestamp(now_ns / 1e9, UTC)
        self._repository.set_models(models, now, carriages)
        self._repository.renew(now)
        signed = self._sign(seen, now)
        written = (seen.changed, seen.assignments, seen.members, seen.answers, seen.audit, signed)
        if any(written):
            self._written = save_look(
                self._store,
                self.fleet,
                changed=seen.changed,
                assigned=seen.assignments,
                signed=signed,
                now_ns=now_ns,
                members=seen.members,
                answers=seen.answers,
                audit=seen.audit,
                due=self._due,
            )
        for document in signed:
            self._remember(document)
        if self._handed == self._repository.state and not signed and not other_chunks:
            return None
        self._handed = self._repository.state
        return self._items()

    def _read(self, now_ns: int) -> _Look:
        models = list_models(self._store, self.fleet)
        refs = {
            (m.name, m.version): ModelRef(name=m.name, version=m.version, digest=m.digest)
            for m in models
        }
        services = list(device_services(self._store, self.fleet, service=self._service))
        state = documents_state(self._store, self.fleet)
        if self._assigned is None or self._orders is None or state != self._written:
            self._written = state
            rows = list_assignments(self._store, self.fleet)
            self._assigned = {(a.device, a.slot): a for a in rows}
            self._orders, self._device_of = {}, {}
            for document in each_document(self._store, self.fleet):
                self._remember(document)
        return _Look(
            now_ns=now_ns,
            versions=[Version(refs[m.name, m.version], m.state) for m in models],
            refs=refs,
            services={row.device: row for row in services},
            assigned=self._assigned,
            requests=waiting_requests(self._store, self.fleet),
        )

    def _remember(self, document: DocumentRow) -> None:
        assert self._orders is not None  # read by `_read`
        before = self._orders.get(document.device)
        if before is not None:
            self._device_of.pop(before.digest, None)
        digest = sha256(document.payload)
        self._device_of[digest] = document.device
        content = content_of(document.payload)
        self._orders[document.device] = _Known(
            document.version,
            digest,
            _fingerprint(content) if content is not None else "",
            self._repository.renew_order_at(document.payload),
            tuple(self._repository.key_ids(DIRECTOR_ROLE)),
        )

    # The capability gate.

    def _fault(self, policy: SlotPolicy, device: str, row: ServiceRow, ref: ModelRef) -> str:
        """Why a device cannot run a version, by what it says of itself; "" where it can."""
        try:
            stated = from_object(Capability, (row.status or {}).get("capability") or {})
        except FieldloopError:
            stated = Capability()
        fault = unfit(self._manifest(ref.digest), stated, policy.streams, self._feeds.get(device))
        return f"{fault[0]}: {fault[1]}" if fault is not None else ""

    def _manifest(self, digest: str) -> Manifest:
        if digest not in self._manifests:
            while len(self._manifests) >= MANIFESTS_MAX:
                del self._manifests[next(iter(self._manifests))]
            self._manifests[digest] = load_bundle(self._store, digest)[0]
        return self._manifests[digest]

    def _read_feeds(self, now_ns: int) -> None:
        """Which streams each device has, by what any of its services reports."""
        if now_ns - self._feeds_ns < FEEDS_EVERY_NS:
            return
        self._feeds_ns = now_ns
        self._feeds = {}
        for row in device_services(self._store, self.fleet):
            try:
                reported = from_object(Reported, row.reported) if row.reported else None
            except FieldloopError:
                continue
            if reported is not None and reported.streams:
                known = self._feeds.setdefault(row.device, {})
                known.update({s.stream: s for s in reported.streams})

    def _look_at_slot(self, policy: SlotPolicy, seen: _Look) -> None:
        services = {d: row for d, row in seen.services.items() if policy.matches(d)}
        self._read_feeds(seen.now_ns)
        lane = Lane(self._store, self.fleet, policy, self._policy, seen.versions, self._members)
        assigned = {
            device: seen.ref(row)
            for (device, slot), row in seen.assigned.items()
            if slot == policy.slot
        }

        def fault(device: str, ref: ModelRef) -> str:
            row = services.get(device)
            return self._fault(policy, device, row, ref) if row is not None else ""

        turned = lane.look(services, assigned, seen.requests, fault, self._known, seen.now_ns)
        for tell in turned.audit:
            self._journal.info(tell.type, rollout=tell.rollout, reason=tell.reason, by=tell.actor)
        seen.changed += turned.changed
        seen.members += turned.members
        seen.answers += turned.answers
        seen.audit += turned.audit
        seen.running += turned.running
        seen.lifting |= turned.lifting
        for change in turned.assign:
            seen.assignments.append(
                AssignmentRow(
                    change.device,
                    policy.slot,
                    change.model.name if change.model else None,
                    change.model.version if change.model else None,
                    turned.blamed,
                )
            )

    def _known(self, state: Rollout) -> Known:
        """What the manifests of a rollout's versions state."""
        thresholds: dict[str, float] = {}
        disagreement: dict[str, tuple[float, int]] = {}
        keys = {m.previous.key for m in state.members.values() if m.previous is not None}
        for key in sorted({state.target.key, *keys})[:MANIFESTS_MAX]:
            manifest = self._manifest(key)
            stated = manifest.outputs[0].threshold
            if stated is not None and manifest.calibration is None:
                thresholds[key] = stated
        lineage = self._manifest(state.target.key).lineage
        measured = lineage.metrics.get(RECENT_METRICS, {})
        if lineage.parent is not None and "disagreement" in measured:
            windows = int(measured.get("windows", 0))
            disagreement[lineage.parent.digest] = (measured["disagreement"], windows)
        return Known(thresholds, disagreement)

    def _answer_strays(self, seen: _Look) -> None:
        """Requests that no lane took: said so, once whoever else might answer had the time."""
        taken = {r.id for r in seen.answers}
        for request in seen.requests:
            if request.id in taken:
                continue
            if self._of_containers(request):
                continue  # answered by `fleet run`, however long balena is away
            of_ours = request.kind == "start" and request.model is not None
            if of_ours or seen.now_ns - request.asked_ns > STRAY_NS:
                seen.answers.append(
                    refused(request, _stray(request, self._policy), seen.now_ns / 1e9)
                )

    def _of_containers(self, request: Request) -> bool:
        if request.lane == CONTAINERS:
            return True
        row = find_rollout(self._store, self.fleet, request.rollout) if request.rollout else None
        return row is not None and row.slot == CONTAINERS

    def _beside(
        self, policy: SlotPolicy, device: str, champion: ModelRef | None, seen: _Look
    ) -> SlotOrder | None:
        """What a device runs in shadow of its champion, if it is in the challenger's share."""
        ref = _challenger(policy, seen)
        row = seen.services.get(device)
        if ref is None or ref == champion or champion is None or row is None:
            return None
        if policy.challenger is None or not policy.challenger.takes(device):
            return None
        if self._fault(policy, device, row, ref):
            return None
        return SlotOrder(model=ref, streams=policy.streams)

    def _live(self, seen: _Look) -> set[ModelRef]:
        """Versions that some slot runs, is to run, or would go back to."""
        approved = {v.ref.digest for v in seen.versions if v.state == "approved"}
        live = {seen.ref(row) for row in seen.assigned.values()}
        live.update(_challenger(policy, seen) for policy in self._policy.slots)
        for state in seen.running:
            live.add(model_ref(state.target))
            live.update(
                model_ref(m.previous) for m in state.members.values() if m.previous is not None
            )
        return {ref for ref in live if ref is not None and ref.digest in approved}

    def _sign(self, seen: _Look, now: datetime) -> list[DocumentRow]:
        """Orders whose content changed, or whose signature is past half of its life."""
        newest = sorted(seen.versions, key=lambda v: -v.ref.version)
        recalled = sorted(v.ref.digest for v in newest[:RECALLED_MAX] if v.state == "recalled")
        by_device: dict[str, dict[str, SlotOrder]] = {}
        known = {(c.device, c.slot): c for c in latest_armed(self._store, self.fleet)}
        for policy in self._policy.slots:
            for (device, slot), row in seen.assigned.items():
                if slot == policy.slot and policy.matches(device):
                    model = seen.ref(row)
                    lift = [model.digest] if model and row.rollout in seen.lifting else []
                    armed = known.get((device, slot))
                    order = SlotOrder(
                        model=model,
                        streams=policy.streams,
                        lift=lift,
                        calibration=armed.record.encode().decode() if armed else None,
                        calibration_stale=(armed.stale_because or None) if armed else None,
                    )
                    by_device.setdefault(device, {})[slot] = order
                    beside = self._beside(policy, device, model, seen)
                    if beside is not None:
                        by_device[device][challenger_slot(slot)] = beside
        signed: list[DocumentRow] = []
        orders = self._orders or {}
        keys = tuple(self._repository.key_ids(DIRECTOR_ROLE))
        for device in sorted({*by_device, *orders}):
            desired = Desired(
                fleet=self.fleet,
                device=device,
                slots=by_device.get(device, {}),
                recalled=recalled,
            )
            before = orders.get(device)
            same = before is not None and before.content == _fingerprint(desired)
            if before is not None and same and now < before.renew_at and keys == before.keys:
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

    def _items(self) -> dict[str, Item]:
        items: dict[str, Item] = {}
        for name, payload in self._repository.files().items():
            items[meta_topic(self.fleet, name)] = Item(sha256(payload), payload)
        for device, order in (self._orders or {}).items():
            topic = str(Topic(self.fleet, device, self._service, "desired"))
            items[topic] = Item(order.digest)
        for chunk in self.chunks.chunks():
            items[blob_topic(self.fleet, chunk)] = Item(chunk)
        return items


def _fingerprint(desired: Desired) -> str:
    return sha256(desired.encode())


def content_of(payload: bytes) -> Desired | None:
    """What a signed order says; None where it cannot be read, so that it is signed anew."""
    try:
        return from_object(Desired, load_json(payload, ORDER_BYTES_MAX)["signed"][FIELD])
    except (FieldloopError, KeyError, TypeError):
        return None


def _challenger(policy: SlotPolicy, seen: _Look) -> ModelRef | None:
    """The policy's challenger, while it is approved."""
    if policy.challenger is None:
        return None
    ref = seen.refs.get((policy.model, policy.challenger.version))
    state = next((v.state for v in seen.versions if v.ref == ref), "")
    return ref if state == "approved" else None


def _stray(request: Request, policy: Policy) -> str:
    """Why nobody takes a request."""
    if request.kind == "start" and request.model is not None:
        known = ", ".join(sorted({s.model for s in policy.slots})) or "none"
        return f"no slot of the policy is for {request.model}; it has: {known}"
    if request.kind == "start":
        return f"nothing here delivers to {request.lane}"
    return f"no rollout {request.rollout} in this fleet"
