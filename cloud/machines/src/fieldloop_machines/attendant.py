"""What the service does at each look: alarms from events, notices, commissionings. Owner thread.

Owns no state but in the store: a kill at any moment is made good by the next look.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import Connection

from fieldloop_contract.errors import FieldloopError, MalformedMessage
from fieldloop_contract.manifest import Manifest
from fieldloop_contract.messages import ModelRef, SlotState, from_object
from fieldloop_machines import notices, outbox, records
from fieldloop_machines.commissioning import assess
from fieldloop_machines.looks import looks_like
from fieldloop_machines.notices import Ringing
from fieldloop_runtime.journal import Journal
from fieldloop_store import commissionings
from fieldloop_store.alarms import Said, Told, read_state, take, write_labels
from fieldloop_store.commissionings import CommissioningRow
from fieldloop_store.engine import Store
from fieldloop_store.machines import COHORT, assignments_of, list_machines
from fieldloop_store.queries import EventCursor, EventRow, device_services, events_since
from fieldloop_store.registry import find_manifest

EVENT_TYPES = ("alarm.raised", "alarm.cleared")
EVENTS_AT_ONCE = 500
INFERENCE = "inference"
NAMED_AT_ONCE = 10


class Attendant:
    """Looks after the machines of one fleet.

    Args:
        channels: names of the ways by which notices go out.
        broker: name of the broker, as something that alarms may have in common.
        settle_ns: age of an event before it is taken.
    """

    def __init__(
        self,
        store: Store,
        fleet: str,
        *,
        channels: Sequence[str],
        broker: str,
        journal: Journal,
        settle_ns: int = 0,
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._channels = list(channels)
        self._broker = broker
        self._journal = journal
        self._settle_ns = settle_ns
        self._traits: dict[str, dict[str, str]] = {}

    def look(self, now_ns: int) -> int:
        """Take new events, end shelves, decide notices; how many events were taken.

        Raises:
            RetryLater: the store is away; nothing was taken.
        """
        held = read_state(self._store, self._fleet, "cursor")
        cursor = EventCursor(*held) if held is not None else None
        events = events_since(
            self._store,
            self._fleet,
            cursor,
            types=EVENT_TYPES,
            before_ns=now_ns - self._settle_ns,
            limit=EVENTS_AT_ONCE,
        )
        said = [one for one in (self._read(event) for event in events) if one is not None]
        self._name([one for one in said if one.raised])
        if said:
            self._traits = device_traits(self._store, self._fleet, self._broker)
        at = list(asdict(events[-1].cursor).values()) if events else held
        take(
            self._store, self._fleet, said, cursor=at, now_ns=now_ns,
            also=lambda connection, told: self._tell(connection, told, now_ns),
        )  # fmt: skip
        write_labels(self._store, self._fleet, now_ns=now_ns)
        return len(events)

    def _read(self, event: EventRow) -> Said | None:
        """What a device's event says; one that says nothing is logged and passed over."""
        data = event.data
        try:
            t_ns = data.get("t_ns", event.received_ns)
            slot, stream = str(data["slot"]), str(data["stream"])
            if (
                not isinstance(t_ns, int)
                or not 0 <= t_ns < 1 << 63
                or max(len(slot), len(stream)) > 63
            ):
                raise ValueError("a time or a name that cannot be")
        except (KeyError, ValueError) as error:
            self._journal.warning("alarm.unreadable", device=event.log.device, reason=str(error))
            return None
        raised = event.type == "alarm.raised"
        return Said(event.log.device, slot, stream, raised, t_ns, data)

    def _name(self, raised: list[Said]) -> None:
        """Say with each alarm what it looks like; in a flood that is not what people ask."""
        if not 0 < len(raised) <= NAMED_AT_ONCE:
            return
        plates = {name: plate for name, _, plate in list_machines(self._store, self._fleet)}
        for one in raised:
            found = None
            if isinstance(one.document.get("t_ns"), int):
                machine = self._measured(one.device, one.stream)
                hz = plates.get(machine, {}).get("shaft_hz")
                shaft_hz = float(hz) if isinstance(hz, float | int) and hz > 0 else None
                found = looks_like(
                    self._store, self._fleet, one.device, one.document, shaft_hz=shaft_hz
                )
            if found is not None:
                one.document["looks"] = found

    def _measured(self, device: str, stream: str) -> str:
        rows = assignments_of(self._store, self._fleet, device=device)
        return next((r.machine for r in rows if r.stream == stream and r.to_ns is None), "")

    def _tell(self, connection: Connection, told: list[Told], now_ns: int) -> None:
        ringing = [self._ringing(one, now_ns) for one in told]
        desk = outbox.read_desk(connection, self._fleet)
        if not ringing and not desk.waiting and desk.flood_ns is None:
            return
        shares = trait_shares(self._traits) if ringing or desk.waiting else {}
        after, sent = notices.step(desk, ringing, now_ns, shares)
        outbox.write(connection, self._fleet, after, sent, self._channels)
        for notice in sent:
            self._journal.info("notice", subject=notice.subject, alarms=notice.count)

    def _ringing(self, told: Told, now_ns: int) -> Ringing:
        row, document = told.row, told.row.document
        traits = dict(self._traits.get(row.device, {}), broker=self._broker, site=row.site)
        model = document.get("model")
        if isinstance(model, dict):
            traits["model"] = f"{model.get('name')} {model.get('version')}"
        score, threshold = document.get("score"), document.get("threshold")
        words = f"{told.what} by {row.device} in slot {row.slot}"
        if isinstance(score, float | int) and isinstance(threshold, float | int):
            words += f": score {score:.4g} over {threshold:.4g}"
        looks = document.get("looks")
        if isinstance(looks, dict) and looks.get("kind") != "unknown":
            words += f"; {looks['words']}"
        return Ringing(
            now_ns, row.id, row.machine or row.device, row.site, told.what, words, traits
        )

    # Commissionings.

    def assess(self, now_ns: int) -> int:
        """Judge what is under way; how many.

        Raises:
            RetryLater: the store is away.
        """
        rows = commissionings.list_commissionings(self._store, self._fleet, under_way=True)
        for row in rows:
            try:
                self._assess(row, now_ns)
            except FieldloopError as error:
                found = {"code": error.code, "words": str(error), "share": 0.0}
                commissionings.judged(
                    self._store, row.id, state="waiting", assessment=found, record=None,
                    now_ns=now_ns,
                )  # fmt: skip
        return len(rows)

    def _assess(self, row: CommissioningRow, now_ns: int) -> None:
        manifest, ref = self._serves(row.device, row.slot)
        plan = records.plan_of(manifest, row.plan)
        if plan is None:
            raise MalformedMessage(
                f"{ref.name} {ref.version} has one threshold for all machines: it needs no "
                "commissioning",
                code="commissioning.model",
            )
        rows = records.gather(
            self._store, self._fleet, row.device, row.slot, ref, t0_ns=row.begun_ns
        )
        in_force = commissionings.in_force(self._store, self._fleet, model_digest=ref.digest)
        peers = records.peers_of(in_force, row.machine, self._cohort(row.machine))
        found = assess(rows.block, plan, peers)
        record = None
        if found.fitted is not None:
            record = records.record_of(rows, found.fitted, plan, row.machine, peers)
        if found.state != row.state:
            self._journal.info(
                "commissioning", machine=row.machine, state=found.state, words=found.words
            )
        commissionings.judged(
            self._store, row.id, state=found.state, assessment=records.to_json(found),
            record=record, now_ns=now_ns,
        )  # fmt: skip

    def _serves(self, device: str, slot: str) -> tuple[Manifest, ModelRef]:
        """The model that is active in a slot, by the device's own report."""
        for service in device_services(self._store, self._fleet, device=device, service=INFERENCE):
            for document in (service.reported or {}).get("slots", []):
                state = from_object(SlotState, document)
                if state.slot == slot and state.active is not None:
                    return self._manifest(state.active), state.active
        raise MalformedMessage(
            f"no model is active in slot {slot} of {device}", code="commissioning.slot"
        )

    def _manifest(self, ref: ModelRef) -> Manifest:
        manifest = find_manifest(self._store, ref.digest)
        if manifest is None:
            raise MalformedMessage(
                f"{ref.name} {ref.version} is not registered", code="model.unknown"
            )
        return manifest

    def _cohort(self, machine: str) -> set[str]:
        """Machines of the same cohort; a machine whose nameplate names none is alone."""
        plates = {name: plate for name, _, plate in list_machines(self._store, self._fleet)}
        cohort = plates.get(machine, {}).get(COHORT)
        return {m for m, plate in plates.items() if cohort and plate.get(COHORT) == cohort}


def device_traits(store: Store, fleet: str, broker: str) -> dict[str, dict[str, str]]:
    """What each device has in common with others: release, broker."""
    found: dict[str, dict[str, str]] = {}
    for row in device_services(store, fleet, service=INFERENCE):
        versions = (row.status or {}).get("versions", {})
        release = versions.get("release") or versions.get("fieldloop-inference") or ""
        models = [
            f"{slot['active']['name']} {slot['active']['version']}"
            for slot in (row.reported or {}).get("slots", [])
            if slot.get("active")
        ]
        traits = {"release": str(release), "broker": broker}
        found[row.device] = traits | ({"model": models[0]} if models else {})
    return found


def trait_shares(traits: dict[str, dict[str, str]]) -> dict[tuple[str, str], float]:
    """Share of devices that have a trait's value."""
    counts = Counter((name, value) for own in traits.values() for name, value in own.items())
    return {key: count / len(traits) for key, count in counts.items()} if traits else {}
